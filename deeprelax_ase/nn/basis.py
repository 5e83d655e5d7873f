"""Features of an edge's length and cell offset."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from deeprelax_ase.graph.shapes import CellOffsets, EdgeAtoms, EdgeFeatures, Lengths


class GaussianBasis(nn.Module):
    """lambda of eqs. (4)-(5): ``exp(-(d - mu)^2 / (2 w^2))`` with centres mu from 0 to ``stop`` Å, w their spacing."""

    centers: Tensor

    def __init__(self, num_basis: int, stop: float) -> None:
        super().__init__()
        self.width = stop / (num_basis - 1)
        self.register_buffer("centers", torch.linspace(0.0, stop, num_basis, dtype=torch.float32), persistent=False)

    def forward(self, lengths: Lengths) -> EdgeFeatures:
        """(E,) lengths in Å to (E, num_basis)."""
        return torch.exp(-0.5 * ((lengths[:, None] - self.centers) / self.width) ** 2)


def cell_offset_index(offsets: CellOffsets, offset_range: int) -> EdgeAtoms:
    """K of section 4.3.1: ``(k1 + r) + (k2 + r) n + (k3 + r) n^2`` with ``n = 2 r + 1``; (E, 3) to (E,) int64.

    Offsets beyond ±r are not clamped: the formula goes on, so K leaves [0, n^3) or falls on the K of another offset;
    with r = 2, (3, 0, 0) and (-2, 1, 0) are one. Two such edges share an encoding but keep their own length and
    direction. With r = 2 that concerns cells thinner than about half the cutoff, and atoms left outside of their cell.
    """
    base = 2 * offset_range + 1
    shifted = offsets + offset_range
    return shifted[:, 0] + base * shifted[:, 1] + base * base * shifted[:, 2]


def cell_offset_encoding(offsets: CellOffsets, channels: int, offset_range: int = 2) -> EdgeFeatures:
    """Periodic cell offset encoding p(K), eqs. (2)-(3): (E, 3) integer offsets to (E, channels) float32.

    Args:
        offsets: (E, 3) int64, cell offsets k.
        channels: F of eq. (2), even.
        offset_range: r, see :func:`cell_offset_index`.
    """
    even = torch.arange(0, channels, 2, device=offsets.device, dtype=torch.float32)
    frequencies = torch.exp(-math.log(10000.0) / channels * even)
    phase = cell_offset_index(offsets, offset_range)[:, None] * frequencies
    return torch.stack([phase.sin(), phase.cos()], dim=-1).flatten(start_dim=1)
