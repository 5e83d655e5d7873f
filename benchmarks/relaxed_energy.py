"""How near the predicted energies of relaxed crystals are, and the keep-or-discard choices that they get right.

DEEPRELAX_M3GNET=path/to/M3GNet-MP-2021.2.8-PES DEEPRELAX_NEQUIX=nequix-oam-1.pt PYTHONPATH=benchmarks \\
    python benchmarks/relaxed_energy.py pairs_universal.npz pairs_xmno.npz pairs_generated_?.npz \\
    --json benchmarks/results/relaxed_energy.json

Energies are those of Nequix-OAM-1, of the crystals for which the package tells one. ``--write`` fits the factors of the
bounds to the validation crystals, and writes them into the model's card; test crystals are measured either way. A
choice is whether a crystal lies below a limit: the best other crystal of its composition among the test crystals, or
else the median of the validation crystals of its kind, of energies less those of the elements. Those within 0.05
eV/atom of the limit are the hard ones. M3GNet's energies are put onto the scale of Nequix by energies of the elements,
fitted to training crystals at their minima.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kinds import MEAN, HeldOut, bare, groups_of, held_out, predicted
from never_worse import KINDS
from shared import options
from under_potential import energies_under

from deeprelax_ase.data import RelaxationPairs, load_pairs
from deeprelax_ase.evaluation.cached_predictions import Predicted
from deeprelax_ase.evaluation.results import environment, write_json
from deeprelax_ase.models.card import ModelCard
from deeprelax_ase.models.loading import load_model
from deeprelax_ase.models.model import Model
from deeprelax_ase.models.registry import card_file_of
from deeprelax_ase.uncertainty.relaxed_energy import ENERGY_KINDS, EnergyLaw

#: eV/atom: crystals so near a limit are the hard ones; crystals of one composition that differ by less are one.
NEAR, SAME = 0.05, 0.005

#: Of groups of fewer crystals with an energy there is no row.
LEAST = 10

#: What ``get_batched`` takes.
POTENTIALS = {"M3GNet": "m3gnet", "Nequix": "nequix_torch_sim:nequix"}


def shares(pairs: RelaxationPairs) -> np.ndarray:
    """(n, 119) share of each element in the atoms of each crystal."""
    found = np.zeros((len(pairs), 119))
    np.add.at(found, (pairs.batch.numpy(), pairs.numbers.numpy()), 1)
    return found / found.sum(axis=1, keepdims=True)


def best_others(tests: HeldOut) -> np.ndarray:
    """(n,) eV/atom, the lowest minimum of another crystal of the same composition; nan where there is none."""
    of_composition: dict[bytes, list[int]] = {}
    for number, row in enumerate(shares(tests.pairs).round(6)):
        of_composition.setdefault(row.tobytes(), []).append(number)
    found = np.full(len(tests.minima), np.nan)
    for index in of_composition.values():
        energies = tests.minima[index]
        for number, energy in zip(index, energies, strict=True):
            others = energies[np.abs(energies - energy) > SAME]
            found[number] = others.min() if len(others) else np.nan
    return found


def nequix_less_m3gnet(files: Sequence[Path]) -> np.ndarray:
    """(119,) eV, what an atom of each element adds to M3GNet's energy to make it Nequix's, by training crystals."""
    compositions, differences = [], []
    for file in files:
        with np.load(file, allow_pickle=False) as arrays:
            if "m3gnet_ok" not in arrays:
                continue
            fine = arrays["m3gnet_ok"] & (arrays["split"] == 0)
            differences.append((arrays["energy_relaxed"] - arrays["energy_m3gnet"])[fine])
        compositions.append(shares(load_pairs(file).take(torch.from_numpy(np.flatnonzero(fine)))))
    return np.linalg.lstsq(np.concatenate(compositions), np.concatenate(differences), rcond=None)[0]


def error_row(errors: np.ndarray, bounds: np.ndarray) -> dict[str, Any]:
    """What a table says of (n,) absolute ``errors`` of energies and their ``bounds``, in eV/atom."""
    return {
        "crystals": len(errors),
        "median": float(np.median(errors)),
        "mean": float(errors.mean()),
        "p90": float(np.percentile(errors, 90)),
        "within the bound": float((errors <= bounds).mean()),
        "median bound": float(np.median(bounds)),
    }


def choice_rows(truth: np.ndarray, limits: np.ndarray, estimates: dict[str, np.ndarray], bounds: np.ndarray) -> Any:
    """Rows of choices: of all crystals that have ``limits``, and of those near them."""
    parts = {"all": np.isfinite(limits), "near": np.abs(truth - limits) <= NEAR}
    return {name: _choice_row(truth, limits, estimates, bounds, part) for name, part in parts.items()}


def _choice_row(
    truth: np.ndarray, limits: np.ndarray, estimates: dict[str, np.ndarray], bounds: np.ndarray, near: np.ndarray
) -> dict[str, Any]:
    """Shares of right choices by each estimate and by the head's interval, of the ``near`` crystals."""
    truth, limits, bounds = truth[near], limits[near], bounds[near]
    kept = truth <= limits
    row: dict[str, Any] = {"crystals": int(near.sum()), "kept": float(kept.mean()) if near.any() else None}
    if near.any():
        row["right"] = {name: float(((e[near] <= limits) == kept).mean()) for name, e in estimates.items()}
        head = estimates["head"][near]
        told = np.abs(head - limits) > bounds
        right = (head <= limits) == kept
        row["interval"] = {"right": float((told & right).mean()), "wrong": float((told & ~right).mean())}
    return row


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation."""
    return float(np.corrcoef(a.argsort().argsort(), b.argsort().argsort())[0, 1])


def told_of(found: Predicted) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Arrays (n,): energies in eV/atom, nan where none are told; their Laplace scales; numbers of the kinds."""
    return *found.energies.T.astype(float), found.error_features().kinds()


def all_of(files: Sequence[Path], split: int) -> tuple[RelaxationPairs, np.ndarray]:
    """The pairs of a ``split`` of all ``files``, and their (n,) energies when relaxed."""
    from deeprelax_ase.data.pairs import concatenate

    parts, energies = [], []
    for file in files:
        pairs = load_pairs(file)
        index = (pairs.split == split).nonzero().squeeze(1)
        with np.load(file, allow_pickle=False) as arrays:
            energies.append(arrays["energy_relaxed"][index.numpy()].astype(float))
        parts.append(pairs.take(index))
    return concatenate(parts), np.concatenate(energies)


def write_law(model: Model, name: str, files: Sequence[Path], cache: Path | None) -> EnergyLaw:
    """Fit the law to the validation crystals of ``files``, and write it into the card called ``name``."""
    pairs, truth = all_of(files, 1)
    energies, scales, kinds = told_of(predicted(bare(name, "auto"), pairs, cache))
    told = np.isfinite(energies)
    errors = np.abs(energies - truth)[told]
    law = EnergyLaw.fit(str(model.card.energy["potential"]), errors, scales[told], kinds[told])
    found = {"factors": dict(zip(ENERGY_KINDS, law.factors, strict=True)), "crystals": len(errors)}
    card = ModelCard.read(card_file_of(name))
    replace(card, energy=card.energy | found).write(card_file_of(name))
    return law


def estimates_of(tests: HeldOut, found: Predicted, given: Any) -> dict[str, np.ndarray]:
    """The head's energies (n,) in eV/atom, and what takes a call of a potential."""
    estimates = {"head": found.energies[:, 0]}
    for name, potential in POTENTIALS.items():
        estimates[name] = energies_under(potential, found.crystals, given.cache)
    estimates["M3GNet"] = estimates["M3GNet"] + shares(tests.pairs) @ nequix_less_m3gnet(given.data)
    return {**estimates, "unrelaxed": tests.starts.astype(float)}


def formation_limits(tests: HeldOut, elements: np.ndarray, files: Sequence[Path]) -> np.ndarray:
    """(n,) eV/atom, below which half of the validation crystals of the kind lie once the ``elements`` are taken off."""
    pairs, energies = all_of(files, 1)
    energies, kinds = energies - shares(pairs)[:, : len(elements)] @ elements, pairs.kind.numpy()
    medians = {kind: float(np.median(energies[kinds == kind])) for kind in np.unique(kinds)}
    own = np.array([medians[kind] for kind in tests.pairs.kind.tolist()])
    return own + shares(tests.pairs)[:, : len(elements)] @ elements


def main() -> None:
    """Measure, and write JSON."""
    write = {"action": "store_true", "help": "fit the bounds to validation crystals, and write them into the card"}
    given = options(__doc__, "data", "--model", "--each", "--every", "--cache", "--json", write=write).parse_args()
    model = load_model(given.model)
    if model.energy is None:
        raise SystemExit(f"{given.model} predicts no energies: name a model that does")
    fitted = write_law(model, given.model, given.data, given.cache) if given.write else None
    law = fitted or EnergyLaw.of_card(model.card.energy)
    assert law is not None
    tests = held_out(given.data, "relaxed", each=given.each, every=given.every)
    found = predicted(bare(given.model, "auto"), tests.pairs, given.cache)
    energies, scales, kinds = told_of(found)
    bounds, truth = law.bounds(scales, kinds), tests.minima.astype(float)
    estimates, others = estimates_of(tests, found, given), best_others(tests)
    alone = np.where(np.isnan(others), formation_limits(tests, model.energy.elements.numpy(), given.data), np.nan)
    told, groups = np.isfinite(energies), groups_of(tests) | {"all": np.ones(len(truth), dtype=bool)}
    groups["all of the nine kinds"] = np.any([groups[kind] for kind in KINDS.values()], axis=0)
    rows, not_told = {}, {name: int((mask & ~told).sum()) for name, mask in groups.items()}
    for name, mask in ((name, mask & told) for name, mask in groups.items() if (mask & told).sum() >= LEAST):
        own, errors = {key: values[mask] for key, values in estimates.items()}, np.abs(energies - truth)[mask]
        rows[name] = {
            **error_row(errors, bounds[mask]),
            "rank": spearman(errors, scales[mask]),
            "medians": {key: float(np.nanmedian(np.abs(values - truth[mask]))) for key, values in own.items()},
            "composition": choice_rows(truth[mask], others[mask], own, bounds[mask]),
            "formation": choice_rows(truth[mask], alone[mask], own, bounds[mask]),
        }
    of_kinds = [rows[kind] for kind in KINDS.values() if kind in rows]
    mean = {key: float(np.mean([row[key] for row in of_kinds])) for key in ("median", "mean", "p90")}
    facts = {
        "environment": environment(),
        "model": given.model,
        "near": NEAR,
        "same": SAME,
        MEAN: mean,
        "not told": not_told,
    }
    facts |= {"factors": dict(zip(ENERGY_KINDS, law.factors, strict=True)), "not told": not_told}
    write_json(given.json, {**facts, "rows": rows})


if __name__ == "__main__":
    main()
