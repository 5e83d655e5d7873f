"""Neighbours in one large crystal, by a cell list: the time grows with the number of atoms, not with its square."""

from __future__ import annotations

import torch

from deeprelax_ase.graph.edges import CUTOFF_MARGIN, NeighborList, expand, row_starts
from deeprelax_ase.graph.shapes import Cell, Destinations, Positions

#: Å, added to the cutoff when bins are looked through, so that rounding loses no neighbour.
_MARGIN = 1e-2

#: Most bins along an axis: more would only be empty.
_MOST_BINS = 128


def cell_list_pairs(positions: Positions, cell: Cell, *, cutoff: float, destinations: Destinations) -> NeighborList:
    """Every pair within ``cutoff`` in one crystal, as :func:`~deeprelax_ase.graph.neighbor_pairs` lists them.

    The cell is cut into bins at least as wide as the cutoff, where it is wide enough; an atom's neighbours are sought
    in its own bin and those around it, with their periodic images.

    Args:
        positions: (N, 3) Å, as given, not wrapped.
        cell: (3, 3) Å.
        cutoff: Å, inclusive with :data:`~deeprelax_ase.graph.edges.CUTOFF_MARGIN`.
        destinations: ascending atoms i to list the neighbours of.
    """
    radius = cutoff + _MARGIN
    heights = 1 / torch.linalg.vector_norm(torch.linalg.inv(cell), dim=0)  # distances between opposite faces
    bins = (heights / radius).floor().clamp(1, _MOST_BINS).long()
    fractional = torch.linalg.solve(cell.T, positions.T).T
    outside = fractional.floor()
    bin3 = torch.minimum(((fractional - outside) * bins).long(), bins - 1)  # (N, 3)
    strides = torch.stack([bins[1] * bins[2], bins[2], torch.ones_like(bins[0])])
    number = (bin3 * strides).sum(dim=1)
    order = number.argsort(stable=True)
    starts = row_starts(number[order], int(bins.prod()))
    reach = torch.ceil(radius / (heights / bins)).long().tolist()
    ranges = [torch.arange(-r, r + 1, device=cell.device) for r in reach]
    around = torch.cartesian_prod(*ranges)  # (B, 3)
    sought = bin3[destinations, None] + around  # (D, B, 3)
    image = torch.div(sought, bins, rounding_mode="floor")
    sought = ((sought - image * bins) * strides).sum(dim=2).reshape(-1)
    row, slot = expand(starts[sought + 1] - starts[sought])
    source = order[starts[sought][row] + slot]
    destination = destinations[torch.div(row, len(around), rounding_mode="floor")]
    # the image counts from where atoms are wrapped to, the offset from where they are
    offsets = image.reshape(-1, 3)[row] + (outside[destination] - outside[source]).long()
    moved = (offsets.to(cell.dtype)[:, :, None] * cell).sum(dim=1)  # no matmul: TF32 or autocast would round it
    distances = torch.linalg.vector_norm(positions[source] - positions[destination] + moved, dim=1)
    itself = (source == destination) & (offsets == 0).all(dim=1)
    kept = ((distances <= cutoff + CUTOFF_MARGIN) & ~itself).nonzero().squeeze(1)
    for key in (*offsets.T.flip(0), source, destination):  # the last one counts most
        kept = kept[key[kept].argsort(stable=True)]
    return NeighborList(source[kept], destination[kept], offsets[kept], distances[kept])
