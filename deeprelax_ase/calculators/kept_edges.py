"""Neighbours of crystals that move a little from call to call: listed with a margin, and listed anew only in need."""

from __future__ import annotations

import torch
from torch import Tensor

from deeprelax_ase.calculators.m3gnet_edges import listed_edges
from deeprelax_ase.graph.crystal_graph import rows_times_matrices
from deeprelax_ase.graph.edges import CUTOFF_MARGIN
from deeprelax_ase.graph.shapes import Batch, CellOffsets, Cells, CrystalFlags, EdgeIndex, PerCrystal, Positions

#: Share of the skin below which what is left of it is spent, once a list of any crystal no longer serves.
_SPENT = 0.3

#: Shares of a batch that may stay though they are done, of more than so many atoms and of fewer, which take as long as
#: still fewer do.
_MAY_STAY, _MANY, _MAY_STAY_OF_FEW = 0.125, 1000, 0.5


def within(
    cutoff: float,
    positions: Positions,
    cells: Cells,
    batch: Batch,
    edge_index: EdgeIndex,
    cell_offsets: CellOffsets,
) -> tuple[Tensor, Tensor]:
    """Edges (2, E') that are no longer than the ``cutoff`` (Å), and their ``cell_offsets`` (E', 3)."""
    source, destination = edge_index
    shifts = rows_times_matrices(cell_offsets.to(cells.dtype), cells[batch[destination]])
    lengths = torch.linalg.vector_norm(positions[source] - positions[destination] + shifts, dim=1)
    near = (lengths <= cutoff + CUTOFF_MARGIN).nonzero().squeeze(1)
    return edge_index[:, near], cell_offsets[near]


class KeptEdges:
    """Lists neighbours, and hands out the last list as long as it holds all; who moved far is listed anew.

    Args:
        cutoff: Å, within which none may be missing.
        skin: Å, by which the list reaches further. None is kept without.

    Attributes:
        listed: how often neighbours were listed, of all crystals or of some.
    """

    def __init__(self, cutoff: float, skin: float) -> None:
        self._cutoff, self._skin, self.listed = cutoff, skin, 0
        self._of: tuple[Positions, Cells, Batch] | None = None
        self._edges: tuple[EdgeIndex, CellOffsets] | None = None

    def __call__(self, positions: Positions, cells: Cells, batch: Batch) -> tuple[EdgeIndex, CellOffsets]:
        """``edge_index`` (2, E) and ``cell_offsets`` (E, 3), the same tensors as before where they serve again.

        Args:
            positions: (N, 3) Å, not wrapped.
            cells: (G, 3, 3) Å.
            batch: (N,) int64, ascending; the very tensor of the last call where the crystals are the same.
        """
        if self._edges is None or self._of is None or self._of[2] is not batch or not self._skin:
            self._edges, self._of = self._list(positions, cells, batch), (positions, cells, batch)
        else:
            room = self._room(*self._of[:2], positions, cells, batch)
            if not bool((room > 0).all()):
                spent = ~(room > _SPENT * self._skin)
                self._edges, self._of = self._renewed(spent, self._edges, self._of, positions, cells)
        return self._edges

    def may_stay(self, atoms: int) -> float:
        """Share of a batch of so many atoms that may stay though it is done: the neighbours of the others serve on."""
        if not self._skin:
            return 0.0
        return _MAY_STAY if atoms > _MANY else _MAY_STAY_OF_FEW

    def _list(self, positions: Positions, cells: Cells, batch: Batch) -> tuple[EdgeIndex, CellOffsets]:
        self.listed += 1
        return listed_edges(positions, cells, batch, cutoff=self._cutoff + self._skin)

    def _renewed(
        self,
        chosen: CrystalFlags,
        edges: tuple[EdgeIndex, CellOffsets],
        of: tuple[Positions, Cells, Batch],
        positions: Positions,
        cells: Cells,
    ) -> tuple[tuple[Tensor, Tensor], tuple[Positions, Cells, Batch]]:  # as many edges as there are now
        """List neighbours of the ``chosen`` crystals (G,) anew and keep those of the others; tell where that was."""
        (edge_index, offsets), (positions_then, cells_then, batch) = edges, of
        moved = chosen[batch]
        atoms = moved.nonzero().squeeze(1)
        theirs = (torch.cumsum(chosen, 0) - 1)[batch[atoms]]
        ends, new_offsets = self._list(positions[atoms], cells[chosen], theirs)
        others = (~moved[edge_index[1]]).nonzero().squeeze(1)
        edge_index = torch.cat([edge_index[:, others], atoms[ends]], dim=1)
        order = edge_index[1].argsort(stable=True)
        then = torch.where(moved[:, None], positions, positions_then)
        then_cells = torch.where(chosen[:, None, None], cells, cells_then)
        return (edge_index[:, order], torch.cat([offsets[others], new_offsets])[order]), (then, then_cells, batch)

    def _room(
        self, positions_then: Positions, cells_then: Cells, positions: Positions, cells: Cells, batch: Batch
    ) -> PerCrystal:
        """(G,) Å that are left of the skin of each crystal, once what moved since is taken off.

        A deformation F shortens a vector by at most ``|F - 1|``, and the atoms at its ends, which move beside it, by
        the sum of their ways.
        """
        deformation = torch.linalg.solve_ex(cells_then, cells).result
        ways = torch.linalg.vector_norm(positions - rows_times_matrices(positions_then, deformation[batch]), dim=1)
        longest = torch.zeros_like(cells[:, 0, 0]).scatter_reduce(0, batch, ways, reduce="amax")
        strain = torch.linalg.matrix_norm(deformation - torch.eye(3, dtype=cells.dtype, device=cells.device))
        return (1 - strain) * (self._cutoff + self._skin) - self._cutoff - 2 * longest
