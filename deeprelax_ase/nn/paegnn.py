"""Periodicity-aware equivariant graph network (PaEGNN), section 4.3 of arXiv:2404.00865.

Features: scalars x (N, F) and vectors v (N, 3, F). Maps that act on vectors mix channels only and have no bias, so
vectors rotate with the crystal and scalars do not change.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from deeprelax_ase.graph.shapes import Components, EdgeFeatures, EdgeIndex, EdgeVectors, Numbers, Scalars, Vectors

#: Added under the square root of a vector's norm: its gradient stays finite where symmetry makes the vector zero.
NORM_EPSILON = 1e-2


def smooth_norm(vectors: Components) -> Scalars:
    """Norm along the spatial axis, (N, 3, F) to (N, F), differentiable at zero."""
    return (vectors.square().sum(dim=1) + NORM_EPSILON).sqrt() - math.sqrt(NORM_EPSILON)


def perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two linear maps with a SiLU between."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs))


class MessagePhase(nn.Module):
    """Eqs. (4)-(5): what each atom receives from its neighbours.

    As in PaiNN (reference [26] of the paper), W_h, W_u and W_v are the three output blocks of one small perceptron, and
    gamma_h, gamma_u, gamma_v those of one linear map of the edge features.
    """

    def __init__(self, channels: int, edge_channels: int, mean_neighbors: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.scalars = perceptron(channels, channels, 3 * channels)
        self.filters = nn.Linear(edge_channels, 3 * channels)
        self.scale = 1 / math.sqrt(mean_neighbors)

    def forward(
        self, x: Scalars, v: Vectors, edge_index: EdgeIndex, edge_features: EdgeFeatures, directions: EdgeVectors
    ) -> tuple[Scalars, Vectors]:
        """m (N, F) and m_vec (N, 3, F), scaled down by the square root of the usual number of neighbours."""
        source, destination = edge_index
        weights = self.scalars(self.norm(x))[source] * self.filters(edge_features)  # (E, 3F)
        to_scalar, along_vector, along_bond = weights.chunk(3, dim=-1)
        gathered = v.to(weights.dtype)[source]  # under autocast the messages stay in the lower precision
        vector_messages = along_vector[:, None] * gathered + along_bond[:, None] * directions.to(weights)[:, :, None]
        m = torch.zeros_like(x).index_add(0, destination, to_scalar.to(x.dtype))  # eq. (4)
        m_vec = torch.zeros_like(v).index_add(0, destination, vector_messages.to(v.dtype))  # eq. (5)
        return m * self.scale, m_vec * self.scale


class UpdatePhase(nn.Module):
    """Eqs. (6)-(7): scalars and vectors of one atom update each other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.mix = nn.Linear(channels, 2 * channels, bias=False)  # U and V
        self.weights = perceptron(2 * channels, channels, 3 * channels)  # W_s1, W_s2, W_v
        self.scale = 1 / math.sqrt(channels)

    def forward(self, x: Scalars, v: Vectors) -> tuple[Scalars, Vectors]:
        """New scalars (N, F) and vectors (N, 3, F), to be added to the old ones."""
        u_mixed, v_mixed = self.mix(v).chunk(2, dim=-1)
        plain, gate, vector_gate = self.weights(torch.cat([self.norm(x), smooth_norm(u_mixed)], dim=-1)).chunk(3, -1)
        inner = (v_mixed * u_mixed).sum(dim=1) * self.scale
        return plain + gate * inner, vector_gate[:, None] * v_mixed


class PaEGNN(nn.Module):
    """Embedding, then ``num_layers`` message and update phases, each with a skip connection."""

    def __init__(self, channels: int, num_layers: int, edge_channels: int, num_elements: int, mean_neighbors: float):
        super().__init__()
        self.embedding = nn.Embedding(num_elements + 1, channels)
        self.messages = nn.ModuleList(MessagePhase(channels, edge_channels, mean_neighbors) for _ in range(num_layers))
        self.updates = nn.ModuleList(UpdatePhase(channels) for _ in range(num_layers))
        self.norm = nn.LayerNorm(channels)

    def forward(
        self, numbers: Numbers, edge_index: EdgeIndex, edge_features: EdgeFeatures, directions: EdgeVectors
    ) -> tuple[Scalars, Vectors]:
        """Features after the last layer.

        Args:
            numbers: (N,) atomic numbers.
            edge_index: (2, E) source and destination.
            edge_features: (E, edge_channels) radial basis and cell offset encoding.
            directions: (E, 3) unit vectors from destination to source.

        Returns:
            x (N, F) scalars and v (N, 3, F) vectors.
        """
        x = self.embedding(numbers)
        v = x.new_zeros(x.shape[0], 3, x.shape[1])
        for message, update in zip(self.messages, self.updates, strict=True):
            m, m_vec = message(x, v, edge_index, edge_features, directions)
            x, v = x + m, v + m_vec
            dx, dv = update(x, v)
            x, v = x + dx, v + dv
        return self.norm(x), v
