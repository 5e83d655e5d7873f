"""From neighbour pairs to edges: the one selection rule that every graph builder shares.

A builder lists the pairs within the cutoff; :func:`select_edges` keeps those that become edges of the multigraph of
section 4.2 of the DeepRelax paper (arXiv:2404.00865).
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from deeprelax_ase.graph.settings import GraphSettings
from deeprelax_ase.graph.shapes import (
    Batch,
    CellOffsets,
    Destinations,
    EdgeFlags,
    EdgeIndex,
    Ints,
    PairFlags,
    PairInts,
    PairLengths,
    PairOffsets,
    Positions,
)

#: Å. Neighbours that lie at most this much beyond the last one kept are kept too. Symmetry makes whole shells of equal
#: distance, and a shell cut by atom order or rounding would break the symmetry of the prediction. Files with four
#: decimals blur a shell by about 1e-3 Å and float32 by 1e-6 Å; at 1e-2 Å the shells survive both, while a crystal
#: without symmetry gains 0.2 edges per atom.
TIE_TOLERANCE = 1e-2

#: Å. The cutoff is inclusive with this margin, so that rounding does not decide about a neighbour at exactly 6 Å.
CUTOFF_MARGIN = 1e-4


class NeighborList(NamedTuple):
    """Neighbour pairs, ordered by destination, then source, then offsets.

    Attributes:
        source: (P,) int64, atom j.
        destination: (P,) int64, atom i, ascending.
        offsets: (P, 3) int64, cell offset k of atom j.
        distances: (P,) float, |r_j + k L - r_i| in Å.
    """

    source: PairInts
    destination: PairInts
    offsets: PairOffsets
    distances: PairLengths


def expand(counts: Ints) -> tuple[PairInts, PairInts]:
    """Ragged ranges: for each of ``counts`` (n,) its index, repeated, and the numbers 0 to count - 1."""
    parent = torch.repeat_interleave(counts)
    starts = counts.cumsum(0) - counts
    return parent, torch.arange(len(parent), device=counts.device) - starts[parent]


def row_starts(ids: PairInts, size: int) -> Ints:
    """(size + 1,) where each of the ids 0 to size - 1 starts in the ascending ``ids``, and the end."""
    return torch.searchsorted(ids, torch.arange(size + 1, device=ids.device))


def in_cell_pairs(positions: Positions, batch: Batch, destinations: Destinations | None = None) -> NeighborList:
    """All pairs j != i of the same crystal with k = 0, without a cutoff.

    Args:
        positions: (N, 3) Å, as given, not wrapped.
        batch: (N,) int64, ascending.
        destinations: ascending atoms i to list the pairs of; all by default.
    """
    if destinations is None:
        destinations = torch.arange(len(batch), device=batch.device)
    crystal = batch[destinations]
    first = torch.searchsorted(batch, crystal)
    row, slot = expand(torch.searchsorted(batch, crystal, right=True) - first - 1)
    destination = destinations[row]
    source = first[row] + slot
    source = source + (source >= destination)  # step over j = i
    distances = torch.linalg.vector_norm(positions[source] - positions[destination], dim=1)
    return NeighborList(source, destination, source.new_zeros(len(source), 3), distances)


def select_edges(
    neighbors: NeighborList, in_cell: NeighborList, *, settings: GraphSettings
) -> tuple[EdgeIndex, CellOffsets, EdgeFlags]:
    """The edges of the multigraph.

    Of the ``max_neighbors`` nearest neighbours of each atom over all cells, those of other cells (k != 0) become
    edges; the ``max_in_cell`` nearest atoms of its own cell become in-cell edges. With ``max_in_cell=0`` the nearest
    neighbours become edges whatever their cell. Ties with the last one, within :data:`TIE_TOLERANCE`, are all kept.

    Args:
        neighbors: every pair within the cutoff, those with k = 0 among them.
        in_cell: every pair with k = 0, see :func:`in_cell_pairs`; not looked at with ``max_in_cell=0``.
        settings: numbers of neighbours.

    Returns:
        ``edge_index`` (2, E) int64, ``cell_offsets`` (E, 3) int64 and ``in_cell`` (E,) bool. Edges are ordered by
        destination, in-cell edges first, then by source and offsets: an order that no rounding changes.
    """
    near = _nearest(neighbors, settings.max_neighbors)
    if not settings.max_in_cell:
        edges = near.nonzero().squeeze(1)
        ends = torch.stack([neighbors.source[edges], neighbors.destination[edges]])
        return ends, neighbors.offsets[edges], torch.zeros_like(edges, dtype=torch.bool)
    cross = (near & (neighbors.offsets != 0).any(dim=1)).nonzero().squeeze(1)
    inner = _nearest(in_cell, settings.max_in_cell).nonzero().squeeze(1)
    cross_destination, inner_destination = neighbors.destination[cross], in_cell.destination[inner]
    # Both lists are sorted: an edge's place is its own rank plus the number of edges of the other list before it.
    inner_place = _ranks(inner) + torch.searchsorted(cross_destination, inner_destination)
    cross_place = _ranks(cross) + torch.searchsorted(inner_destination, cross_destination, right=True)
    edges = cross.new_zeros(len(cross) + len(inner), 5)
    edges[inner_place, 0], edges[inner_place, 1] = in_cell.source[inner], inner_destination
    edges[cross_place, 0], edges[cross_place, 1] = neighbors.source[cross], cross_destination
    edges[cross_place, 2:] = neighbors.offsets[cross]
    flags = torch.zeros(len(edges), dtype=torch.bool, device=edges.device)
    flags[inner_place] = True
    return edges[:, :2].T.contiguous(), edges[:, 2:].contiguous(), flags


def _nearest(pairs: NeighborList, count: int) -> PairFlags:
    """(P,) bool, whether a pair is among the ``count`` nearest of its destination, ties included."""
    if not len(pairs.distances):
        return torch.zeros(0, dtype=torch.bool, device=pairs.source.device)
    # One sort serves all atoms: laid end to end on one axis, the distances of each atom form a block of their own. In
    # float64 a million atoms leave a resolution of 1e-9 Å, far below the tolerance.
    distances = pairs.distances.double()
    axis = pairs.destination * (distances.max() + 1) + distances
    first = torch.searchsorted(pairs.destination, pairs.destination)
    end = torch.searchsorted(pairs.destination, pairs.destination, right=True)
    last = torch.minimum(first + count, end) - 1
    return axis <= axis.sort().values[last] + TIE_TOLERANCE


def _ranks(items: PairInts) -> PairInts:
    return torch.arange(len(items), device=items.device)
