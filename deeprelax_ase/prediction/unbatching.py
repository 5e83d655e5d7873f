"""A batch that was relaxed, taken apart into one record per crystal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.prediction.inference import BatchRelaxation
from deeprelax_ase.prediction.record import Prediction, Uncertainty
from deeprelax_ase.prediction.symmetry import split_atoms
from deeprelax_ase.prediction.unchanged import why_unchanged
from deeprelax_ase.uncertainty.calibration import CalibratedError, ErrorFeatures
from deeprelax_ase.uncertainty.ensemble import UncertaintyParts
from deeprelax_ase.uncertainty.worsening import Steps

#: In place of the bonds, where nobody asks for them.
_NO_BOND, _NO_EDGE = np.zeros(0), np.zeros((0, 5), dtype=np.int64)


def predictions_of(
    crystals: Sequence[Crystal],
    relaxation: BatchRelaxation,
    errors: Sequence[CalibratedError] | None,
    model: str,
    timings: dict[str, float],
    *,
    doubts: Sequence[str],
    steps: Steps | None,
    bonds: bool = True,
) -> list[Prediction]:
    """The batch taken apart into one record per crystal; without ``bonds`` none tells the uncertainty of any.

    Crystals are left as they are where ``errors`` and the ``steps`` of the prediction say so; without these, none.
    """
    positions = split_atoms(relaxation.positions.cpu().numpy(), crystals)
    cells = relaxation.cell.cpu().numpy()
    relaxed = [c.with_geometry(xyz, cell) for c, xyz, cell in zip(crystals, positions, cells, strict=True)]
    left = [""] * len(crystals)
    if errors is not None and steps is not None:
        left = [
            why_unchanged(crystal, moved, error, step=step)
            for crystal, moved, error, step in zip(crystals, relaxed, errors, steps.displacement, strict=True)
        ]
    uncertainty = relaxation.uncertainty
    total, aleatoric, epistemic = _roots(uncertainty.crystals)
    per_atom = split_atoms(_roots(uncertainty.atoms)[0], crystals)
    if bonds:
        per_bond, edges = _bonds_of(relaxation, crystals)
    else:
        per_bond, edges = [_NO_BOND] * len(crystals), [_NO_EDGE] * len(crystals)
    features: Sequence[ErrorFeatures | None] = [None] * len(crystals)
    if relaxation.features is not None:
        features = _features_of(relaxation.features)
    converged, solver_steps = relaxation.converged.tolist(), relaxation.steps.tolist()
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
                bonds=edges[g],
            ),
            model=model,
            solver_converged=converged[g],
            solver_steps=solver_steps[g],
            timings=dict(timings),
            features=features[g],
            error=None if errors is None else errors[g],
            unchanged=left[g],
            doubt=doubts[g],
        )
        for g, crystal in enumerate(crystals)
    ]


def _bonds_of(relaxation: BatchRelaxation, crystals: Sequence[Crystal]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Split uncertainties (E,) in Å of edges, and the edges (E, 5) themselves, by crystal."""
    graph = relaxation.graph
    counts = np.bincount(graph.batch[graph.edge_index[1]].cpu().numpy(), minlength=len(crystals))
    cuts = np.cumsum(counts)[:-1]
    source, destination = graph.edge_index.cpu().numpy()
    firsts = np.cumsum([0] + [len(c) for c in crystals])[:-1]
    here = np.repeat(firsts, counts)
    edges = np.column_stack([destination - here, source - here, graph.cell_offsets.cpu().numpy()])
    return np.split(_roots(relaxation.uncertainty.distances)[0], cuts), np.split(edges, cuts)


def _features_of(features: ErrorFeatures) -> list[ErrorFeatures]:
    """Split features by crystal, a column at a time: each number fetched from a GPU makes it wait."""
    columns = [np.asarray(getattr(features, f.name).tolist(), dtype=float).tolist() for f in fields(features)]
    return [ErrorFeatures(*values) for values in zip(*columns, strict=True)]


def _roots(parts: UncertaintyParts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Total, aleatoric and epistemic uncertainty as square roots, in Å."""
    roots = (part.sqrt().double().cpu().numpy() for part in (parts.total, parts.aleatoric, parts.epistemic))
    total, aleatoric, epistemic = roots
    return total, aleatoric, epistemic
