"""How near the one-shot prediction comes to the relaxed crystals of a test split: the paper's five metrics and more.

python benchmarks/accuracy.py ../shared/data/pairs_universal.npz ../shared/data/pairs_xmno.npz --split test \\
    --json benchmarks/results/accuracy.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from deeprelax_ase import Predictor
from deeprelax_ase.data import RelaxationPairs, crystals_of, load_pairs
from deeprelax_ase.data.groups import displacement_sizes
from deeprelax_ase.data.pairs import SPLITS
from deeprelax_ase.evaluation.assessment import Assessment, assess
from deeprelax_ase.evaluation.calibrate import labels_for, thinned
from deeprelax_ase.evaluation.machine import environment
from deeprelax_ase.evaluation.predicting import Predicted, predict
from deeprelax_ase.geometry import EDGSettings

#: Å, bounds of the bins of the largest displacement of an atom.
BINS = (0.0, 0.02, 0.1, 0.2, 0.5, math.inf)

#: Metrics that are reported.
METRICS = ("coordinates", "cartesian", "bond_length", "lattice", "volume", "relative_volume")


def compared(pairs: RelaxationPairs, result: Predicted, *, match: bool, jobs: int) -> Assessment:
    """The predictions against the relaxed crystals of ``pairs``, with a progress bar for pymatgen's comparisons."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not (match and console.is_terminal)) as bar:
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


def summarise(found: Assessment) -> dict[str, dict]:
    """Means and medians of the errors, unrelaxed and predicted, and their ratio."""
    summary = found.summary()
    result: dict[str, dict] = {}
    for name in METRICS:
        row = summary[name]
        result[name] = {
            "unrelaxed": row["unrelaxed"],
            "predicted": row["predicted"],
            "ratio": row["predicted"] / row["unrelaxed"] if row["unrelaxed"] else None,
            "unrelaxed_median": row["unrelaxed_median"],
            "predicted_median": row["predicted_median"],
            "unit": row["unit"],
        }
    return result | {name: summary[name] for name in ("uncertainty_rank_correlation", "crystals")}


def main() -> None:
    """Evaluate, print a table and write JSON."""
    arguments = _parser().parse_args()
    solver = None if arguments.bound_scale is None else EDGSettings(bound_scale=arguments.bound_scale)
    predictor = Predictor(
        arguments.model,
        solver=solver,
        keep_symmetry=not arguments.no_symmetry,
        recycles=arguments.recycles,
        graph_backend="torch",
    )
    labels = labels_for(predictor.model.card.level)
    report: dict = {
        "environment": environment(),
        "model": predictor.model_name,
        "recycles": predictor.recycles,
        "split": arguments.split,
        "results": {},
    }
    for file in arguments.data:
        pairs = thinned(load_pairs(file, labels=labels).in_split(arguments.split), arguments.thin)
        initial, relaxed = crystals_of(pairs, "initial"), crystals_of(pairs, "relaxed")
        cache = arguments.cache and arguments.cache / f"{predictor.model_name}-{file.stem}-{arguments.split}.npz"
        result = predict(predictor, initial, cache)
        errors = compared(pairs, result, match=not arguments.no_match, jobs=arguments.jobs)
        largest = displacement_sizes(pairs).numpy()
        again = predict(predictor, relaxed[:: arguments.again])
        stayed = list(zip(relaxed[:: arguments.again], again.crystals, strict=True))
        moved = np.array([np.abs(r.positions - c.fractional_positions @ r.cell).mean() for c, r in stayed])
        swelled = np.array([abs(r.volume / c.volume - 1) for c, r in stayed])
        dft = pairs.dft.numpy()
        for part, chosen in {"DFT-labelled": dft, "all": np.ones_like(dft)}.items():
            if not chosen.any():
                continue
            assessment = errors.take(chosen)
            found = summarise(assessment)
            found["by_largest_displacement"] = by_displacement(assessment, largest[chosen])
            if not arguments.no_match:
                rates = assessment.summary()["match"]
                found["match_rate"] = {name: rates[name] for name in ("unrelaxed", "predicted", "unit")}
            still = moved[chosen[:: arguments.again]]
            found["already_relaxed_moves"] = {"predicted": float(still.mean()), "unit": "Å"}
            found["already_relaxed_swells"] = {
                "predicted": float(swelled[chosen[:: arguments.again]].mean()),
                "unit": "",
            }
            report["results"][f"{file.stem}, {part}"] = found
            _show(f"{file.stem}, {arguments.split}, {part}", found)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _show(title: str, result: dict[str, dict]) -> None:
    table = Table(title=f"{title}: {result['crystals']['predicted']} crystals, means")
    for column in ("metric", "unrelaxed", "predicted", "ratio"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for name, row in result.items():
        for line in row if isinstance(row, list) else [row]:
            label = f"coordinates, {line['from']}-{line['to']} Å" if isinstance(row, list) else name
            cells = ["" if line.get(key) is None else f"{line[key]:.4g}" for key in ("unrelaxed", "predicted", "ratio")]
            table.add_row(f"{label} {line['unit']}", *cells)
    Console().print(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path, help="npz files of relaxation pairs")
    parser.add_argument("--model", default="DeepRelax-PBE", help="name or card (default %(default)s)")
    parser.add_argument("--split", choices=sorted(SPLITS), default="test")
    parser.add_argument("--thin", type=int, default=1, help="of those without DFT label take every N-th (default all)")
    parser.add_argument("--again", type=int, default=1, help="relax every N-th relaxed crystal again (default all)")
    parser.add_argument("--recycles", type=int, help="of an end-to-end network; the model card's by default")
    parser.add_argument("--cache", type=Path, help="folder to keep predictions in")
    parser.add_argument("--bound-scale", type=float, help="width of the solver's bounds; the model card's by default")
    parser.add_argument("--no-symmetry", action="store_true", help="do not project onto the space group")
    parser.add_argument("--no-match", action="store_true", help="leave out the match rate, which is slow")
    parser.add_argument("--jobs", type=int, default=1, help="processes for the match rate (default %(default)s)")
    parser.add_argument("--json", type=Path, help="write the results here")
    return parser


if __name__ == "__main__":
    main()
