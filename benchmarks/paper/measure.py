"""Measure what the page of the paper's tables and figures is made of, into ``benchmarks/results``.

python benchmarks/paper/measure.py --data DIR --predictions runs/tables

DIR holds pairs_xmno.npz, pairs_universal.npz and monolayers.npz; the predictions are those of train.py beside this.
The comparisons by pymatgen's StructureMatcher, made for seed 0 of each network, take an hour of one core; rows that
tables.json has of the same predictions are kept. Energies need M3GNet. Table S1 is measured by

deeprelax bench DeepRelax-M3GNet --data pairs_universal.npz --labels m3gnet --quick --out bench \\
    --baseline nothing --baseline volume --baseline fire --baseline lbfgs --baseline relaxer
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from train import DATA, MEMBERS, OURS, PLAIN

from deeprelax_ase import Predictor
from deeprelax_ase.calculators import get_calculator
from deeprelax_ase.data import RelaxationPairs, crystals_of, load_pairs
from deeprelax_ase.data.pairs import displacement_sizes
from deeprelax_ase.evaluation.assessment import Assessment, assess
from deeprelax_ase.evaluation.metrics import rank_correlation
from deeprelax_ase.evaluation.results import environment, write_json
from deeprelax_ase.progress import track

RESULTS = Path(__file__).resolve().parents[1] / "results"

#: The model whose minima are M3GNet's.
OF_ENERGIES = "DeepRelax-M3GNet"

#: Metrics whose distributions are kept, for figure 2, and the ends of their histograms (Å, Å, Å³).
HISTOGRAMS = {"cartesian": 1.0, "lattice": 1.0, "volume": 60.0}

#: Bins of each; the last one holds everything beyond.
BINS = 40


def digest(file: Path) -> str:
    """What tells predictions from others."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def measure(file: Path, pairs: RelaxationPairs, *, match: bool, jobs: int, progress: Progress) -> dict[str, Any]:
    """One row: means, improvements and distributions of the predictions in ``file``, and what is known of the run."""
    with np.load(file, allow_pickle=False) as arrays:
        row = json.loads(str(arrays["about"])) | {"predictions": digest(file)}
        fractional, cell = (torch.from_numpy(arrays[name]) for name in ("fractional", "cell"))
        uncertainty = arrays.get("uncertainty")
    task = progress.add_task(file.stem, total=2 * len(pairs) if match else None)
    found = assess(
        pairs,
        fractional,
        cell,
        uncertainty=uncertainty,
        match=match,
        jobs=jobs,
        advance=lambda: progress.advance(task),
    )
    progress.remove_task(task)
    row["metrics"] = found.summary()
    row["histograms"] = histograms(found.predicted)
    if uncertainty is not None and row["model"].startswith("DeepRelax x"):
        row["figure 5"] = correlation(found)
    return row


def dummy(data: str, pairs: RelaxationPairs, like: dict[str, Any]) -> dict[str, Any]:
    """The row of the unrelaxed crystals, whose errors stand in that of any other."""
    metrics = {
        name: {"predicted": row["unrelaxed"], "predicted_median": row["unrelaxed_median"], "unit": row["unit"]}
        for name, row in like["metrics"].items()
        if "unrelaxed" in row
    }
    start = assess(pairs, pairs.fractional_initial, pairs.cell_initial, match=False)
    return {"data": data, "model": "Dummy", "seed": 0, "metrics": metrics, "histograms": histograms(start.predicted)}


def histograms(errors: Any) -> dict[str, list[int]]:
    """Counts of crystals in bins of their errors."""
    return {
        name: np.histogram(np.minimum(errors[name], end * (1 - 1e-9)), bins=BINS, range=(0.0, end))[0].tolist()
        for name, end in HISTOGRAMS.items()
    }


def correlation(found: Assessment) -> dict[str, Any]:
    """Figure 5: errors of the bond lengths (Å) and global uncertainties (Å²), and their rank correlation."""
    assert found.uncertainty is not None
    error = found.predicted["bond_length"]
    return {
        "spearman": rank_correlation(found.uncertainty, error),
        "error": [round(float(v), 4) for v in error],
        "uncertainty": [float(f"{v:.4g}") for v in found.uncertainty],
    }


def measured(predictions: Path, folder: Path, jobs: int) -> dict[str, Any]:
    """Tables 1 to 4 and figures 2 and 5; written row by row, so that an interrupted call goes on."""
    kept = RESULTS / "tables.json"
    rows: list[dict[str, Any]] = []
    report: dict[str, Any] = {"environment": environment(), "pairs": {}, "budget": budget(), "bins": HISTOGRAMS}
    before = json.loads(kept.read_text(encoding="utf-8"))["rows"] if kept.exists() else []
    known = {row["predictions"]: row for row in before if "predictions" in row}
    with Progress() as progress:
        for data, name in DATA.items():
            files = sorted(predictions.glob(f"{data}-*.npz"))
            if not files:
                continue
            pairs = load_pairs(folder / name)
            report["pairs"][data] = {split: len(pairs.in_split(split)) for split in ("train", "validation", "test")}
            test = pairs.in_split("test")
            found = []
            for file in files:
                match = file.stem.endswith("-0")
                row = known.get(digest(file), {"metrics": {}})
                if not row["metrics"] or (match and "match" not in row["metrics"]):
                    row = measure(file, test, match=match, jobs=jobs, progress=progress)
                found.append(row)
                write_json(kept, {**report, "rows": [*rows, *found, *_rest(before, [*rows, *found])]})
            rows += [dummy(data, test, found[0]), *found]
    report["budget"]["steps"] = max(row.get("steps", 0) for row in rows)
    return {**report, "rows": rows}


def _rest(before: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of an earlier call that this one has not reached."""
    reached = {row.get("predictions") for row in rows}
    return [row for row in before if "predictions" in row and row["predictions"] not in reached]


def budget() -> dict[str, Any]:
    """What every row was trained by."""
    settings: dict[str, Any] = {"members": MEMBERS}
    for name, training in (("paper's and direct networks", PLAIN), ("end-to-end network", OURS)):
        settings[name] = {
            key: getattr(training, key) for key in ("atoms_per_batch", "learning_rate", "weight_decay", "schedule")
        }
    return settings


def energies(data: Path, number: int = 100) -> dict[str, Any]:
    """Energies (eV/atom) of evenly taken test crystals under M3GNet, for figure 4."""
    pairs = load_pairs(data, labels="m3gnet").in_split("test")
    pairs = pairs.take(torch.linspace(0, len(pairs) - 1, min(number, len(pairs))).long())
    unrelaxed = crystals_of(pairs, "initial")
    made = Predictor(OF_ENERGIES).predict_many(unrelaxed, bonds=False)
    predicted = [getattr(p, "relaxed", c) for p, c in zip(made, unrelaxed, strict=True)]
    stages = {"unrelaxed": unrelaxed, "predicted": predicted, "relaxed": crystals_of(pairs, "relaxed")}
    calculator = get_calculator("m3gnet")
    found = {
        name: np.array([calculator.get_potential_energy(c.to_atoms()) / len(c) for c in track(crystals, name)])
        for name, crystals in stages.items()
    }
    off = {name: np.abs(found[name] - found["relaxed"]) for name in ("unrelaxed", "predicted")}
    return {
        "environment": environment(),
        "model": OF_ENERGIES,
        "data": data.name,
        "crystals": len(unrelaxed),
        "mean_absolute_error": {name: float(values.mean()) for name, values in off.items()},
        "median_absolute_error": {name: float(np.median(values)) for name, values in off.items()},
        "energies": {name: values.tolist() for name, values in found.items()},
    }


def structures(data: Path) -> dict[str, Any]:
    """Crystals with strontium and barium that relax a good deal, for figure 3."""
    pairs = load_pairs(data).in_split("test")
    pairs = pairs.take(((displacement_sizes(pairs) > 0.1) & (pairs.counts >= 10)).nonzero().squeeze(1))
    ends = list(zip(crystals_of(pairs, "initial"), crystals_of(pairs, "relaxed"), strict=True))
    predictor, found = Predictor(), {}
    for name, element in (("Sr", 38), ("Ba", 56)):
        start, end = next((s, e) for s, e in ends if element in s.numbers and abs(s.volume / e.volume - 1) > 0.1)
        stages = {"unrelaxed": start, "predicted": predictor.predict(start).relaxed, "relaxed": end}
        found[name] = {
            stage: {part: getattr(crystal, part).tolist() for part in ("numbers", "positions", "cell")}
            for stage, crystal in stages.items()
        }
    return {"environment": environment(), "model": predictor.model_name, "data": data.name, "structures": found}


def main() -> None:
    """Measure."""
    given = _parser().parse_args()
    write_json(RESULTS / "structures.json", structures(given.data / DATA["xmno"]))
    write_json(RESULTS / "energies.json", energies(given.data / DATA["xmno"]))
    if given.predictions:
        write_json(RESULTS / "tables.json", measured(given.predictions, given.data, given.jobs))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the pairs")
    parser.add_argument("--predictions", type=Path, help="folder of benchmarks/paper/train.py's predictions")
    parser.add_argument("--jobs", type=int, default=1, help="processes for StructureMatcher")
    return parser


if __name__ == "__main__":
    main()
