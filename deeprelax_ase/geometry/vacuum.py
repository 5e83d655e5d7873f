"""In which directions cells may be strained: how wide the vacuum of a layer is, no network can tell, nor matters."""

from __future__ import annotations

import torch

from deeprelax_ase.geometry.strain import matrix_product
from deeprelax_ase.graph.shapes import (
    Batch,
    Cells,
    CrystalCounts,
    CrystalFlags,
    Matrices,
    PerAtom,
    PerCrystal,
    Positions,
)

#: Å, from which on a gap between lattice planes is a vacuum that somebody put there. Neighbour lists end at 6 Å; gaps
#: somewhat wider than that are found in open and layered crystals, which close them as they relax.
VACUUM = 10.0


def strain_projectors(fractional: Positions, cell: Cells, batch: Batch, fixed_cell: CrystalFlags) -> Matrices:
    """(G, 3, 3) projectors onto the directions in which cells may be strained.

    Zero where ``fixed_cell`` (G,) says so, else those of :func:`in_plane_projectors`.
    """
    planes = in_plane_projectors(fractional, cell, batch)
    return torch.where(fixed_cell[:, None, None], torch.zeros_like(planes), planes)


def project_strain(strain: Matrices, projectors: Matrices) -> Matrices:
    """(G, 3, 3) P e P, the part of the ``strain`` within the directions that ``projectors`` leave."""
    return matrix_product(matrix_product(projectors, strain), projectors)


def free_directions(projectors: Matrices) -> CrystalCounts:
    """(G,) int64, how many directions ``projectors`` (G, 3, 3) leave: 3, or 2 of a layer, or 0 of a fixed cell."""
    return projectors.diagonal(dim1=1, dim2=2).sum(dim=1).round().long()


def in_plane_projectors(fractional: Positions, cell: Cells, batch: Batch, gap: float = VACUUM) -> Matrices:
    """(G, 3, 3) projectors onto the plane of crystals that are layers in a vacuum; the identity for all others.

    Args:
        fractional: (N, 3) fractional coordinates.
        cell: (G, 3, 3) Å, lattice vectors in rows.
        batch: (N,) the crystal of each atom, ascending.
        gap: Å, width of an empty slab between lattice planes from which on it is vacuum.
    """
    # Rows: reciprocal vectors, at right angles to the planes of the other two. The inverse does not wait for a GPU.
    normals = torch.linalg.inv_ex(cell).inverse.mT
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
