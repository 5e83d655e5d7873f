"""How near one shot comes to the relaxed test crystals, kind by kind, by the settings that users have.

python benchmarks/kinds.py pairs_universal.npz pairs_xmno.npz pairs_generated_?.npz --match \\
    --json benchmarks/results/kinds-PBE.json
python benchmarks/kinds.py pairs_universal.npz pairs_xmno.npz pairs_generated_?.npz --match --model DeepRelax-M3GNet \\
    --json benchmarks/results/kinds-M3GNet.json

Cells of slabs, and of defects that relaxed in a fixed cell, are kept. Nothing is left unchanged where the model expects
to do harm, so that "further off" tells of the network itself; crystals that are refused count as they are. Matching
takes pymatgen 0.01 s a crystal. Of the families as a whole ``accuracy.py`` does it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from model_cards import sample
from never_worse import KINDS, MEAN
from shared import options

from deeprelax_ase import Crystal, Predictor
from deeprelax_ase.data import RelaxationPairs, crystals_of, load_pairs
from deeprelax_ase.data.pairs import SPLITS, concatenate
from deeprelax_ase.evaluation.cached_predictions import Predicted, predict
from deeprelax_ase.evaluation.calibrate import labels_for, uncalibrated
from deeprelax_ase.evaluation.metrics import crystal_errors
from deeprelax_ase.evaluation.results import environment, write_json
from deeprelax_ase.evaluation.structure_matching import structure_matches
from deeprelax_ase.models.loading import load_model
from deeprelax_ase.uncertainty.worsening import ZERO

#: Å, within which coordinates count as found.
NEAR = 0.05
#: How far the mean of the coordinates is off by chance, as the crystals are few.
STANDARD_ERROR = "coordinates standard error"


class HeldOut(NamedTuple):
    """Pairs of test splits, with (n,) arrays.

    Attributes:
        pairs: n of them.
        family: name of the file of each, without ``pairs_``.
        minima: eV/atom, energy of the potential's own minimum: M3GNet's or Nequix-OAM-1's.
        starts: eV/atom, energy of the unrelaxed crystal under Nequix-OAM-1.
        weights: how many test crystals each stands for.
    """

    pairs: RelaxationPairs
    family: np.ndarray
    minima: np.ndarray
    starts: np.ndarray
    weights: np.ndarray

    def take(self, index: np.ndarray) -> HeldOut:
        """Those of the ``index`` or mask."""
        index = np.arange(len(self.pairs))[index]
        return HeldOut(self.pairs.take(torch.from_numpy(index)), *(values[index] for values in self[1:]))


def held_out(files: Sequence[Path], labels: str, *, each: int | None = None, every: int = 1) -> HeldOut:
    """Test crystals of all ``files``.

    Args:
        files: with pairs.
        labels: whose minima.
        each: of every kind in a file at most so many, evenly spaced; all for None.
        every: of files without kinds every so many of the crystals without DFT label.
    """
    parts: list[HeldOut] = []
    for file in files:
        pairs = load_pairs(file, labels=labels)
        index = (pairs.split == SPLITS["test"]).nonzero().squeeze(1)
        pairs = pairs.take(index)
        with np.load(file, allow_pickle=False) as arrays:
            known = arrays["m3gnet_ok"] if labels == "m3gnet" else slice(None)
            minima = arrays["energy_m3gnet" if labels == "m3gnet" else "energy_relaxed"][known][index.numpy()]
            starts = arrays["energy_initial"][known][index.numpy()]
        if (pairs.kind >= 0).all():
            chosen, weights = _spread(pairs.kind.numpy(), each)
        else:  # what is taken carries its place where its split stood
            taken, weights = sample(replace(pairs, split=torch.arange(len(pairs))), every)
            chosen = taken.split.numpy()
        family = np.full(len(chosen), file.stem.removeprefix("pairs_"))
        energies = minima[chosen], starts[chosen]
        parts.append(HeldOut(pairs.take(torch.from_numpy(chosen)), family, *energies, weights))
    pairs, *arrays = zip(*parts, strict=True)
    return HeldOut(concatenate(pairs), *(np.concatenate(values) for values in arrays))


def _spread(kind: np.ndarray, each: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Indices of at most ``each`` crystals of every kind, evenly spaced, and how many each stands for."""
    chosen, weights = [], np.ones(len(kind))
    for number in np.unique(kind):
        own = np.flatnonzero(kind == number)
        few = own[np.linspace(0, len(own) - 1, min(each or len(own), len(own))).round().astype(int)]
        weights[few] = len(own) / len(few)
        chosen.append(few)
    index = np.sort(np.concatenate(chosen))
    return index, weights[index]


def _newer(family: np.ndarray) -> np.ndarray:
    """(n,) of which families are the generated files from ``d`` on, which have all kinds and many oxides."""
    older = np.isin(family, [f"generated_{letter}" for letter in "abc"])
    return np.char.startswith(family, "generated") & ~older


def groups_of(tests: HeldOut) -> dict[str, np.ndarray]:
    """Masks (n,) of the groups that tables tell of, by name; they overlap."""
    pairs, family, dft = tests.pairs, tests.family, tests.pairs.dft.numpy()
    generated, newer = np.char.startswith(family, "generated"), _newer(family)
    oxide = torch.zeros(len(pairs), dtype=torch.bool).index_put((pairs.batch[pairs.numbers == 8],), torch.tensor(True))
    kinds = {name: newer & (pairs.kind.numpy() == number) for number, name in KINDS.items()}
    found = kinds | {
        "oxides of these": newer & oxide.numpy(),
        "above 30 atoms of these": newer & (pairs.counts.numpy() > 30),
        "generated, DFT-labelled": generated & dft,
    }
    for name in ("universal", "xmno"):
        found |= {f"{name}, DFT-labelled": (family == name) & dft, f"{name}, all": family == name}
    return {name: mask for name, mask in found.items() if mask.any()}


def bare(name: str, device: str) -> Predictor:
    """The predictor of a model, without what leaves crystals unchanged."""
    return Predictor(uncalibrated(load_model(name)), device=device)


def predicted(predictor: Predictor, pairs: RelaxationPairs, folder: Path | None = None) -> Predicted:
    """What the ``pairs`` become; as they were where they are refused. The ``folder`` keeps the predictions."""
    kept = pairs.fixed_cell.numpy()
    return predict(predictor, crystals_of(pairs, "initial"), folder, cell_kept=kept, allow_refused=True)


def errors(pairs: RelaxationPairs, crystals: Sequence[Crystal]) -> dict[str, np.ndarray]:
    """Arrays (n,): Å, Å³, and the relative volume."""
    found = crystal_errors(pairs, crystals)
    lengths = np.stack([np.linalg.norm(crystal.cell, axis=1) for crystal in crystals])
    true = torch.linalg.vector_norm(pairs.cell_relaxed, dim=2).numpy()
    keys = ("coordinates", "volume", "relative_volume")
    return {key: found[key] for key in keys} | {"lengths": np.abs(lengths - true).mean(axis=1)}


def row(before: dict[str, np.ndarray], after: dict[str, np.ndarray], weights: np.ndarray) -> dict[str, Any]:
    """What a table says of crystals with errors ``before`` and ``after``."""
    cells: dict[str, Any] = {"crystals": len(weights), "of": round(weights.sum())}
    for side, errors_of in (("start", before), ("end", after)):
        found = {key: values for key, values in errors_of.items() if key != "match"}
        cells[side] = {f"{key} mean": float(np.average(values, weights=weights)) for key, values in found.items()}
        cells[side] |= {f"{key} median": _median(values, weights) for key, values in found.items()}
        cells[side][STANDARD_ERROR] = _standard_error(found["coordinates"], weights)
        cells[side]["near"] = float(np.average(found["coordinates"] <= NEAR, weights=weights))
        if "match" in errors_of and not np.isnan(errors_of["match"]).any():
            cells[side]["match"] = float(np.average(errors_of["match"], weights=weights))
    further = after["coordinates"] > before["coordinates"] + ZERO
    return cells | {"further off": float(np.average(further, weights=weights))}


def _standard_error(values: np.ndarray, weights: np.ndarray) -> float:
    """Of the weighted mean of ``values`` (n,), drawn at random from more crystals of their kind."""
    deviations = weights * (values - np.average(values, weights=weights))
    return float(np.sqrt(np.square(deviations).sum()) / weights.sum())


def _median(values: np.ndarray, weights: np.ndarray) -> float:
    order = values.argsort()
    below = weights[order].cumsum() / weights.sum()
    return float(values[order][np.searchsorted(below, 0.5)])


def matches(pairs: RelaxationPairs, crystals: Sequence[Crystal], told: np.ndarray, jobs: int) -> np.ndarray:
    """(n,) 1 where pymatgen takes the ``crystals`` for the relaxed ones, else 0; nan for those not ``told`` (n,)."""
    index, found = np.flatnonzero(told), np.full(len(pairs), np.nan)
    relaxed = crystals_of(pairs.take(torch.from_numpy(index)), "relaxed")
    made = structure_matches([crystals[i] for i in index.tolist()], relaxed, rmsd=False, jobs=jobs)
    found[index] = [match.same for match in made]
    return found


def mean_of_kinds(rows: dict[str, Any]) -> dict[str, Any]:
    """The row of :data:`MEAN`, by its name; none where kinds are missing from ``rows``."""
    if not set(KINDS.values()) <= rows.keys():
        return {}
    kinds = [rows[kind] for kind in KINDS.values()]
    return {MEAN: _mean(kinds) | {key: sum(kind[key] for kind in kinds) for key in ("crystals", "of")}}


def _mean(rows: Sequence[Any]) -> Any:
    """The mean of rows, number by number."""
    if isinstance(rows[0], dict):
        each = {key: [row[key] for row in rows] for key in rows[0]}
        errors = {key: math.hypot(*values) / len(rows) for key, values in each.items() if key == STANDARD_ERROR}
        return {key: _mean(values) for key, values in each.items()} | errors
    return float(np.mean(rows))


def main() -> None:
    """Measure, and write JSON."""
    match = {"action": "store_true", "help": "match rates too, of the groups that are not whole families"}
    names = ("data", "--model", "--each", "--every", "--jobs", "--cache", "--device", "--json")
    given = options(__doc__, *names, match=match).parse_args()
    predictor = bare(given.model, given.device)
    labels = labels_for(predictor.model.card.level)
    tests = held_out(given.data, labels, each=given.each, every=given.every)
    ends = predicted(predictor, tests.pairs, given.cache).crystals
    starts, groups, rows = crystals_of(tests.pairs, "initial"), groups_of(tests), {}
    before, after = errors(tests.pairs, starts), errors(tests.pairs, ends)
    if given.match:
        told = np.any([mask for name, mask in groups.items() if not name.endswith(", all")], axis=0)
        before["match"], after["match"] = (matches(tests.pairs, each, told, given.jobs) for each in (starts, ends))
    for name, mask in groups.items():
        here = [{key: values[mask] for key, values in errors_of.items()} for errors_of in (before, after)]
        rows[name] = row(*here, tests.weights[mask])
    rows |= mean_of_kinds(rows)
    facts = {"environment": environment(), "model": predictor.model_name, "recycles": predictor.recycles}
    write_json(given.json, {**facts, "each": given.each, "every": given.every, "rows": rows})


if __name__ == "__main__":
    main()
