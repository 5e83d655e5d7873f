"""E(n)-equivariant graph network (Satorras et al., ICML 2021): its layers move the atoms themselves."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deeprelax_ase.graph.crystal_graph import CrystalGraph, edge_vectors
from deeprelax_ase.nn.basis import GaussianBasis
from deeprelax_ase.nn.heads import LatticeHead, start_at_zero


class Layer(nn.Module):
    """Eqs. (3)-(6) of Satorras et al. over periodic edges; squared distances are expanded in Gaussians of distances."""

    def __init__(self, channels: int, num_basis: int, cutoff: float) -> None:
        super().__init__()
        self.basis = GaussianBasis(num_basis, cutoff)
        self.message = nn.Sequential(  # phi_e
            nn.Linear(2 * channels + num_basis, channels), nn.SiLU(), nn.Linear(channels, channels), nn.SiLU()
        )
        self.move = nn.Sequential(  # phi_x
            nn.Linear(channels, channels), nn.SiLU(), start_at_zero(nn.Linear(channels, 1))
        )
        self.update = nn.Sequential(  # phi_h
            nn.Linear(2 * channels, channels), nn.SiLU(), nn.Linear(channels, channels)
        )
        self.norm = nn.LayerNorm(channels)

    def forward(self, h: Tensor, positions: Tensor, graph: CrystalGraph) -> tuple[Tensor, Tensor]:
        """New features (N, F) and positions (N, 3) in Å."""
        source, destination = graph.edge_index
        vectors = edge_vectors(graph, positions)
        lengths = torch.linalg.vector_norm(vectors, dim=-1)
        normed = self.norm(h)
        radial = self.basis(lengths.to(self.basis.centers.dtype))
        message = self.message(torch.cat([normed[destination], normed[source], radial], dim=-1))
        ones = torch.ones_like(destination)
        count = ones.new_zeros(len(h)).index_add(0, destination, ones).clamp_min(1)[:, None]
        pull = vectors / (1 + lengths[:, None]) * self.move(message).to(vectors.dtype)
        positions = positions + torch.zeros_like(positions).index_add(0, destination, pull) / count
        gathered = torch.zeros_like(h).index_add(0, destination, message.to(h.dtype)) / count.to(h.dtype).sqrt()
        return h + self.update(torch.cat([normed, gathered], dim=-1)).to(h.dtype), positions


class EGNN(nn.Module):
    """Displacements and relaxed lattice of the unrelaxed crystal."""

    def __init__(self, channels: int, num_layers: int, num_basis: int, cutoff: float, max_neighbors: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(101, channels)
        self.layers = nn.ModuleList(Layer(channels, num_basis, cutoff) for _ in range(num_layers))
        self.lattice = LatticeHead(channels, residual=True)

    def forward(self, graph: CrystalGraph, true_cell: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Displacements (N, 3) and cell (G, 3, 3) in Å."""
        h, positions = self.embedding(graph.numbers), graph.positions
        for layer in self.layers:
            h, positions = layer(h, positions, graph)
        return positions - graph.positions, self.lattice(h, graph.cell, graph.batch)
