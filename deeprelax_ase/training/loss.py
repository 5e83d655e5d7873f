"""The uncertainty-aware loss, section 4.5 of arXiv:2404.00865, and the true quantities that it compares with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deeprelax_ase.geometry.quantities import RelaxationQuantities
from deeprelax_ase.graph.crystal_graph import CrystalGraph, edge_vectors


@dataclass(frozen=True, eq=False)
class RelaxedGeometry:
    """True quantities of a batch, in Å, with the weight of each edge, pair and crystal: zero for dummies.

    Attributes:
        distances: (E,).
        displacements: (P,).
        cell: (G, 3, 3).
        edges, pairs, crystals: (E,), (P,) and (G,) weights.
    """

    distances: Tensor
    displacements: Tensor
    cell: Tensor
    edges: Tensor
    pairs: Tensor
    crystals: Tensor


def relaxed_geometry(
    graph: CrystalGraph, positions: Tensor, cell: Tensor, anchors: Tensor, pairs: Tensor | None = None
) -> RelaxedGeometry:
    """Distances and displacements of the relaxed ``positions`` (N, 3) in ``cell`` (G, 3, 3), on the graph's edges.

    A displacement is the distance from the anchor of atom i to the relaxed atom j, as in the paper's own code. Atoms of
    number zero are dummies, which count for nothing. For ``pairs`` see :meth:`~deeprelax_ase.nn.DeepRelax.forward`.
    """
    pairs = graph.in_cell.nonzero().squeeze(1) if pairs is None else pairs
    source, destination = graph.edge_index[:, pairs]
    real = (graph.numbers > 0).to(cell.dtype)
    return RelaxedGeometry(
        distances=torch.linalg.vector_norm(edge_vectors(graph, positions, cell), dim=-1),
        displacements=torch.linalg.vector_norm(positions[source] - anchors[destination], dim=-1),
        cell=cell,
        edges=real[graph.edge_index[1]],
        pairs=real[destination],
        crystals=real.new_zeros(len(cell)).index_add(0, graph.batch, real).clamp(max=1),
    )


def laplace_loss(predicted: Tensor, target: Tensor, scale: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean of eqs. (11)-(12), ``log(2 b) + |d^ - d| / b``: the negative Laplace log-likelihood (15).

    Args:
        predicted, target: (n,) Å; without any, as of crystals of one atom that have no pairs, the loss is zero.
        scale: (n,) b in Å, positive. A model without local uncertainty gives zeros: take :func:`absolute_loss` for it.
        weights: (n,) in the mean; equal by default.
    """
    return _mean(torch.log(2 * scale) + (predicted - target).abs() / scale, weights)


def absolute_loss(predicted: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean absolute error in Å, the loss of a model without local uncertainty; zero without any values."""
    return _mean((predicted - target).abs(), weights)


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
    distances = quantities.distances, truth.distances
    displacements = quantities.displacements, truth.displacements
    if uncertainty:
        distance = laplace_loss(*distances, quantities.distance_scales, truth.edges)
        displacement = laplace_loss(*displacements, quantities.displacement_scales, truth.pairs)
    else:
        distance = absolute_loss(*distances, truth.edges)
        displacement = absolute_loss(*displacements, truth.pairs)
    lattice = absolute_loss(quantities.cell, truth.cell, truth.crystals[:, None, None].expand_as(truth.cell))
    return {
        "loss": distance + displacement + lattice_weight * lattice,
        "distance": distance,
        "displacement": displacement,
        "lattice": lattice,
    }


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """The mean; of nothing it is zero, where ``Tensor.mean`` gives nan and with it nan weights."""
    if weights is None:
        return values.sum() / max(values.numel(), 1)
    return (values * weights).sum() / weights.sum().clamp(min=1)
