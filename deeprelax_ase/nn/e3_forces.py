"""Input of forces and stress to the end-to-end network, where a calculator has found them in the crystal at hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deeprelax_ase.graph.shapes import Batch, CrystalCounts, Resolved, ResolvedLengths, RowComponents, Scalars, Stacks
from deeprelax_ase.nn.harmonics import tensor_coefficients
from deeprelax_ase.nn.heads import start_at_zero
from deeprelax_ase.nn.records import KnownForces

#: eV/Å and eV: sizes about which forces, and the virial of an atom, are resolved.
SIZES = (0.01, 0.05, 0.25, 1.25, 6.0)


class ForceReader(nn.Module):
    """First features of the atoms of crystals whose forces are known; zero for the others, and before training.

    Each of F, the traceless virial and its trace enters as ``f / sqrt(|f|^2 + s^2)`` for all sizes s: linear where
    small, so that what the network moves can vanish with the forces, and bounded where an overlap makes them huge.
    """

    sizes: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("sizes", torch.tensor(SIZES, dtype=torch.float32), persistent=False)
        count = len(SIZES)
        self.scalars = nn.Sequential(
            nn.Linear(3 * count, channels), nn.SiLU(), start_at_zero(nn.Linear(channels, channels))
        )
        self.vectors = nn.Linear(count, channels, bias=False)
        self.tensors = nn.Linear(count, channels, bias=False)
        nn.init.zeros_(self.vectors.weight)
        nn.init.zeros_(self.tensors.weight)

    def forward(self, known: KnownForces, batch: Batch, counts: CrystalCounts) -> tuple[Scalars, Stacks]:
        """Compute additions to x (N, F) and h (N, 8, F), for atoms of crystals ``batch`` (N,) with ``counts`` (G,)."""
        dtype = self.vectors.weight.dtype
        of_atoms = -known.virial / counts.clamp(min=1)[:, None, None]  # downhill, as forces are
        trace = of_atoms.diagonal(dim1=1, dim2=2).mean(dim=1, keepdim=True)
        vectors, force = self._resolve(known.forces.to(dtype))
        tensors, shear = self._resolve(tensor_coefficients(of_atoms).to(dtype))
        pressure, _ = self._resolve(trace.to(dtype))
        scalars = torch.cat([force, shear[batch], pressure[:, 0][batch]], dim=1)
        h = torch.cat([self.vectors(vectors), self.tensors(tensors)[batch]], dim=1)
        has_forces = known.has_forces.to(dtype)[batch, None]
        return has_forces * self.scalars(scalars), has_forces[:, None] * h

    def _resolve(self, values: RowComponents) -> tuple[Resolved, ResolvedLengths]:
        """(n, C) values of C components as (n, C, sizes) resolved ones, and the lengths (n, sizes) of those."""
        unit = values.abs().amax(dim=1, keepdim=True).clamp(min=1.0)  # squares of huge forces would overflow
        values = values / unit
        squares = values.square().sum(dim=1, keepdim=True)
        widths = torch.sqrt(squares + (self.sizes.to(values.dtype) / unit).square())
        return values[:, :, None] / widths[:, None], torch.sqrt(squares) / widths
