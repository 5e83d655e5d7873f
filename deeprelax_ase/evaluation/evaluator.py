"""Errors of relaxed crystals, and reliability of the errors that the model expects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.data.batches import pair_graph
from deeprelax_ase.evaluation.metrics import crystal_errors, reliability
from deeprelax_ase.graph.settings import GraphSettings
from deeprelax_ase.prediction.record import Prediction
from deeprelax_ase.uncertainty.calibration import COVERAGE

#: Errors that a row holds the means of, see :data:`deeprelax_ase.evaluation.assessment.UNITS`.
METRICS = ("coordinates", "bond_length", "lattice", "relative_volume")

#: Crystals of a bin at the least, and most bins.
_BIN, _BINS = 10, 5


class Evaluator:
    """Compares with the relaxed crystals of ``pairs``."""

    def __init__(self, pairs: RelaxationPairs) -> None:
        self.pairs = pairs.to("cpu").double()
        self._graph = pair_graph(self.pairs, GraphSettings())

    def row(self, crystals: Sequence[Crystal]) -> dict[str, float]:
        """Means of :data:`METRICS`, and the median of the coordinates' errors (Å)."""
        found = crystal_errors(self.pairs, crystals, graph=self._graph)
        means = {name: float(found[name].mean()) for name in METRICS}
        return means | {"coordinates_median": float(np.median(found["coordinates"]))}

    def uncertainty(self, jumps: Sequence[Prediction | None]) -> dict[str, Any]:
        """Compare expected errors with the true ones, by their size and rank, and measure how often the bounds hold.

        Args:
            jumps: of each crystal, None where there is none.

        Returns:
            Nothing for a model without calibrated errors. ``bins`` are of equally many crystals, by expected error.
        """
        read = [(n, p.relaxed, p.error) for n, p in enumerate(jumps) if p is not None and p.error is not None]
        if not read:
            return {}
        chosen, crystals, told = zip(*read, strict=True)
        true = crystal_errors(self.pairs.take(torch.tensor(chosen)), crystals)
        found: dict[str, Any] = {"aimed coverage": COVERAGE, "ood": float(np.mean([e.ood for e in told]))}
        for quantity, expected, bounds in (
            ("coordinates", [e.coordinates for e in told], [e.coordinates_bound for e in told]),
            ("relative_volume", [e.volume for e in told], [e.volume_bound for e in told]),
        ):
            error, told_error = true[quantity], np.array(expected)
            found[quantity] = reliability(error, told_error, np.array(bounds)) | {"bins": bins(error, told_error)}
        return found


def bins(error: np.ndarray, expected: np.ndarray) -> list[dict[str, Any]]:
    """Mean expected and true errors of bins of equally many crystals, by expected error."""
    parts = np.array_split(np.argsort(expected, kind="stable"), min(_BINS, max(1, len(error) // _BIN)))
    return [
        {"crystals": len(part), "expected": float(expected[part].mean()), "error": float(error[part].mean())}
        for part in parts
    ]
