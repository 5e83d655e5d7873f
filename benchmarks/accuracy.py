"""How near the one-shot prediction comes to the relaxed crystals of the test splits: the paper's metrics and more.

python benchmarks/accuracy.py pairs_universal.npz pairs_xmno.npz --again 8 --json benchmarks/results/accuracy-PBE.json
"""

from __future__ import annotations

import itertools
import math
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from model_cards import sample
from shared import options

from deeprelax_ase import Crystal, Predictor
from deeprelax_ase.data import RelaxationPairs, crystals_of, load_pairs
from deeprelax_ase.data.pairs import displacement_sizes
from deeprelax_ase.evaluation.assessment import Assessment, assess
from deeprelax_ase.evaluation.cached_predictions import Predicted, predict
from deeprelax_ase.evaluation.calibrate import labels_for
from deeprelax_ase.evaluation.results import environment, write_json
from deeprelax_ase.progress import progress

#: Å, bounds of the bins of the largest displacement of an atom.
BINS = (0.0, 0.02, 0.1, 0.2, 0.5, math.inf)

#: Metrics that are reported.
METRICS = ("coordinates", "cartesian", "bond_length", "lattice", "volume", "relative_volume")


def compared(pairs: RelaxationPairs, result: Predicted, *, match: bool, jobs: int) -> Assessment:
    """The predictions against the relaxed crystals of ``pairs``, with a progress bar for pymatgen's comparisons."""
    with progress(visible=match) as bar:
        task = bar.add_task("matching", total=2 * len(pairs))
        return assess(
            pairs,
            torch.from_numpy(np.concatenate([c.fractional_positions for c in result.crystals])),
            torch.from_numpy(np.stack([c.cell for c in result.crystals])),
            uncertainty=result.uncertainty,
            match=match,
            jobs=jobs,
            advance=lambda: bar.advance(task),
        )


def by_displacement(found: Assessment, largest: np.ndarray) -> list[dict]:
    """Coordinates' errors in bins of the ``largest`` displacement (G,) of an atom of each crystal, in Å."""
    before, after = found.unrelaxed["coordinates"], found.predicted["coordinates"]
    rows = []
    for low, high in itertools.pairwise(BINS):
        inside = (largest >= low) & (largest < high)
        if inside.any():
            rows.append(
                {
                    "from": low,
                    "to": high if math.isfinite(high) else None,
                    "crystals": int(inside.sum()),
                    "unrelaxed": float(before[inside].mean()),
                    "predicted": float(after[inside].mean()),
                    "predicted_median": float(np.median(after[inside])),
                    "unit": "Å",
                }
            )
    return rows


def summarise(found: Assessment, largest: np.ndarray) -> dict[str, Any]:
    """Means and medians of the errors, unrelaxed and predicted, their ratio, and the coordinates' by displacement."""
    summary = found.summary()
    names = [*METRICS, "uncertainty_rank_correlation", "crystals", *(["match"] if "match" in summary else [])]
    result: dict[str, Any] = {name: summary[name] for name in names}
    for name in METRICS:
        before, after = result[name]["unrelaxed"], result[name]["predicted"]
        result[name]["ratio"] = after / before if before else None
    return result | {"by_largest_displacement": by_displacement(found, largest)}


def relaxed_again(predictor: Predictor, relaxed: list[Crystal], cache: Path | None) -> dict[str, np.ndarray]:
    """How far crystals that are relaxed already are moved (Å, mean component), and by how much their volume changes."""
    ends = predict(predictor, relaxed, cache, allow_refused=True).crystals
    return {
        "already_relaxed_moves": np.array(
            [np.abs(e.positions - c.fractional_positions @ e.cell).mean() for c, e in zip(relaxed, ends, strict=True)]
        ),
        "already_relaxed_swells": np.array([abs(e.volume / c.volume - 1) for c, e in zip(relaxed, ends, strict=True)]),
    }


def measure(predictor: Predictor, pairs: RelaxationPairs, given: Namespace) -> dict:
    """The summary of all ``pairs``, and of those that DFT relaxed; what is refused stays as it is, and is counted.

    Of a sample each crystal counts as often as it stands for others.
    """
    pairs, weights = sample(pairs, given.every)
    counts = np.rint(weights).astype(int)
    result = predict(predictor, crystals_of(pairs, "initial"), given.cache, allow_refused=True)
    refused = np.isnan(result.uncertainty)
    errors = compared(pairs, result, match=not given.no_match, jobs=given.jobs)
    again = relaxed_again(predictor, crystals_of(pairs, "relaxed")[:: given.again], given.cache)
    largest, dft = displacement_sizes(pairs).numpy(), pairs.dft.numpy()
    found = {}
    for part, among in {"DFT-labelled": dft, "all": np.ones_like(dft)}.items():
        if among.any():
            chosen = np.repeat(np.flatnonzero(among), counts[among])
            found[part] = summarise(errors.take(chosen), largest[chosen]) | {"refused": int(refused[chosen].sum())}
            for name, values in again.items():
                unit = "Å" if name.endswith("moves") else ""
                mean = np.average(values[among[:: given.again]], weights=counts[:: given.again][among[:: given.again]])
                found[part][name] = {"predicted": float(mean), "unit": unit}
    return found


def main() -> None:
    """Measure, and write JSON."""
    again = {"type": int, "default": 1, "help": "relax every N-th relaxed crystal again (default all)"}
    no_match = {"action": "store_true", "help": "leave out the match rate, which is slow"}
    names = ("data", "--model", "--every", "--jobs", "--cache", "--json")
    given = options(__doc__, *names, again=again, no_match=no_match).parse_args()
    predictor = Predictor(given.model)
    labels = labels_for(predictor.model.card.level)
    facts = {"environment": environment(), "model": predictor.model_name, "recycles": predictor.recycles}
    facts |= {"members": predictor.model.card.members, "every": given.every}
    results = {}
    for file in given.data:
        found = measure(predictor, load_pairs(file, labels=labels).in_split("test"), given)
        results |= {f"{file.stem}, {part}": row for part, row in found.items()}
    write_json(given.json, {**facts, "split": "test", "results": results})


if __name__ == "__main__":
    main()
