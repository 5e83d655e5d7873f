"""The edges of a graph from both ends, as sums over neighbours and their gradients walk over them."""

from __future__ import annotations

from typing import NamedTuple

from deeprelax_ase.graph.edges import row_starts
from deeprelax_ase.graph.shapes import EdgeAtoms, EdgeIndex, EdgeStarts


class EdgeLists(NamedTuple):
    """The edges of a graph, from both ends.

    Attributes:
        source: (E,) int64, atom j.
        destination: (E,) int64, atom i, ascending.
        destination_starts: (N + 1,) int64, where the edges of each destination start.
        by_source: (E,) int64, edges ordered by source; empty where no gradient is wanted.
        source_starts: (N + 1,) int64, where those of each source start; empty likewise.
    """

    source: EdgeAtoms
    destination: EdgeAtoms
    destination_starts: EdgeStarts
    by_source: EdgeAtoms
    source_starts: EdgeStarts


def edge_lists(edge_index: EdgeIndex, num_atoms: int, *, gradient: bool) -> EdgeLists:
    """The lists of ``edge_index`` (2, E), sorted by destination."""
    source, destination = edge_index
    starts = row_starts(destination, num_atoms)
    if not gradient:
        empty = source.new_zeros(0)
        return EdgeLists(source, destination, starts, empty, empty)
    ordered, by_source = source.sort(stable=True)
    return EdgeLists(source, destination, starts, by_source, row_starts(ordered, num_atoms))
