"""Predicted crystals against relaxed ones: every metric of every crystal, and what a table says of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from deeprelax_ase.data import RelaxationPairs, crystals_of
from deeprelax_ase.data.batches import pair_graph
from deeprelax_ase.evaluation.metrics import prediction_errors, rank_correlation
from deeprelax_ase.evaluation.structure_matching import structure_matches
from deeprelax_ase.graph.settings import GraphSettings

#: Description of each metric, for tables; ``match`` is 1 or 0, so that its mean is the match rate.
TITLES = {
    "coordinates": "coordinates, cell and images apart",
    "cartesian": "coordinates, eq. (25)",
    "bond_length": "bond lengths, eq. (26)",
    "lattice": "lattice, eq. (27)",
    "rotation_free_lattice": "lattice, without rotation",
    "volume": "cell volume, eq. (28)",
    "relative_volume": "relative volume",
    "match": "match rate",
    "rmsd": "RMSD / (V/N)^(1/3)",
}

#: Unit of each metric.
UNITS = {**dict.fromkeys(TITLES, "Å"), "volume": "Å³", **dict.fromkeys(("relative_volume", "match", "rmsd"), "")}

#: In the metric's unit. Smaller errors are rounding, of sites that symmetry fixes: there is nothing to improve.
ZERO = 1e-5


@dataclass(frozen=True, eq=False)
class Assessment:
    """Metrics of G predicted crystals.

    Attributes:
        predicted: (G,) of each metric by name, see :data:`UNITS`; match and rmsd only where they were asked for.
        unrelaxed: the same of the unrelaxed crystals: what the paper calls the Dummy.
        uncertainty: (G,) the global uncertainty, where there is one.
    """

    predicted: Mapping[str, np.ndarray]
    unrelaxed: Mapping[str, np.ndarray]
    uncertainty: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.predicted["coordinates"])

    def take(self, chosen: np.ndarray) -> Assessment:
        """Take the assessment of the ``chosen`` crystals, a mask or indices."""
        return Assessment(
            {name: values[chosen] for name, values in self.predicted.items()},
            {name: values[chosen] for name, values in self.unrelaxed.items()},
            None if self.uncertainty is None else self.uncertainty[chosen],
        )

    def summary(self) -> dict[str, dict[str, Any]]:
        """Means and medians of each metric, the improvement over the unrelaxed crystals in per cent, and the unit.

        The improvement is None where the unrelaxed crystals have no error beyond rounding, see :data:`ZERO`.
        ``uncertainty_rank_correlation`` is that with the error of the bond lengths, as in the paper's figure 5; None
        where it is not defined.
        """
        result: dict[str, dict[str, Any]] = {}
        for name, values in self.predicted.items():
            before, after = float(self.unrelaxed[name].mean()), float(values.mean())
            gain = after - before if name == "match" else before - after
            result[name] = {
                "unrelaxed": before,
                "predicted": after,
                "improvement_percent": 100 * gain / before if before > ZERO else None,
                "unrelaxed_median": float(np.median(self.unrelaxed[name])),
                "predicted_median": float(np.median(values)),
                "unit": UNITS[name],
            }
        if self.uncertainty is not None:
            rank = rank_correlation(self.uncertainty, self.predicted["bond_length"])
            result["uncertainty_rank_correlation"] = {"predicted": None if math.isnan(rank) else rank, "unit": ""}
        result["crystals"] = {"predicted": len(self), "unit": ""}
        return result

    def to_json(self) -> str:
        """The :meth:`summary` as JSON."""
        return json.dumps(self.summary(), indent=1, ensure_ascii=False, allow_nan=False)


def assess(
    pairs: RelaxationPairs,
    fractional: Tensor,
    cell: Tensor,
    *,
    uncertainty: np.ndarray | None = None,
    match: bool = True,
    jobs: int = 1,
    advance: Callable[[], object] = lambda: None,
) -> Assessment:
    """Compare predicted crystals with the relaxed ones of ``pairs``.

    Args:
        pairs: G pairs of N atoms, on the CPU.
        fractional: (N, 3) predicted fractional coordinates.
        cell: (G, 3, 3) predicted cells, Å.
        uncertainty: (G,) the global uncertainty, where there is one.
        match: whether pymatgen's StructureMatcher compares the crystals too: tens of milliseconds each, twice.
        jobs: processes that do so.
        advance: called after each such comparison, 2 G times.

    Raises:
        ValueError: there are no pairs, or a shape is another one.
    """
    if not len(pairs):
        raise ValueError("there are no pairs to compare with")
    pairs = pairs.to("cpu").double()
    graph = pair_graph(pairs, GraphSettings())
    given = {"fractional": fractional, "cell": cell, "uncertainty": uncertainty}
    shapes = ((len(pairs.numbers), 3), (len(pairs), 3, 3), (len(pairs),))
    for (name, values), shape in zip(given.items(), shapes, strict=True):
        if values is not None and tuple(values.shape) != shape:
            raise ValueError(f"{name} must be {shape} for these pairs, got {tuple(values.shape)}")
    before = prediction_errors(pairs, pairs.fractional_initial, pairs.cell_initial, graph=graph)
    after = prediction_errors(pairs, fractional.double(), cell.double(), graph=graph)
    unrelaxed, found = (_in_order(errors) for errors in (before, after))
    if match:
        relaxed, initial = crystals_of(pairs, "relaxed"), crystals_of(pairs, "initial")
        ends = replace(pairs, fractional_relaxed=fractional.double(), cell_relaxed=cell.double())
        predicted = crystals_of(ends, "relaxed")
        matches = structure_matches([*initial, *predicted], relaxed * 2, jobs=jobs, advance=advance)
        for errors, part in ((unrelaxed, matches[: len(pairs)]), (found, matches[len(pairs) :])):
            errors["match"] = np.array([float(m.same) for m in part])
            errors["rmsd"] = np.array([m.rmsd for m in part])
    return Assessment(found, unrelaxed, uncertainty)


def _in_order(errors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: errors[name].numpy() for name in UNITS if name in errors}
