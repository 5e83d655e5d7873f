"""How well the end-to-end network keeps space groups by itself, against the projection onto those that spglib finds.

python benchmarks/symmetry_kept.py ../shared/data --json benchmarks/results/symmetry_kept.json

Test crystals of all kinds are predicted as by default, and with keep_symmetry=True. Groups of most are exact; those of
others only to the decimals of a file, and what is asked of the network then is not symmetric itself.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from never_worse import KINDS
from shared import options

from deeprelax_ase import Crystal, Predictor
from deeprelax_ase.data import RelaxationPairs, crystals_of, load_pairs
from deeprelax_ase.errors import DeepRelaxError
from deeprelax_ase.evaluation.results import environment, write_json
from deeprelax_ase.geometry.symmetry import symmetry_operations
from deeprelax_ase.prediction.record import Prediction

#: Å, to which positions have the symmetry that is called exact.
EXACT = 1e-6


def chosen(folder: Path, number: int) -> dict[str, list[Crystal]]:
    """Unrelaxed test crystals by kind, ``number`` of each at most."""
    found = {name: load_pairs(folder / f"pairs_{name}.npz").in_split("test") for name in ("universal", "xmno")}
    made = load_pairs(sorted(folder.glob("pairs_generated_*.npz"))).in_split("test")
    found |= {name: made.take((made.kind == kind).nonzero().squeeze(1)) for kind, name in KINDS.items()}
    return {name: crystals_of(_some(pairs, number), "initial") for name, pairs in found.items() if len(pairs)}


def _some(pairs: RelaxationPairs, number: int) -> RelaxationPairs:
    return pairs.take(torch.linspace(0, len(pairs) - 1, min(number, len(pairs))).long())


def compared(crystals: list[Crystal], predictors: dict[str, Predictor]) -> list[dict[str, Any]]:
    """What differs for each of the ``crystals`` that has a symmetry and a prediction."""
    made = {name: list(predictor.predict_many(crystals)) for name, predictor in predictors.items()}
    rows = []
    for crystal, *of in zip(crystals, *made.values(), strict=True):
        group = _order(crystal)
        if group == 1 or any(isinstance(one, DeepRelaxError) for one in of):
            continue
        free, kept, double = of
        rows.append(
            {
                "exact": _order(crystal, symprec=EXACT) == group,
                "unchanged": [bool(free.unchanged), bool(kept.unchanged)],
                "positions": _difference(free, kept),
                "rounding": _difference(free, double),
                "expected_error": abs(free.error.coordinates - kept.error.coordinates),
            }
        )
    return rows


def _order(crystal: Crystal, **tolerance: float) -> int:
    """Operations of the space group, translations within a cell counted."""
    found = symmetry_operations(crystal, **tolerance)
    return 1 if found is None else len(found.rotations) * int(np.bincount(found.copies).max())


def _difference(one: Prediction, other: Prediction) -> float:
    """Å, the largest of positions and cells; of crystals that both are left as they are, none."""
    ends = [np.concatenate([made.relaxed.positions, made.relaxed.cell]) for made in (one, other)]
    return float(np.abs(ends[0] - ends[1]).max())


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts, and quantiles of the differences (Å), of crystals that are symmetric exactly, and to file decimals."""
    found: dict[str, Any] = {}
    for name, exact in (("exact", True), ("to 0.001 Å", False)):
        these = [row for row in rows if row["exact"] is exact]
        same = [row for row in these if len(set(row["unchanged"])) == 1]
        found[name] = {
            "crystals": len(these),
            "left unchanged by one alone": len(these) - len(same),
            **{key: _quantiles([row[key] for row in same]) for key in ("positions", "rounding", "expected_error")},
        }
    return found


def _quantiles(values: list[float]) -> list[float]:
    return [float(np.quantile(values, q)) for q in (0.5, 0.9, 0.99, 1.0)] if values else []


def search_time(crystals: list[Crystal]) -> float:
    """Milliseconds of a core for the search of one crystal's group."""
    start = time.process_time()
    for crystal in crystals:
        symmetry_operations(crystal)
    return 1e3 * (time.process_time() - start) / len(crystals)


def main() -> None:
    """Measure, and write JSON."""
    given = options(
        __doc__,
        "folder",
        "--json",
        folder={"type": Path, "help": "of the pairs"},
        number={"type": int, "default": 110, "help": "crystals of each kind (default %(default)s)"},
    ).parse_args()
    torch.set_num_threads(1)
    shared = {"device": "cpu", "leave_within_error": True}
    predictors = {
        "free": Predictor(**shared),
        "kept": Predictor(**shared, keep_symmetry=True),
        "double": Predictor(**shared, dtype="float64"),
    }
    kinds, rows, everything = {}, [], []
    for name, crystals in chosen(given.folder, given.number).items():
        found = compared(crystals, predictors)
        kinds[name] = {"crystals": len(crystals), **summary(found)}
        rows += found
        everything += crystals
        print(name, kinds[name], flush=True)
    report = {"crystals": len(everything), "search_ms": search_time(everything), **summary(rows), "kinds": kinds}
    write_json(given.json, {"environment": environment(), "quantiles": [0.5, 0.9, 0.99, 1.0], **report})


if __name__ == "__main__":
    main()
