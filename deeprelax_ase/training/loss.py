"""The uncertainty-aware loss, section 4.5 of arXiv:2404.00865, and the true quantities that it compares with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deeprelax_ase.geometry.quantities import RelaxationQuantities
from deeprelax_ase.graph.record import CrystalGraph, edge_vectors


@dataclass(frozen=True, eq=False)
class RelaxedGeometry:
    """True quantities of a batch: distances (E,), displacements (P,) and cell (G, 3, 3), all in Å."""

    distances: Tensor
    displacements: Tensor
    cell: Tensor


def relaxed_geometry(graph: CrystalGraph, positions: Tensor, cell: Tensor, anchors: Tensor) -> RelaxedGeometry:
    """Distances and displacements of the relaxed ``positions`` (N, 3) in ``cell`` (G, 3, 3), on the graph's edges.

    A displacement is the distance from the anchor of atom i to the relaxed atom j, as in the paper's own code.
    """
    source, destination = graph.edge_index[:, graph.in_cell]
    return RelaxedGeometry(
        distances=torch.linalg.vector_norm(edge_vectors(graph, positions, cell), dim=-1),
        displacements=torch.linalg.vector_norm(positions[source] - anchors[destination], dim=-1),
        cell=cell,
    )


def laplace_loss(predicted: Tensor, target: Tensor, scale: Tensor) -> Tensor:
    """Mean of eqs. (11)-(12), ``log(2 b) + |d^ - d| / b``: the negative Laplace log-likelihood (15).

    Args:
        predicted, target: (n,) Å; without any, as of crystals of one atom that have no pairs, the loss is zero.
        scale: (n,) b in Å, positive. A model without local uncertainty gives zeros: take :func:`absolute_loss` for it.
    """
    return _mean(torch.log(2 * scale) + (predicted - target).abs() / scale)


def absolute_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error in Å, the loss of a model without local uncertainty; zero without any values."""
    return _mean((predicted - target).abs())


def deeprelax_loss(
    quantities: RelaxationQuantities, truth: RelaxedGeometry, *, lattice_weight: float = 1.0, uncertainty: bool = True
) -> dict[str, Tensor]:
    """Eq. (14) and its parts (11)-(13), each a mean over edges, pairs or matrix elements so that sizes do not matter.

    Args:
        quantities: the network's.
        truth: the true geometry on the same edges.
        lattice_weight: factor of the lattice term; 1 in the paper.
        uncertainty: whether the model predicts Laplace scales; otherwise absolute errors are used.

    Returns:
        ``loss``, ``distance``, ``displacement``, ``lattice``.
    """
    if uncertainty:
        distance = laplace_loss(quantities.distances, truth.distances, quantities.distance_scales)
        displacement = laplace_loss(quantities.displacements, truth.displacements, quantities.displacement_scales)
    else:
        distance = absolute_loss(quantities.distances, truth.distances)
        displacement = absolute_loss(quantities.displacements, truth.displacements)
    lattice = absolute_loss(quantities.cell, truth.cell)
    return {
        "loss": distance + displacement + lattice_weight * lattice,
        "distance": distance,
        "displacement": displacement,
        "lattice": lattice,
    }


def _mean(values: Tensor) -> Tensor:
    """The mean; of nothing it is zero, where ``Tensor.mean`` gives nan and with it nan weights."""
    return values.sum() / max(values.numel(), 1)
