"""What the limits of geometry are measured by: vacuum, slabs, and how near atoms come, in pairs of known kinds.

python benchmarks/geometry_limits.py shared/data/pairs_*.npz --json benchmarks/results/geometry_limits.json

Ends with an error where a constant of the package no longer fits what it finds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from geometry_limits_page import DOUBTS, KINDS, LAYERS, OTHERS, RELAXED, SLABS, WORDS
from shared import options, read

from deeprelax_ase import Predictor
from deeprelax_ase.data import RelaxationPairs, load_pairs
from deeprelax_ase.data.batches import Batches, pair_graph
from deeprelax_ase.data.pairs import crystals_of
from deeprelax_ase.evaluation.results import environment, write_json
from deeprelax_ase.geometry import vacuum
from deeprelax_ase.geometry.contacts import (
    CROWDED,
    NEAREST,
    TOLERATED,
    colliding,
    covalent_radii,
    crowded,
    nearest_kept,
)
from deeprelax_ase.geometry.vacuum import SLAB, vacuum_of, widest_gaps
from deeprelax_ase.graph import GraphSettings, edge_vectors, neighbor_pairs
from deeprelax_ase.graph.crystal_graph import rows_times_matrices
from deeprelax_ase.models.registry import DEFAULT_MODEL
from deeprelax_ase.prediction.record import Prediction

REACHES = (
    *("NEAR", "NEAR_MIXED", "NEAR_METALS", "OPEN", "OPEN_MIXED", "OPEN_METALS"),
    *("PACKED", "TOUCHING", "TOUCHING_MIXED", "HELD"),
)
ATOMS_AT_ONCE = 4000

#: Å, of the vacuum that slabs are left with.
LITTLE = (3.0, 3.5, 4.0, 4.5, 5.0)

#: Å, further than any two atoms of relaxed crystals are that are nearest for their elements.
FAR = 3.3


def vacuum_found(pairs: RelaxationPairs) -> dict[str, np.ndarray]:
    """What ``Vacuum`` holds of each unrelaxed crystal, and whether it is crowded."""
    found: dict[str, list[torch.Tensor]] = {}
    for chunk in Batches(pairs.counts, ATOMS_AT_ONCE):
        graph = pair_graph(pairs.take(chunk), GraphSettings(max_in_cell=0))
        vectors = edge_vectors(graph)
        close = crowded(graph, torch.linalg.vector_norm(vectors, dim=1))
        for name, values in {**vacuum_of(graph, vectors)._asdict(), "crowded": close}.items():
            found.setdefault(name, []).append(values)
    return {name: torch.cat(values).numpy() for name, values in found.items()}


def by_kind(pairs: RelaxationPairs, per_kind: int) -> tuple[dict[str, dict[str, float]], dict[int, np.ndarray]]:
    """Shares of what the crystals of each kind are taken for, and the thicknesses of layers and slabs.

    Unrelaxed ones; the others relaxed too.
    """
    generator = torch.Generator().manual_seed(0)
    groups = {name: (pairs.kind == kind).nonzero().squeeze(1) for kind, name in KINDS.items()}
    groups[OTHERS] = (~torch.isin(pairs.kind, torch.tensor(list(KINDS)))).nonzero().squeeze(1)
    shares, thicknesses, parts = {}, {}, {}
    for name, members in groups.items():
        parts[name] = pairs.take(members[torch.randperm(len(members), generator=generator)[:per_kind]])
    others = parts[OTHERS]
    ends = {"fractional_initial": others.fractional_relaxed, "cell_initial": others.cell_relaxed}
    parts[RELAXED] = replace(others, **ends)
    for name, part in parts.items():
        found = vacuum_found(part)
        directions, thickness = found["directions"], found["thickness"]
        shares[name] = {word: float((directions == n).mean()) for n, word in enumerate(WORDS)}
        shares[name] |= {doubt: float(found[doubt].mean()) for doubt in DOUBTS}
        shares[name]["any doubt"] = float(np.any([found[doubt] for doubt in DOUBTS], axis=0).mean())
        shares[name]["crystals"] = len(part)
        thicknesses[name] = thickness[directions == 1]
    return shares, {kind: thicknesses[name] for kind, name in KINDS.items()}


def slab_limit(layers: np.ndarray, slabs: np.ndarray) -> dict[str, float]:
    """Where as many layers are thicker as slabs are thinner, and what :data:`SLAB` makes of them."""
    steps = np.arange(2.0, 12.0, 0.05)
    balance = [abs((layers > step).mean() - (slabs <= step).mean()) for step in steps]
    return {
        "equal errors at (Å)": float(steps[int(np.argmin(balance))]),
        "SLAB (Å)": SLAB,
        "layers taken for slabs": float((layers > SLAB).mean()),
        "slabs taken for layers": float((slabs <= SLAB).mean()),
        "layers, median (Å)": float(np.median(layers)),
        "slabs, median (Å)": float(np.median(slabs)),
    }


def with_little_vacuum(pairs: RelaxationPairs, width: float) -> RelaxationPairs:
    """Unrelaxed slabs, with so many Å from face to face."""
    fractional, cell = pairs.fractional_initial.clone(), pairs.cell_initial.clone()
    spacings = 1 / torch.linalg.vector_norm(torch.linalg.inv(cell).mT, dim=2)
    axes = (widest_gaps(fractional, pairs.batch, len(pairs)) * spacings).argmax(dim=1).tolist()
    for n, (atoms, axis) in enumerate(
        zip(torch.arange(len(fractional)).split(pairs.counts.tolist()), axes, strict=True)
    ):
        heights = fractional[atoms, axis] % 1
        order = heights.sort().values
        gaps = torch.cat([order[1:], order[:1] + 1]) - order
        top = int(gaps.argmax())
        fractional[atoms, axis] = (heights - order[(top + 1) % len(order)]) % 1
        positions = fractional[atoms] @ cell[n]
        normal = torch.linalg.inv(cell[n])[:, axis] * spacings[n, axis]
        cell[n, axis] -= (gaps[top] * spacings[n, axis] - width) * normal
        fractional[atoms] = positions @ torch.linalg.inv(cell[n])
    return replace(pairs, fractional_initial=fractional, cell_initial=cell)


def squeezed(pairs: RelaxationPairs, per_kind: int) -> dict[str, dict[str, float]]:
    """What slabs are taken for, by the vacuum that they are left with."""
    members = (pairs.kind == SLABS).nonzero().squeeze(1)
    slabs = pairs.take(members[torch.randperm(len(members), generator=torch.Generator().manual_seed(0))[:per_kind]])
    rows = {}
    for width in LITTLE:
        found = vacuum_found(with_little_vacuum(slabs, width))
        vacuum, doubted = found["directions"] > 0, np.any([found[doubt] for doubt in DOUBTS], axis=0)
        rows[f"{width:g}"] = {"vacuum": float(vacuum.mean()), "doubted": float((doubted & ~vacuum).mean())}
        rows[f"{width:g}"]["crystal"] = float((~doubted & ~vacuum).mean())
    return rows


def doubtful(pairs: RelaxationPairs, per_group: int) -> dict[str, dict[str, float]]:
    """How far volumes of the default model are off in test crystals that are doubtful by their geometry, and in others.

    Of crystals that the model calls out of distribution for other reasons too: geometry is not alone in doubting them.
    """
    pairs = pairs.take(((pairs.split == 2) & ~torch.isin(pairs.kind, torch.tensor(list(KINDS)))).nonzero().squeeze(1))
    found = vacuum_found(pairs)
    groups = {word: found[doubt] for doubt, word in DOUBTS.items()}
    groups["none of these"] = (found["directions"] == 0) & ~np.any(list(groups.values()), axis=0)
    predictor, rows = Predictor(device="cpu"), {}
    for name, members in groups.items():
        chosen = np.random.default_rng(0).permutation(np.flatnonzero(members))[:per_group]
        part = pairs.take(torch.from_numpy(np.sort(chosen)))
        relaxed = torch.linalg.det(part.cell_relaxed).tolist()
        made = predictor.predict_many(crystals_of(part, "initial")) if len(part) else iter(())
        off = [
            (abs(p.initial.volume / volume - 1), abs(p.relaxed.volume / volume - 1), p.error.volume)
            for p, volume in zip(made, relaxed, strict=True)
            if isinstance(p, Prediction) and p.error is not None
        ]
        start, predicted, expected = (float(np.mean(column)) for column in zip(*off, strict=True)) if off else [0.0] * 3
        rows[name] = {"crystals": len(off), "start": start, "predicted": predicted, "expected": expected}
    return rows


def nearest(pairs: RelaxationPairs) -> dict[str, Any]:
    """The shortest distances of each element in relaxed crystals, as shares of the sum of covalent radii."""
    radii, training = covalent_radii(), pairs.split == 0
    least = torch.full_like(radii, torch.inf)
    unrelaxed = torch.full((len(pairs),), torch.inf)
    kept = nearest_kept()
    collided = torch.zeros(len(pairs), dtype=torch.bool)
    for chunk in Batches(pairs.counts, ATOMS_AT_ONCE):
        part = pairs.take(chunk)
        batch, numbers = part.batch, part.numbers
        positions = rows_times_matrices(part.fractional_relaxed, part.cell_relaxed[batch])
        found = neighbor_pairs(positions, part.cell_relaxed, batch, cutoff=FAR)
        i, j = found.destination, found.source
        shares = found.distances / (radii[numbers[i]] + radii[numbers[j]])
        learnt = training[chunk][batch[i]]
        for end in (i, j):
            least.scatter_reduce_(0, numbers[end][learnt], shares[learnt], "amin")
        collided[chunk] = colliding(numbers, positions, part.cell_relaxed, batch)
        starts = rows_times_matrices(part.fractional_initial, part.cell_initial[batch])
        found = neighbor_pairs(starts, part.cell_initial, batch, cutoff=FAR)
        ratios = (found.distances / kept[numbers[found.destination], numbers[found.source]]).to(unrelaxed)
        unrelaxed[chunk] = unrelaxed[chunk].scatter_reduce(0, batch[found.destination], ratios, "amin")
    known = torch.isfinite(least)
    return {
        "least": {chemical_symbols[z]: round(float(least[z]), 4) for z in known.nonzero().squeeze(1).tolist()},
        "nearest in unrelaxed training crystals, share of that": round(float(unrelaxed[training].min()), 4),
        "unrelaxed crystals that are crowded": {
            "training": int((unrelaxed[training] < CROWDED).sum()),
            "validation and test": int((unrelaxed[~training] < CROWDED).sum()),
        },
        "relaxed crystals that would be refused": {
            "training": int(collided[training].sum()),
            "of": int(training.sum()),
            "validation and test": int(collided[~training].sum()),
            "of them": int((~training).sum()),
        },
    }


def volumes(pairs: RelaxationPairs) -> dict[str, float]:
    """How much volumes change as crystals relax: the range that pairs were kept in when they were made."""
    ratios = (torch.linalg.det(pairs.cell_relaxed) / torch.linalg.det(pairs.cell_initial))[pairs.split == 0].numpy()
    return {f"{q:g}": float(np.quantile(ratios, q)) for q in (0, 0.001, 0.5, 0.999, 1)}


def outdated(found: dict[str, Any]) -> list[str]:
    """Why constants do not fit what was found."""
    measured = found["nearest"]["least"]
    wrong = [
        f"NEAREST of {symbol} is {NEAREST[chemical_symbols.index(symbol) - 1]}, found {share}"
        for symbol, share in measured.items()
        if not 0 <= share - NEAREST[chemical_symbols.index(symbol) - 1] < 2e-3
    ]
    closest = found["nearest"]["nearest in unrelaxed training crystals, share of that"]
    if not 0 <= closest - CROWDED < 0.01:
        wrong.append(f"CROWDED is {CROWDED}, found {closest}")
    best = found["slabs"]["equal errors at (Å)"]
    return wrong + ([f"SLAB is {SLAB} Å, found {best:.2f} Å"] if abs(best - SLAB) > 0.3 else [])


def main() -> None:
    per_kind = {"type": int, "default": 12000, "help": "training crystals looked at for vacuum"}
    per_doubt = {"type": int, "default": 150, "help": "test crystals predicted of each doubt"}
    keep = {"action": "store_true", "help": "how near atoms come stands in the JSON already"}
    given = options(__doc__, "data", "--json", per_kind=per_kind, per_doubt=per_doubt, keep_nearest=keep).parse_args()
    pairs = load_pairs(given.data)
    training = pairs.take((pairs.split == 0).nonzero().squeeze(1))
    kinds, thickness = by_kind(training, given.per_kind)
    found = {
        "environment": environment(),
        "Å": {name: getattr(vacuum, name) for name in REACHES},
        "LOOSE": vacuum.LOOSE,
        "gap": {"GAP": vacuum.GAP, "WIDER": vacuum.WIDER, "THICK": vacuum.THICK},
        "TOLERATED": TOLERATED,
        "CROWDED": CROWDED,
        "kinds": kinds,
        "slabs": slab_limit(thickness[LAYERS], thickness[SLABS]),
        "squeezed": squeezed(training, given.per_kind // 4),
        "nearest": read(given.json.parent, given.json.stem)["nearest"] if given.keep_nearest else nearest(pairs),
        "volume ratios, quantiles": volumes(pairs),
        "model": DEFAULT_MODEL,
        "doubtful": doubtful(pairs, given.per_doubt),
    }
    write_json(given.json, found)
    if wrong := outdated(found):
        raise SystemExit("constants to be set again:\n" + "\n".join(wrong))


if __name__ == "__main__":
    main()
