"""PaiNN (Schütt et al., ICML 2021) that predicts the relaxed coordinates, and the lattice as the paper's eq. (10)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from deeprelax_ase.graph.crystal_graph import CrystalGraph, edge_vectors
from deeprelax_ase.nn.basis import GaussianBasis
from deeprelax_ase.nn.heads import LatticeHead, start_at_zero
from deeprelax_ase.nn.paegnn import PaEGNN


class Backbone(nn.Module):
    """PaEGNN without its cell offset encoding, which is PaiNN, on a geometry that may be another than the graph's."""

    def __init__(self, channels: int, num_layers: int, num_basis: int, cutoff: float, max_neighbors: int) -> None:
        super().__init__()
        self.basis = GaussianBasis(num_basis, cutoff)
        self.layers = PaEGNN(channels, num_layers, num_basis, 100, max_neighbors)

    def forward(self, graph: CrystalGraph, positions: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Scalars (N, F) and vectors (N, 3, F) of atoms at ``positions`` (N, 3) in ``cell`` (G, 3, 3), both in Å."""
        vectors = edge_vectors(graph, positions, cell)
        lengths = torch.linalg.vector_norm(vectors, dim=-1)
        features = self.basis(lengths.to(self.basis.centers.dtype))
        return self.layers(graph.numbers, graph.edge_index, features, (vectors / lengths[:, None]).to(features.dtype))


class VectorHead(nn.Module):
    """Displacements (N, 3) in Å from the atoms' vectors, gated by their scalars; zero before training."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Linear(channels, channels, bias=False)
        self.gates = nn.Sequential(
            nn.Linear(channels, channels), nn.SiLU(), start_at_zero(nn.Linear(channels, channels))
        )
        self.scale = 1 / math.sqrt(channels)

    def forward(self, x: Tensor, v: Tensor) -> Tensor:
        """From scalars (N, F) and vectors (N, 3, F)."""
        return (self.mix(v) * self.gates(x)[:, None]).sum(dim=-1) * self.scale


class PaiNN(nn.Module):
    """Displacements and relaxed lattice of the unrelaxed crystal."""

    def __init__(self, channels: int, num_layers: int, num_basis: int, cutoff: float, max_neighbors: int) -> None:
        super().__init__()
        self.backbone = Backbone(channels, num_layers, num_basis, cutoff, max_neighbors)
        self.coordinates = VectorHead(channels)
        self.lattice = LatticeHead(channels, residual=True)

    def forward(self, graph: CrystalGraph, true_cell: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Displacements (N, 3) and cell (G, 3, 3) in Å."""
        x, v = self.backbone(graph, graph.positions, graph.cell)
        return self.coordinates(x, v).to(graph.cell.dtype), self.lattice(x, graph.cell, graph.batch)
