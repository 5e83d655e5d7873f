"""A batch that an engine relaxed, taken apart into one record per crystal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np

from deeprelax_ase.calibration import CalibratedError, ErrorSigns
from deeprelax_ase.engines import BatchRelaxation
from deeprelax_ase.prediction import Prediction, Uncertainty, settled
from deeprelax_ase.structure import Crystal
from deeprelax_ase.uncertainty import UncertaintyParts


def predictions_of(
    crystals: Sequence[Crystal],
    geometries: Sequence[tuple[np.ndarray, np.ndarray]],
    relaxation: BatchRelaxation,
    errors: Sequence[CalibratedError] | None,
    model: str,
    timings: dict[str, float],
    *,
    leave_settled: bool,
) -> list[Prediction]:
    """The batch taken apart into one record per crystal."""
    relaxed = [c.with_geometry(*geometry) for c, geometry in zip(crystals, geometries, strict=True)]
    left = [
        errors is not None and leave_settled and settled(c, r, errors[g])
        for g, (c, r) in enumerate(zip(crystals, relaxed, strict=True))
    ]
    graph, uncertainty = relaxation.graph, relaxation.uncertainty
    total, aleatoric, epistemic = _roots(uncertainty.crystals)
    per_atom = split_atoms(_roots(uncertainty.atoms)[0], crystals)
    edges = np.bincount(graph.batch[graph.edge_index[1]].cpu().numpy(), minlength=len(crystals))
    cuts = np.cumsum(edges)[:-1]
    per_bond = np.split(_roots(uncertainty.distances)[0], cuts)
    source, destination = graph.edge_index.cpu().numpy()
    bonds = np.split(np.column_stack([destination, source, graph.cell_offsets.cpu().numpy()]), cuts)
    firsts = np.cumsum([0] + [len(c) for c in crystals])
    converged, steps = relaxation.converged.tolist(), relaxation.steps.tolist()
    return [
        Prediction(
            initial=crystal,
            relaxed=crystal if left[g] else relaxed[g],
            uncertainty=Uncertainty(
                total=float(total[g]),
                aleatoric=float(aleatoric[g]),
                epistemic=float(epistemic[g]),
                per_atom=per_atom[g],
                per_bond=per_bond[g],
                bonds=bonds[g] - np.array([firsts[g], firsts[g], 0, 0, 0]),
            ),
            model=model,
            solver_converged=converged[g],
            solver_steps=steps[g],
            timings=dict(timings),
            signs=None if relaxation.signs is None else _signs_of(relaxation.signs, g),
            error=None if errors is None else errors[g],
            settled=left[g],
        )
        for g, crystal in enumerate(crystals)
    ]


def _signs_of(signs: ErrorSigns, crystal: int) -> ErrorSigns:
    return ErrorSigns(**{f.name: float(getattr(signs, f.name)[crystal]) for f in fields(signs)})


def _roots(parts: UncertaintyParts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Total, aleatoric and epistemic uncertainty as square roots, in Å."""
    roots = (part.sqrt().double().cpu().numpy() for part in (parts.total, parts.aleatoric, parts.epistemic))
    total, aleatoric, epistemic = roots
    return total, aleatoric, epistemic


def split_atoms(values: np.ndarray, crystals: Sequence[Crystal]) -> list[np.ndarray]:
    """Values of all atoms, cut into those of each crystal."""
    return np.split(values, np.cumsum([len(c) for c in crystals])[:-1])
