"""From atom features to relaxation quantities, section 4.4 of arXiv:2404.00865."""

from __future__ import annotations

import math

import torch
from torch import nn

from deeprelax_ase.geometry.strain import matrix_product, symmetric_exponential
from deeprelax_ase.graph.shapes import (
    Batch,
    Cells,
    EdgeFeatures,
    EdgeIndex,
    EdgeVectors,
    Lengths,
    Scalars,
    Values,
    Vectors,
)
from deeprelax_ase.nn.paegnn import perceptron

#: Å, bounds of the Laplace scale b: below the first the data are not exact, above the second nothing is known.
SCALE_RANGE = (0.002, 5.0)


def bounded_scale(raw: Values, bounds: tuple[float, float] = SCALE_RANGE) -> Values:
    """b = exp(u) with u squashed smoothly between the logarithms of the ``bounds``: no gradient is cut off."""
    low, high = (math.log(bound) for bound in bounds)
    return torch.exp(low + (high - low) * torch.sigmoid(raw))


def start_at_zero(linear: nn.Linear) -> nn.Linear:
    """``linear`` with zero weights and bias: the untrained network then predicts the unrelaxed crystal."""
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


class DistanceHead(nn.Module):
    """Eqs. (8)-(9): a distance and its Laplace scale for every edge given.

    The linear map of the concatenation ``W_n x_i + W_n x_j + h_ij`` is applied block by block, to the atoms before they
    are gathered; a SiLU and a second linear map follow, as in the paper's own code. With ``directional`` the vector
    features' projections on the bond join: without them an atom with equal bonds all round cannot say where it goes.
    For the edge from j to i with direction r, and V linear maps of channels, half of them of each end::

        a_ij = W_s x_j + W_d x_i + W_e h_ij [+ W_p (V v_j, V v_i) . r]
        d_ij, u_ij = W_2 SiLU(W_1 SiLU(a_ij)),   b_ij = exp(u_ij) within SCALE_RANGE
    """

    def __init__(
        self, channels: int, edge_channels: int, *, directional: bool, uncertainty: bool, residual: bool
    ) -> None:
        super().__init__()
        last = nn.Linear(channels, 2 if uncertainty else 1)
        self.source = nn.Linear(channels, channels)
        self.destination = nn.Linear(channels, channels)
        self.edge = nn.Linear(edge_channels, channels)
        self.vectors = nn.Linear(channels, channels, bias=False) if directional else None
        self.projections = nn.Linear(channels, channels, bias=False) if directional else None
        self.output = nn.Sequential(
            nn.SiLU(),
            nn.Linear(channels, channels),
            nn.SiLU(),
            start_at_zero(last) if residual else last,
        )

    def forward(
        self, x: Scalars, v: Vectors, edge_index: EdgeIndex, edge_features: EdgeFeatures, directions: EdgeVectors
    ) -> tuple[Lengths, Lengths | None]:
        """(E,) raw distance output in Å and (E,) Laplace scale in Å (None without uncertainty)."""
        source, destination = edge_index
        hidden = self.source(x)[source] + self.destination(x)[destination] + self.edge(edge_features)
        if self.vectors is not None and self.projections is not None:
            half = x.shape[-1] // 2
            mixed = self.vectors(v)
            ends = torch.cat([mixed[source, :, :half], mixed[destination, :, half:]], dim=-1)
            hidden = hidden + self.projections((ends * directions[:, :, None]).sum(dim=1))
        output = self.output(hidden)
        return output[:, 0], bounded_scale(output[:, 1]) if output.shape[1] > 1 else None


class LatticeHead(nn.Module):
    """Eq. (10): the relaxed lattice matrix from the unrelaxed one and the sum of the atoms' scalars.

    It reads the nine Cartesian components of the cell, so it is neither equivariant under rotation nor indifferent to
    the choice of the cell. With ``residual`` the output is added to the unrelaxed cell, as the paper's own code does.
    """

    def __init__(self, channels: int, *, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.atoms = nn.Sequential(nn.Linear(channels, channels), nn.SiLU())  # W_x
        self.lattice = perceptron(9, channels, channels)  # W_l
        self.output = nn.Sequential(  # f_L
            nn.Linear(2 * channels, channels), nn.SiLU(), start_at_zero(nn.Linear(channels, 9))
        )

    def forward(self, x: Scalars, cell: Cells, batch: Batch) -> Cells:
        """(G, 3, 3) relaxed cell in Å."""
        pooled = x.new_zeros(cell.shape[0], x.shape[1]).index_add(0, batch, self.atoms(x).to(x.dtype))
        features = torch.cat([self.lattice(cell.flatten(start_dim=1).to(x.dtype)), pooled], dim=-1)
        predicted = self.output(features).to(cell.dtype).view(-1, 3, 3)
        return cell + predicted if self.residual else predicted


class StrainHead(nn.Module):
    """Ours: ``L^ = L exp(strain)``, the strain symmetric and the mean over atoms of ``s_i 1 + sum_j w_ij r^ r^T``.

    Rotates with the crystal and does not depend on the choice of the cell; the predicted volume is always positive.
    """

    def __init__(self, channels: int, edge_channels: int, mean_neighbors: float) -> None:
        super().__init__()
        self.isotropic = nn.Sequential(nn.Linear(channels, channels), nn.SiLU(), start_at_zero(nn.Linear(channels, 1)))
        self.source = nn.Linear(channels, channels)
        self.destination = nn.Linear(channels, channels)
        self.edge = nn.Linear(edge_channels, channels)
        self.output = nn.Sequential(nn.SiLU(), start_at_zero(nn.Linear(channels, 1)))
        self.scale = 1 / math.sqrt(mean_neighbors)

    def forward(
        self,
        x: Scalars,
        cell: Cells,
        batch: Batch,
        edge_index: EdgeIndex,
        edge_features: EdgeFeatures,
        directions: EdgeVectors,
    ) -> Cells:
        """(G, 3, 3) relaxed cell in Å."""
        source, destination = edge_index
        hidden = self.source(x)[source] + self.destination(x)[destination] + self.edge(edge_features)
        weights = self.output(hidden).to(cell.dtype) * self.scale  # (E, 1)
        bonds = (directions[:, :, None] * directions[:, None, :]).flatten(start_dim=1) * weights
        identity = torch.eye(3, dtype=cell.dtype, device=cell.device).flatten()
        onsite = self.isotropic(x).to(cell.dtype) * identity
        total = cell.new_zeros(cell.shape[0], 9).index_add(0, batch[destination], bonds).index_add(0, batch, onsite)
        counts = cell.new_zeros(cell.shape[0]).index_add(0, batch, torch.ones_like(batch, dtype=cell.dtype))
        strain = (total / counts.clamp(min=1)[:, None]).view(-1, 3, 3)  # dummies may have no atoms
        return matrix_product(cell, symmetric_exponential(strain))
