"""How far relaxed crystals are off, and whether the model knew it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.evaluation.assessment import bond_graph
from deeprelax_ase.evaluation.metrics import crystal_errors, rank_correlation
from deeprelax_ase.prediction.record import Prediction
from deeprelax_ase.uncertainty.calibration import COVERAGE

#: Metrics that a row holds the means of, see :data:`deeprelax_ase.evaluation.assessment.UNITS`.
METRICS = ("coordinates", "bond_length", "lattice", "relative_volume")

#: Crystals of a bin at the least, and most bins.
_BIN, _BINS = 10, 5


class Evaluator:
    """Compares with the relaxed crystals of ``pairs``."""

    def __init__(self, pairs: RelaxationPairs) -> None:
        self.pairs = pairs.to("cpu").double()
        self._graph = bond_graph(self.pairs)

    def errors(self, crystals: Sequence[Crystal]) -> dict[str, np.ndarray]:
        """All errors (G,), see :func:`deeprelax_ase.evaluation.metrics.prediction_errors`."""
        return crystal_errors(self.pairs, crystals, graph=self._graph)

    def row(self, crystals: Sequence[Crystal]) -> dict[str, float]:
        """Means of :data:`METRICS`, and the median of the coordinates' errors (Å)."""
        found = self.errors(crystals)
        means = {name: float(found[name].mean()) for name in METRICS}
        return means | {"coordinates_median": float(np.median(found["coordinates"]))}

    def uncertainty(self, jumps: Sequence[Prediction | None]) -> dict[str, Any]:
        """Whether expected errors equal the true ones and rank crystals as they do, and whether the bounds hold.

        Args:
            jumps: of each crystal, None where there is none.

        Returns:
            Nothing for a model without calibrated errors. ``bins`` are of equally many crystals, by expected error.
        """
        read = [(n, p, p.error) for n, p in enumerate(jumps) if p is not None and p.error is not None]
        if not read:
            return {}
        chosen = np.array([n for n, _, _ in read])
        starts = self.pairs.take(torch.from_numpy(chosen))
        true = Evaluator(starts).errors([p.relaxed for _, p, _ in read])
        found: dict[str, Any] = {"aimed coverage": COVERAGE, "ood": float(np.mean([e.ood for _, _, e in read]))}
        for quantity, expected, bound in (
            ("coordinates", [e.coordinates for _, _, e in read], [e.coordinates_bound for _, _, e in read]),
            ("relative_volume", [e.volume for _, _, e in read], [e.volume_bound for _, _, e in read]),
        ):
            found[quantity] = _agreement(np.array(expected), true[quantity], np.array(bound))
        return found


def _agreement(expected: np.ndarray, error: np.ndarray, bound: np.ndarray) -> dict[str, Any]:
    rank = rank_correlation(expected, error)
    parts = np.array_split(np.argsort(expected, kind="stable"), min(_BINS, max(1, len(error) // _BIN)))
    return {
        "mean error": float(error.mean()),
        "mean expected": float(expected.mean()),
        "coverage": float((error <= bound).mean()),
        "rank correlation": rank if math.isfinite(rank) else None,
        "bins": [
            {"crystals": len(part), "expected": float(expected[part].mean()), "error": float(error[part].mean())}
            for part in parts
        ],
    }
