"""What a set of relaxation pairs is like, and what in it looks wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deeprelax_ase.data.dataset import PairDataset, group_names
from deeprelax_ase.data.groups import displacement_sizes
from deeprelax_ase.data.pairs import LEVELS, SPLITS, Pairs
from deeprelax_ase.graph.record import rows_times_matrices
from deeprelax_ase.graph.settings import GraphSettings
from deeprelax_ase.graph.torch_neighbors import neighbor_graph

#: Å, nearer than which atoms overlap, and further than which from any other one is alone.
OVERLAP, ALONE = 0.7, 5.0

#: Logarithm of the volume ratio, and Å of mean displacement, beyond which a relaxation is a large one.
LARGE_VOLUME, LARGE_MOVE = 0.6, 1.2

#: Radians beyond which a relaxed crystal was turned.
TURNED = 0.05

#: Å and relative volume, below which nothing relaxed at all.
STILL = 1e-4

#: Quantiles that distributions are told by.
QUANTILES = {"min": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "max": 1.0}

#: Å and relative volume to which fingerprints of crystals are rounded.
_ROUNDED = 0.02

#: Pairs whose graphs are built at once.
_AT_ONCE = 2000


@dataclass(frozen=True)
class Report:
    """What :func:`check` finds.

    Attributes:
        counts: pairs and atoms, by split and level, refused ones, how pairs were matched.
        elements: pairs that hold each element, by symbol.
        distributions: quantiles of sizes, displacements (Å), volume changes and strains.
        duplicates: groups of names of pairs with the same unrelaxed and the same relaxed crystal.
        leakage: pairs outside training whose crystal, formula or chemical system occurs in training, by part.
        suspicious: names by what is suspicious about them.
        refused: reasons, with the names of the pairs they hold for.
    """

    counts: dict[str, Any]
    elements: dict[str, int]
    distributions: dict[str, dict[str, float]]
    duplicates: list[list[str]]
    leakage: dict[str, dict[str, int]]
    suspicious: dict[str, list[str]]
    refused: dict[str, list[str]] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """Whether there is nothing to look into: formulas and systems in two parts are for the user to judge."""
        same = any(row["same crystal"] for row in self.leakage.values())
        return not (self.duplicates or same or any(self.suspicious.values()) or self.refused)


def check(dataset: PairDataset) -> Report:
    """Look through a data set; a minute for 50,000 pairs."""
    pairs = dataset.pairs.double()
    prints = [fingerprints(pairs, side) for side in ("initial", "relaxed")]
    return Report(
        counts=_counts(dataset),
        elements=_elements(pairs),
        distributions=_distributions(pairs),
        duplicates=_duplicates(dataset.names, list(zip(*prints, strict=True))),
        leakage=_leakage(dataset, *prints),
        suspicious=_suspicious(dataset, pairs),
        refused=_refused(dataset),
    )


def _counts(dataset: PairDataset) -> dict[str, Any]:
    pairs = dataset.pairs
    return {
        "pairs": len(pairs),
        "atoms": len(pairs.numbers),
        "refused": len(dataset.refused),
        "splits": {name: int((pairs.split == index).sum()) for name, index in SPLITS.items()},
        "levels": {name: n for i, name in enumerate(LEVELS) if (n := int((pairs.level == i).sum()))},
        "matched": dict(Counter(dataset.how)),
    }


def _elements(pairs: Pairs) -> dict[str, int]:
    from ase.data import chemical_symbols

    seen = torch.unique(torch.stack([pairs.batch, pairs.numbers]), dim=1)[1].bincount()
    return {chemical_symbols[z]: int(seen[z]) for z in seen.nonzero().squeeze(1).tolist()}


def _distributions(pairs: Pairs) -> dict[str, dict[str, float]]:
    stretch = torch.linalg.svdvals(torch.linalg.solve(pairs.cell_initial, pairs.cell_relaxed)).log()
    columns = {
        "atoms": pairs.counts.double(),
        "mean displacement (Å)": mean_displacements(pairs),
        "largest displacement (Å)": displacement_sizes(pairs),
        "volume ratio": stretch.sum(dim=1).exp(),
        "largest strain": stretch.abs().amax(dim=1),
    }
    return {
        name: {label: float(np.quantile(values.numpy(), q)) for label, q in QUANTILES.items()}
        | {"mean": float(values.mean())}
        for name, values in columns.items()
    }


def mean_displacements(pairs: Pairs) -> Tensor:
    """(G,) Å, mean displacement of the atoms of each crystal beyond being carried along by the cell."""
    moved = rows_times_matrices(pairs.scaled_relaxed - pairs.scaled_initial, pairs.cell_relaxed[pairs.batch])
    return torch.zeros(len(pairs), dtype=moved.dtype).index_add(0, pairs.batch, moved.norm(dim=1)) / pairs.counts


def fingerprints(pairs: Pairs, side: str) -> list[tuple]:
    """What two crystals share that are the same: composition, volume per atom, and distances to near neighbours.

    Distances are those to the twelve nearest neighbours of each element's atoms, in the mean, rounded: cheap, and blind
    to the choice of cell, order and origin. Different crystals hardly ever share them.
    """
    cells, scaled = getattr(pairs, f"cell_{side}"), getattr(pairs, f"scaled_{side}")
    positions = rows_times_matrices(scaled, cells[pairs.batch])
    found: list[tuple] = []
    for chunk in torch.arange(len(pairs)).split(_AT_ONCE):
        part, atoms = pairs.take(chunk), pairs.atoms_of(chunk)
        settings = GraphSettings(cutoff=6.0, max_neighbors=12, max_in_cell=0)
        graph = neighbor_graph(part.numbers, positions[atoms], cells[chunk], part.batch, settings=settings)
        found += _prints(part, cells[chunk], _mean_distances(graph))
    return found


def _mean_distances(graph: Any) -> Tensor:
    """(N,) Å, mean distance of each atom to its neighbours; zero without any."""
    from deeprelax_ase.graph.record import edge_vectors

    lengths, to = edge_vectors(graph).norm(dim=1), graph.edge_index[1]
    sums = torch.zeros(graph.num_atoms, dtype=lengths.dtype).index_add(0, to, lengths)
    return sums / torch.bincount(to, minlength=graph.num_atoms).clamp_min(1)


def _prints(pairs: Pairs, cells: Tensor, distances: Tensor) -> list[tuple]:
    volumes = torch.linalg.det(cells).abs() / pairs.counts
    rounded = (volumes.log() / (_ROUNDED / 2)).round().long().tolist()
    result = []
    parts = zip(
        pairs.numbers.split(pairs.counts.tolist()), distances.split(pairs.counts.tolist()), rounded, strict=True
    )
    for numbers, lengths, volume in parts:
        kinds, places = numbers.unique(return_inverse=True)
        amounts = places.bincount()
        divisor = int(np.gcd.reduce(amounts.numpy()))
        means = torch.zeros(len(kinds), dtype=lengths.dtype).index_add(0, places, lengths) / amounts
        spread = tuple((means / _ROUNDED).round().long().tolist())
        result.append((tuple(kinds.tolist()), tuple((amounts // divisor).tolist()), volume, spread))
    return result


def _duplicates(names: tuple[str, ...], prints: list[tuple]) -> list[list[str]]:
    groups: dict[tuple, list[str]] = {}
    for name, mark in zip(names, prints, strict=True):
        groups.setdefault(mark, []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def _leakage(dataset: PairDataset, initial: list[tuple], relaxed: list[tuple]) -> dict[str, dict[str, int]]:
    """Of the pairs of each part that is not for training, how many have something in common with training."""
    marks: dict[str, list[set]] = {
        "same crystal": [{("initial", a), ("relaxed", b)} for a, b in zip(initial, relaxed, strict=True)],
        "same formula": [{name} for name in group_names(dataset, "composition")],
        "same chemical system": [{name} for name in group_names(dataset, "chemical system")],
    }
    split = dataset.pairs.split.tolist()
    result: dict[str, dict[str, int]] = {}
    for part, index in SPLITS.items():
        members = [n for n, s in enumerate(split) if s == index]
        if part == "train" or not members:
            continue
        result[part] = {"pairs": len(members)}
        for kind, sets in marks.items():
            trained = set().union(*(sets[n] for n, s in enumerate(split) if s == SPLITS["train"]))
            result[part][kind] = sum(bool(sets[n] & trained) for n in members)
    return result


def _suspicious(dataset: PairDataset, pairs: Pairs) -> dict[str, list[str]]:
    volume = (torch.linalg.det(pairs.cell_relaxed).abs() / torch.linalg.det(pairs.cell_initial).abs()).log()
    moved, largest = mean_displacements(pairs), displacement_sizes(pairs)
    stretch = torch.linalg.svdvals(torch.linalg.solve(pairs.cell_initial, pairs.cell_relaxed)).log().abs().amax(dim=1)
    masks = {
        f"|ln V ratio| above {LARGE_VOLUME}": volume.abs() > LARGE_VOLUME,
        f"mean displacement above {LARGE_MOVE} Å": moved > LARGE_MOVE,
        "nothing relaxed": (largest < STILL) & (stretch < STILL),
        "relaxed crystal was turned": torch.tensor(dataset.turned or [0.0] * len(pairs)) > TURNED,
        **_distances(pairs),
    }
    found = {name: [dataset.names[n] for n in mask.nonzero().squeeze(1).tolist()] for name, mask in masks.items()}
    return {name: names for name, names in found.items() if names}


def _distances(pairs: Pairs) -> dict[str, Tensor]:
    """Masks (G,) of crystals with atoms on top of each other, or far from all others."""
    from deeprelax_ase.graph.record import edge_vectors

    masks: dict[str, Tensor] = {}
    for side in ("initial", "relaxed"):
        cells, scaled = getattr(pairs, f"cell_{side}"), getattr(pairs, f"scaled_{side}")
        positions = rows_times_matrices(scaled, cells[pairs.batch])
        overlapping, alone = (torch.zeros(len(pairs), dtype=torch.bool) for _ in range(2))
        for chunk in torch.arange(len(pairs)).split(_AT_ONCE):
            part, atoms = pairs.take(chunk), pairs.atoms_of(chunk)
            settings = GraphSettings(cutoff=ALONE, max_neighbors=1, max_in_cell=0)
            graph = neighbor_graph(part.numbers, positions[atoms], cells[chunk], part.batch, settings=settings)
            lengths, to = edge_vectors(graph).norm(dim=1), graph.edge_index[1]
            nearest = torch.full((len(part.numbers),), torch.inf, dtype=lengths.dtype)
            nearest = nearest.scatter_reduce(0, to, lengths, "amin")
            for mask, bad in ((overlapping, nearest < OVERLAP), (alone, nearest.isinf())):
                mask[chunk[part.batch[bad].unique()]] = True
        word = "unrelaxed" if side == "initial" else "relaxed"
        masks |= {f"overlapping atoms, {word}": overlapping, f"an atom alone, {word}": alone}
    return masks


def _refused(dataset: PairDataset) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for refused in dataset.refused:
        reasons.setdefault(refused.reason, []).append(refused.name)
    return reasons
