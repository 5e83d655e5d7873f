"""Layers in a vacuum: how wide it is, no network can tell, nor does it matter."""

from __future__ import annotations

import torch

from deeprelax_ase.graph.shapes import Batch, Cells, Matrices, PerAtom, PerCrystal, Positions

#: Å, from which on a gap between lattice planes is a vacuum that somebody put there. Neighbour lists end at 6 Å; gaps
#: somewhat wider than that are found in open and layered crystals, which close them as they relax.
VACUUM = 10.0


def in_plane_projectors(fractional: Positions, cell: Cells, batch: Batch, gap: float = VACUUM) -> Matrices:
    """(G, 3, 3) projectors onto the plane of crystals that are layers in a vacuum; the identity for all others.

    Args:
        fractional: (N, 3) fractional coordinates.
        cell: (G, 3, 3) Å, lattice vectors in rows.
        batch: (N,) the crystal of each atom, ascending.
        gap: Å, width of an empty slab between lattice planes from which on it is vacuum.
    """
    normals = torch.linalg.inv(cell).mT  # rows: reciprocal vectors, at right angles to the planes of the other two
    spacings = 1 / torch.linalg.vector_norm(normals, dim=2)
    wide = torch.stack([widest_gaps(fractional[:, k], batch, len(cell)) for k in range(3)], dim=1) * spacings > gap
    units = normals * spacings[:, :, None]
    identity = torch.eye(3, dtype=cell.dtype, device=cell.device).expand(len(cell), 3, 3)
    outer = units[:, :, :, None] * units[:, :, None, :]
    # two gaps make a wire and three a molecule: only one leaves a plane
    chosen = wide & (wide.sum(dim=1, keepdim=True) == 1)
    return identity - (outer * chosen[:, :, None, None].to(cell.dtype)).sum(dim=1)


def widest_gaps(coordinates: PerAtom, batch: Batch, size: int) -> PerCrystal:
    """(G,) the widest gap between the fractional ``coordinates`` (N,) of each crystal, around its period of 1."""
    wrapped = coordinates - torch.floor(coordinates)
    order = torch.argsort(wrapped + 2 * batch.to(wrapped.dtype))
    values, owner = wrapped[order], batch[order]
    inner = torch.where(owner[1:] == owner[:-1], values[1:] - values[:-1], torch.zeros_like(values[1:]))
    widest = values.new_zeros(size).scatter_reduce(0, owner[1:], inner, "amax")
    lowest = values.new_ones(size).scatter_reduce(0, owner, values, "amin")
    highest = values.new_zeros(size).scatter_reduce(0, owner, values, "amax")
    return torch.maximum(widest, 1 - highest + lowest)
