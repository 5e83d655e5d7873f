"""How near the one-shot prediction comes to the relaxed crystals of a test split: the paper's five metrics and more.

python benchmarks/accuracy.py ../shared/data/pairs_universal.npz ../shared/data/pairs_xmno.npz --split test \\
    --json benchmarks/results/accuracy.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from environment import environment
from rich.console import Console
from rich.table import Table

from deeprelax_ase import Crystal, Predictor
from deeprelax_ase.data import Pairs, crystals_of, load_pairs
from deeprelax_ase.data.groups import displacement_sizes
from deeprelax_ase.data.pairs import SPLITS
from deeprelax_ase.evaluation import UNITS, errors_of
from deeprelax_ase.geometry import EDGSettings
from deeprelax_ase.metrics import match_rate, rank_correlation
from deeprelax_ase.training.calibrate import labels_for, thinned
from deeprelax_ase.training.predicting import predict

#: Å, bounds of the bins of the largest displacement of an atom.
BINS = (0.0, 0.02, 0.1, 0.2, 0.5, math.inf)

#: Metrics that are reported, with their units.
METRICS = ("coordinates", "cartesian", "bond_length", "lattice", "volume", "relative_volume")


def measure(candidates: Sequence[Crystal], pairs: Pairs) -> dict[str, np.ndarray]:
    """Each metric for each of the ``candidates``, against the relaxed crystals of ``pairs``."""
    scaled = torch.from_numpy(np.concatenate([c.scaled_positions for c in candidates]))
    return errors_of(pairs, scaled, torch.from_numpy(np.stack([c.cell for c in candidates])))


def by_displacement(
    before: dict[str, np.ndarray], after: dict[str, np.ndarray], largest: np.ndarray, chosen: np.ndarray
) -> list[dict]:
    """Coordinates' errors of the ``chosen`` crystals in bins of the ``largest`` displacement of one of their atoms."""
    rows = []
    for low, high in itertools.pairwise(BINS):
        inside = chosen & (largest >= low) & (largest < high)
        if inside.any():
            rows.append(
                {
                    "from": low,
                    "to": high if math.isfinite(high) else None,
                    "crystals": int(inside.sum()),
                    "unrelaxed": float(before["coordinates"][inside].mean()),
                    "predicted": float(after["coordinates"][inside].mean()),
                    "predicted_median": float(np.median(after["coordinates"][inside])),
                    "unit": "Å",
                }
            )
    return rows


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
            "unit": UNITS[name],
        }
        for name in METRICS
    }
    rank = rank_correlation(uncertainty[chosen], after["bond_length"][chosen])
    result["uncertainty_rank_correlation"] = {"predicted": rank, "unit": ""}
    result["crystals"] = {"predicted": int(chosen.sum()), "unit": ""}
    return result


def matched(initial: Sequence[Crystal], predicted: Sequence[Crystal], relaxed: Sequence[Crystal]) -> dict:
    """Match rates of the unrelaxed and the predicted crystals."""
    return {"unrelaxed": match_rate(initial, relaxed), "predicted": match_rate(predicted, relaxed), "unit": ""}


def main() -> None:
    """Evaluate, print a table and write JSON."""
    arguments = _parser().parse_args()
    solver = None if arguments.bound_scale is None else EDGSettings(bound_scale=arguments.bound_scale)
    predictor = Predictor(
        arguments.model,
        solver=solver,
        keep_symmetry=not arguments.no_symmetry,
        passes=arguments.passes,
        graph_backend="torch",
    )
    labels = labels_for(predictor.model.card.level)
    report: dict = {
        "environment": environment(),
        "model": predictor.model_name,
        "passes": predictor.passes,
        "split": arguments.split,
        "results": {},
    }
    for file in arguments.data:
        pairs = thinned(load_pairs(file, labels=labels).in_split(arguments.split), arguments.thin)
        initial, relaxed = crystals_of(pairs, "initial"), crystals_of(pairs, "relaxed")
        cache = arguments.cache and arguments.cache / f"{predictor.model_name}-{file.stem}-{arguments.split}.npz"
        result = predict(predictor, initial, cache)
        predicted = result.crystals
        before, after = measure(initial, pairs), measure(predicted, pairs)
        largest = displacement_sizes(pairs).numpy()
        again = predict(predictor, relaxed[:: arguments.again])
        stayed = list(zip(relaxed[:: arguments.again], again.crystals, strict=True))
        moved = np.array([np.abs(r.positions - c.scaled_positions @ r.cell).mean() for c, r in stayed])
        swelled = np.array([abs(r.volume / c.volume - 1) for c, r in stayed])
        dft = pairs.dft.numpy()
        for part, chosen in {"DFT-labelled": dft, "all": np.ones_like(dft)}.items():
            found = summarise(before, after, result.uncertainty, chosen)
            found["by_largest_displacement"] = by_displacement(before, after, largest, chosen)
            if not arguments.no_match:
                picks = np.flatnonzero(chosen)
                found["match_rate"] = matched(*([c[i] for i in picks] for c in (initial, predicted, relaxed)))
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
            cells = [f"{line[key]:.4g}" if key in line else "" for key in ("unrelaxed", "predicted", "ratio")]
            table.add_row(f"{label} {line['unit']}", *cells)
    Console().print(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path, help="npz files of relaxation pairs")
    parser.add_argument("--model", default="DeepRelax-PBE", help="name or card (default %(default)s)")
    parser.add_argument("--split", choices=sorted(SPLITS), default="test")
    parser.add_argument("--thin", type=int, default=1, help="of those without DFT label take every N-th (default all)")
    parser.add_argument("--again", type=int, default=1, help="relax every N-th relaxed crystal again (default all)")
    parser.add_argument("--passes", type=int, help="of an end-to-end network; the model card's by default")
    parser.add_argument("--cache", type=Path, help="folder to keep predictions in")
    parser.add_argument("--bound-scale", type=float, help="width of the solver's bounds; the model card's by default")
    parser.add_argument("--no-symmetry", action="store_true", help="do not project onto the space group")
    parser.add_argument("--no-match", action="store_true", help="leave out the match rate, which is slow")
    parser.add_argument("--json", type=Path, help="write the results here")
    return parser


if __name__ == "__main__":
    main()
