"""The neighbours that M3GNet reads, in the order in which MatGL lists them.

MatGL 2's sums over angles depend on this order, see :mod:`deeprelax_ase.calculators.m3gnet_three_body`. It comes from
pymatgen's ``find_points_in_spheres`` (MIT): atom by atom, cube by cube of 5 Å about it, and in each cube the points of
the crystal backwards. Here the neighbours are found in batches and then sorted.
"""

from __future__ import annotations

import torch

from deeprelax_ase.graph.shapes import Batch, CellOffsets, Cells, EdgeAtoms, EdgeIndex, Positions
from deeprelax_ase.graph.torch_builder import listed_pairs

#: Å, of the cubes; MatGL's cutoff.
_CUBE = 5.0
#: Å, by which the corner of the cubes lies further out, so that rounding does not decide where an atom lies.
_MARGIN = 2e-8


@torch.no_grad()
def m3gnet_edges(
    positions: Positions, cells: Cells, batch: Batch, *, cutoff: float = _CUBE
) -> tuple[EdgeIndex, CellOffsets]:
    """All neighbours within ``cutoff`` over all cells, ordered as MatGL lists them.

    Args:
        positions: (N, 3) Å, not wrapped; in float64 if the order is to be MatGL's where atoms lie on borders.
        cells: (G, 3, 3) Å.
        batch: (N,) int64, ascending.
        cutoff: Å, 5 or more: what lies beyond 5 Å changes no result, and serves once atoms have moved.

    Returns:
        ``edge_index`` (2, E) int64, sources j and destinations i, ascending in i, and ``cell_offsets`` (E, 3) int64.
    """
    edge_index, offsets = listed_edges(positions, cells, batch, cutoff=cutoff)
    order = matgl_order(positions, cells, batch, edge_index, offsets)
    return edge_index[:, order], offsets[order]


@torch.no_grad()
def listed_edges(
    positions: Positions, cells: Cells, batch: Batch, *, cutoff: float = _CUBE
) -> tuple[EdgeIndex, CellOffsets]:
    """The neighbours of :func:`m3gnet_edges` in no order but that of their destinations."""
    parts = [pairs for _, pairs in listed_pairs(positions, cells, batch, cutoff=cutoff)]
    ends = torch.stack([torch.cat([getattr(p, end) for p in parts]) for end in ("source", "destination")])
    return ends, torch.cat([pairs.offsets for pairs in parts])


@torch.no_grad()
def matgl_order(
    positions: Positions, cells: Cells, batch: Batch, edge_index: EdgeIndex, cell_offsets: CellOffsets
) -> EdgeAtoms:
    """(E,) int64, how to sort edges so that they stand as MatGL lists them.

    Args:
        positions, cells, batch: as for :func:`m3gnet_edges`.
        edge_index: (2, E) int64, sources j and destinations i.
        cell_offsets: (E, 3) int64, of atoms j as they are, not wrapped.
    """
    source, destination = edge_index
    # In pymatgen's order of operations, as the last bit decides into which cell an atom on a border is wrapped.
    fractional = _product(positions, _inverse(cells)[batch])
    whole = fractional - torch.remainder(fractional, 1)
    images = cell_offsets + whole.long()[source]
    wrapped = _product(torch.remainder(fractional, 1), cells[batch])
    points = _product(images.to(positions.dtype), cells[batch[source]]) + wrapped[source]
    low = torch.full_like(cells[:, 0], torch.inf)
    low = low.scatter_reduce(0, batch[:, None].expand(-1, 3), positions, reduce="amin") - _CUBE - _MARGIN

    def cubes(places: Positions, crystal: Batch) -> CellOffsets:
        return torch.floor((places - low[crystal]) / _CUBE).long()

    away = (cubes(points, batch[source]) - cubes(positions, batch)[destination] + 1).clamp(0, 2)  # further: beyond 5 Å
    cube = (away[:, 0] * 3 + away[:, 1]) * 3 + away[:, 2]
    # Within 5 Å there are far fewer than 2**12 images along an axis, seen from the centre.
    a, b, c = (images - whole.long()[destination]).unbind(dim=1)
    backwards = -(((a * 2**13 + b) * 2**13 + c) * 2**24 + source)
    order = backwards.argsort()
    return order[(destination * 27 + cube)[order].argsort(stable=True)]


def _product(rows: Positions, matrices: Cells) -> Positions:
    """(n, 3) rows times (n, 3, 3) matrices, summed in order."""
    x, y, z = rows.unbind(dim=1)
    return (x[:, None] * matrices[:, 0] + y[:, None] * matrices[:, 1]) + z[:, None] * matrices[:, 2]


def _inverse(cells: Cells) -> Cells:
    """(G, 3, 3) by cofactors."""
    m = [[cells[:, i, j] for j in range(3)] for i in range(3)]
    determinant = (
        m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1])
        + m[0][1] * (m[1][2] * m[2][0] - m[1][0] * m[2][2])
        + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0])
    )
    reciprocal = 1 / determinant  # pymatgen's compiler does the same
    rows = []
    for i in range(3):
        for j in range(3):
            p, q, r, s = (j + 1) % 3, (j + 2) % 3, (i + 1) % 3, (i + 2) % 3
            rows.append((m[p][r] * m[q][s] - m[q][r] * m[p][s]) * reciprocal)
    return torch.stack(rows, dim=1).view(-1, 3, 3)
