"""How near the one-shot prediction comes to the relaxed crystals of a test split: the paper's five metrics and more.

python benchmarks/accuracy.py ../shared/data/pairs_universal.npz ../shared/data/pairs_xmno.npz --split test \\
    --json benchmarks/results/accuracy.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from environment import environment
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import spearmanr

from deeprelax_ase import Crystal, Prediction, Predictor
from deeprelax_ase.data import Pairs, crystals_of, load_pairs
from deeprelax_ase.data.pairs import SPLITS
from deeprelax_ase.geometry import EDGSettings
from deeprelax_ase.graph import build_graph, edge_batch, edge_vectors
from deeprelax_ase.graph.record import rows_times_matrices
from deeprelax_ase.metrics import (
    bond_length_mae,
    cartesian_mae,
    coordinate_mae,
    lattice_mae,
    match_rate,
    volume_error,
)

UNITS = {
    "coordinates": "Å",
    "cartesian": "Å",
    "bond_length": "Å",
    "lattice": "Å",
    "volume": "Å³",
    "relative_volume": "",
}


def relax(predictor: Predictor, crystals: Sequence[Crystal], passes: int) -> list[Prediction]:
    """Predictions for all ``crystals``, the model applied ``passes`` times to its own result."""
    predictions: list[Prediction] = []
    for _ in range(passes):
        stream = predictor.predict_many(crystals)
        results = list(track(stream, total=len(crystals), description="predicting", transient=True))
        predictions = [result for result in results if isinstance(result, Prediction)]
        if failed := [result for result in results if not isinstance(result, Prediction)]:
            raise RuntimeError(f"{len(failed)} crystals failed, the first with: {failed[0]}")
        crystals = [p.relaxed for p in predictions]
    return predictions


def errors(candidates: Sequence[Crystal], pairs: Pairs) -> dict[str, np.ndarray]:
    """Each metric for each of the ``candidates``, against the relaxed crystals of ``pairs``."""
    batch, size = pairs.batch, len(pairs)
    cell = torch.from_numpy(np.stack([c.cell for c in candidates]))
    positions = torch.from_numpy(np.concatenate([c.positions for c in candidates]))
    scaled = rows_times_matrices(positions, torch.linalg.inv(cell)[batch])
    true_positions = rows_times_matrices(pairs.scaled_relaxed, pairs.cell_relaxed[batch])
    graph = build_graph(crystals_of(pairs, "initial"), backend="torch")
    true_lengths = torch.linalg.vector_norm(edge_vectors(graph, true_positions, pairs.cell_relaxed), dim=1)
    lengths = torch.linalg.vector_norm(edge_vectors(graph, positions, cell), dim=1)
    volume = volume_error(cell, pairs.cell_relaxed)
    measured = {
        "coordinates": coordinate_mae(scaled, pairs.scaled_relaxed, pairs.cell_relaxed, batch),
        "cartesian": cartesian_mae(positions, true_positions, batch, size),
        "bond_length": bond_length_mae(lengths, true_lengths, edge_batch(graph), size),
        "lattice": lattice_mae(cell, pairs.cell_relaxed),
        "volume": volume,
        "relative_volume": volume / torch.linalg.det(pairs.cell_relaxed).abs(),
    }
    return {name: values.numpy() for name, values in measured.items()}


def summarise(
    before: dict[str, np.ndarray], after: dict[str, np.ndarray], uncertainty: np.ndarray, chosen: np.ndarray
) -> dict[str, dict]:
    """Means and medians of the errors over the ``chosen`` crystals, unrelaxed and predicted, and their ratio."""
    result: dict[str, dict] = {
        name: {
            "unrelaxed": float(before[name][chosen].mean()),
            "predicted": float(after[name][chosen].mean()),
            "ratio": float(after[name][chosen].mean() / before[name][chosen].mean()),
            "unrelaxed_median": float(np.median(before[name][chosen])),
            "predicted_median": float(np.median(after[name][chosen])),
            "unit": unit,
        }
        for name, unit in UNITS.items()
    }
    rank = spearmanr(uncertainty[chosen], after["bond_length"][chosen]).statistic
    result["uncertainty_rank_correlation"] = {"predicted": float(rank), "unit": ""}
    result["crystals"] = {"predicted": int(chosen.sum()), "unit": ""}
    return result


def matched(initial: Sequence[Crystal], predicted: Sequence[Crystal], relaxed: Sequence[Crystal]) -> dict:
    """Match rates of the unrelaxed and the predicted crystals."""
    return {"unrelaxed": match_rate(initial, relaxed), "predicted": match_rate(predicted, relaxed), "unit": ""}


def main() -> None:
    """Evaluate, print a table and write JSON."""
    arguments = _parser().parse_args()
    solver = None if arguments.bound_scale is None else EDGSettings(bound_scale=arguments.bound_scale)
    predictor = Predictor(arguments.model, solver=solver, keep_symmetry=not arguments.no_symmetry)
    report: dict = {
        "environment": environment(),
        "model": predictor.model_name,
        "split": arguments.split,
        "results": {},
    }
    for file in arguments.data:
        pairs = load_pairs(file)
        index = (pairs.split == SPLITS[arguments.split]).nonzero().squeeze(1)
        if arguments.limit:  # evenly spaced: the files are ordered by origin
            index = index[:: max(1, len(index) // arguments.limit)]
        pairs = pairs.take(index)
        initial, relaxed = crystals_of(pairs, "initial"), crystals_of(pairs, "relaxed")
        predictions = relax(predictor, initial, arguments.passes)
        predicted = [p.relaxed for p in predictions]
        before, after = errors(initial, pairs), errors(predicted, pairs)
        uncertainty = np.array([p.uncertainty.total for p in predictions])
        moved = np.array([np.abs(p.displacements).mean() for p in relax(predictor, relaxed, 1)])
        dft = pairs.dft.numpy()
        for part, chosen in {"DFT-labelled": dft, "all": np.ones_like(dft)}.items():
            result = summarise(before, after, uncertainty, chosen)
            if not arguments.no_match:
                picks = np.flatnonzero(chosen)
                result["match_rate"] = matched(*([c[i] for i in picks] for c in (initial, predicted, relaxed)))
            result["already_relaxed_moves"] = {"predicted": float(moved[chosen].mean()), "unit": "Å"}
            report["results"][f"{file.stem}, {part}"] = result
            _show(f"{file.stem}, {arguments.split}, {part}", result)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _show(title: str, result: dict[str, dict]) -> None:
    table = Table(title=f"{title}: {result['crystals']['predicted']} crystals, means")
    for column in ("metric", "unrelaxed", "predicted", "ratio"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for name, row in result.items():
        cells = [f"{row[key]:.4g}" if key in row else "" for key in ("unrelaxed", "predicted", "ratio")]
        table.add_row(f"{name} {row['unit']}", *cells)
    Console().print(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path, help="npz files of relaxation pairs")
    parser.add_argument("--model", default="DeepRelax-PBE-v0")
    parser.add_argument("--split", choices=sorted(SPLITS), default="test")
    parser.add_argument("--limit", type=int, help="only about so many crystals of each file, evenly spaced")
    parser.add_argument("--passes", type=int, default=1, help="apply the model to its own prediction")
    parser.add_argument("--bound-scale", type=float, help="width of the solver's bounds; the model card's by default")
    parser.add_argument("--no-symmetry", action="store_true", help="do not project onto the space group")
    parser.add_argument("--no-match", action="store_true", help="leave out the match rate, which is slow")
    parser.add_argument("--json", type=Path, help="write the results here")
    return parser


if __name__ == "__main__":
    main()
