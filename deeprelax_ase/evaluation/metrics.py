"""Metrics of a predicted crystal beside the relaxed one, section 4.10 of arXiv:2404.00865, crystal by crystal.

The sums of eqs. (25)-(27) are taken as means over atoms, edges and components, as the paper's tables report them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.data.pairs import RelaxationPairs
from deeprelax_ase.geometry.nearest_images import nearest_displacements
from deeprelax_ase.graph.crystal_graph import CrystalGraph, crystal_mean, edge_batch, edge_vectors, rows_times_matrices


def prediction_errors(
    pairs: RelaxationPairs,
    fractional: Tensor,
    cell: Tensor,
    *,
    graph: CrystalGraph | None = None,
) -> dict[str, Tensor]:
    """All errors (G,) of G predicted crystals, by name: Å, volume Å³, relative volume without unit.

    Args:
        pairs: the pairs that were predicted, N atoms on the device of the predictions.
        fractional: (N, 3) predicted fractional coordinates.
        cell: (G, 3, 3) Å, predicted.
        graph: of the unrelaxed crystals, see :func:`~deeprelax_ase.data.batches.pair_graph`; where it is given, the
            lengths of its E edges are compared too.
    """
    batch, size, true_cell = pairs.batch, len(pairs), pairs.cell_relaxed
    positions = rows_times_matrices(fractional, cell[batch])
    true_positions = rows_times_matrices(pairs.fractional_relaxed, true_cell[batch])
    volume = volume_error(cell, true_cell)
    found = {
        "coordinates": coordinate_mae(fractional, pairs.fractional_relaxed, true_cell, batch),
        "cartesian": cartesian_mae(positions, true_positions, batch, size),
        "lattice": lattice_mae(cell, true_cell),
        "rotation_free_lattice": rotation_free_lattice_mae(cell, true_cell),
        "volume": volume,
        "relative_volume": volume / torch.linalg.det(true_cell).abs(),
    }
    if graph is not None:
        lengths = torch.linalg.vector_norm(edge_vectors(graph, positions, cell), dim=1)
        true_lengths = torch.linalg.vector_norm(edge_vectors(graph, true_positions, true_cell), dim=1)
        found["bond_length"] = bond_length_mae(lengths, true_lengths, edge_batch(graph), size)
    return found


def crystal_errors(
    pairs: RelaxationPairs, crystals: Sequence[Crystal], *, graph: CrystalGraph | None = None
) -> dict[str, np.ndarray]:
    """:func:`prediction_errors` of predicted ``crystals`` for ``pairs`` on the CPU."""
    found = prediction_errors(pairs, *geometry_of(crystals), graph=graph)
    return {name: values.numpy() for name, values in found.items()}


def geometry_of(crystals: Sequence[Crystal]) -> tuple[Tensor, Tensor]:
    """Fractional coordinates (N, 3) and cells (G, 3, 3) Å of all ``crystals``."""
    fractional = np.concatenate([crystal.fractional_positions for crystal in crystals])
    return torch.from_numpy(fractional), torch.from_numpy(np.stack([crystal.cell for crystal in crystals]))


def coordinate_mae(fractional: Tensor, fractional_true: Tensor, cell_true: Tensor, batch: Tensor) -> Tensor:
    """Mean absolute Cartesian component of the fractional error in the true cell, drift removed; (G,) Å.

    This form of eq. (25) does not mix the error of the cell, the choice of origin or of periodic images into that of
    the coordinates: differences are taken to the nearest images once the crystals lie on each other, see
    :func:`~deeprelax_ase.geometry.nearest_images.nearest_displacements`.

    Args:
        fractional, fractional_true: (N, 3) fractional coordinates, predicted and true.
        cell_true: (G, 3, 3) Å.
        batch: (N,) crystal of each atom, ascending.
    """
    displacements = nearest_displacements(fractional - fractional_true, cell_true, batch)
    return crystal_mean(displacements.abs().mean(dim=1, keepdim=True), batch, len(cell_true)).squeeze(1)


def cartesian_mae(positions: Tensor, positions_true: Tensor, batch: Tensor, size: int) -> Tensor:
    """Eq. (25) as printed: mean absolute difference of Cartesian components, cell error included; (G,) Å."""
    error = (positions - positions_true).abs().mean(dim=1, keepdim=True)
    return crystal_mean(error, batch, size).squeeze(1)


def bond_length_mae(distances: Tensor, distances_true: Tensor, edge_crystal: Tensor, size: int) -> Tensor:
    """Eq. (26): mean absolute error of interatomic distances over each crystal's edges; (G,) Å."""
    return crystal_mean((distances - distances_true).abs()[:, None], edge_crystal, size).squeeze(1)


def lattice_mae(cell: Tensor, cell_true: Tensor) -> Tensor:
    """Eq. (27): mean absolute error of the nine components of the lattice vectors; (G,) Å."""
    return (cell - cell_true).abs().mean(dim=(1, 2))


def rotation_free_lattice_mae(cell: Tensor, cell_true: Tensor) -> Tensor:
    """Eq. (27) once the predicted crystal is turned as a whole so that it is a pure stretch of the true one; (G,) Å.

    With lattice vectors in rows ``cell = cell_true U Q``, where U stretches and Q turns; the error is that of
    ``cell_true U``. It equals :func:`lattice_mae` where there is no rotation, and no rotation of ``cell`` changes it.
    A rotation of ``cell_true`` turns the axes that the nine components are read along, as in eq. (27): the error's
    Euclidean norm is the same along all axes, and the mean of the components lies between 1/9 and 1/3 of it.
    """
    deformation = torch.linalg.solve(cell_true, cell)
    squares, axes = torch.linalg.eigh(deformation @ deformation.mT)
    stretch = (axes * squares.clamp_min(0).sqrt()[:, None]) @ axes.mT
    return lattice_mae(cell_true @ stretch, cell_true)


def volume_error(cell: Tensor, cell_true: Tensor) -> Tensor:
    """Eq. (28): absolute error of the cell volume; (G,) Å³."""
    return (torch.linalg.det(cell).abs() - torch.linalg.det(cell_true).abs()).abs()


def rank_correlation(uncertainty: np.ndarray, error: np.ndarray) -> float:
    """Spearman's rank correlation of predicted uncertainties and true errors (n,) each, as in the paper's figure 5.

    Crystals of which no uncertainty is known, nan, are left out; nan for fewer than two, and where either has one value
    only.
    """
    from scipy.stats import spearmanr

    known = ~np.isnan(uncertainty)
    uncertainty, error = uncertainty[known], error[known]
    if len(error) < 2 or np.ptp(uncertainty) == 0 or np.ptp(error) == 0:
        return float("nan")
    return float(spearmanr(uncertainty, error).statistic)


def share_within(error: np.ndarray, bound: np.ndarray) -> float:
    """The share of the errors (n,) within their bounds (n,)."""
    return float((error <= bound).mean())


def reliability(error: np.ndarray, expected: np.ndarray, bound: np.ndarray) -> dict[str, float | None]:
    """Compare expected errors (n,) with the true ones by size and rank, and measure the share within the bounds.

    Returns:
        ``coverage``, the share within the bounds; the means ``error`` and ``expected``; ``rank correlation``, None
        where it is not defined.
    """
    rank = rank_correlation(expected, error)
    return {
        "coverage": share_within(error, bound),
        "error": float(error.mean()),
        "expected": float(expected.mean()),
        "rank correlation": None if math.isnan(rank) else rank,
    }
