"""Errors of the predictions that benchmarks/tables_train.py left behind, as one JSON file, and the page made of it.

python benchmarks/tables.py --predictions runs/tables --data DIR --json benchmarks/results/tables.json
python benchmarks/tables.py --json benchmarks/results/tables.json --page benchmarks/tables.md

DIR holds pairs_xmno.npz, pairs_universal.npz and monolayers.npz. The first call measures, and takes an hour of one core
for the comparisons by pymatgen's StructureMatcher, made for seed 0 of each network and limited to some of the sets by
--match; rows that the JSON file has of the same predictions are kept. The second call writes the page and its figures,
without the predictions.
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
from files import write_json
from rich.progress import Progress
from tables_page import write_page
from tables_train import DATA, MEMBERS, OURS, PLAIN

from deeprelax_ase.data import RelaxationPairs, load_pairs
from deeprelax_ase.evaluation.assessment import Assessment, assess
from deeprelax_ase.evaluation.machine import environment
from deeprelax_ase.evaluation.metrics import rank_correlation

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
        fractional, cell = (torch.from_numpy(arrays[name]) for name in ("scaled", "cell"))
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


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that the page is made of; written row by row, so that an interrupted call goes on."""
    rows: list[dict[str, Any]] = []
    report: dict[str, Any] = {"environment": environment(), "pairs": {}, "budget": budget(), "bins": HISTOGRAMS}
    before = json.loads(arguments.json.read_text(encoding="utf-8"))["rows"] if arguments.json.exists() else []
    known = {row["predictions"]: row for row in before if "predictions" in row}
    with Progress() as progress:
        for data, name in DATA.items():
            files = sorted(arguments.predictions.glob(f"{data}-*.npz"))
            if not files:
                continue
            pairs = load_pairs(arguments.data / name)
            report["pairs"][data] = {split: len(pairs.in_split(split)) for split in ("train", "validation", "test")}
            test = pairs.in_split("test")
            found = []
            for file in files:
                match = data in arguments.match and file.stem.endswith("-0")
                row = known.get(digest(file), {"metrics": {}})
                if not row["metrics"] or (match and "match" not in row["metrics"]):
                    row = measure(file, test, match=match, jobs=arguments.jobs, progress=progress)
                found.append(row)
                write_json(arguments.json, {**report, "rows": [*rows, *found, *_rest(before, [*rows, *found])]})
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


def main() -> None:
    """Measure, or write the page of what was measured."""
    arguments = _parser().parse_args()
    if arguments.predictions:
        write_json(arguments.json, measured(arguments))
    if arguments.page:
        write_page(json.loads(arguments.json.read_text(encoding="utf-8")), arguments.page)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predictions", type=Path, help="folder of the predictions, to measure them")
    parser.add_argument("--data", type=Path, help="folder of the pairs")
    parser.add_argument("--match", nargs="*", default=list(DATA), help="sets to compare by StructureMatcher (all)")
    parser.add_argument("--jobs", type=int, default=1, help="processes for that")
    parser.add_argument("--json", type=Path, required=True, help="what was measured")
    parser.add_argument("--page", type=Path, help="page to write, with its figures beside it")
    return parser


if __name__ == "__main__":
    main()
