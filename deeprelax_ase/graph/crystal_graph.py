"""The :class:`CrystalGraph` record: one or many crystals as a periodic multigraph of plain tensors.

Section 4.2 of the DeepRelax paper (arXiv:2404.00865). A single crystal is a batch of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch

from deeprelax_ase.graph.shapes import (
    Batch,
    CellOffsets,
    Cells,
    CrystalCounts,
    CrystalMeans,
    EdgeAtoms,
    EdgeFlags,
    EdgeIndex,
    EdgeVectors,
    Ints,
    Numbers,
    Positions,
    RowComponents,
    RowMatrices,
    Rows,
    RowValues,
)


@dataclass(frozen=True, eq=False)
class CrystalGraph:
    """A batch of G crystals with N atoms and E directed edges in all.

    Edge ``e`` runs from source ``j = edge_index[0, e]`` to destination ``i = edge_index[1, e]``; its atom j sits in the
    cell translated by ``k = cell_offsets[e]`` lattice vectors, so that the edge vector is ``r_j + k L - r_i``.

    Attributes:
        numbers: (N,) int64, atomic numbers.
        positions: (N, 3) float, Cartesian, Å.
        cell: (G, 3, 3) float, lattice vectors in rows, Å.
        batch: (N,) int64, the crystal of each atom, ascending.
        edge_index: (2, E) int64, sources j and destinations i, sorted by destination.
        cell_offsets: (E, 3) int64, k.
        in_cell: (E,) bool, true for the pairs inside the cell (k = 0) that carry displacements, eq. (12); every other
            edge has k != 0. Without such pairs (``max_in_cell=0``) it is false throughout, and k may be anything.
    """

    numbers: Numbers
    positions: Positions
    cell: Cells
    batch: Batch
    edge_index: EdgeIndex
    cell_offsets: CellOffsets
    in_cell: EdgeFlags

    @property
    def num_atoms(self) -> int:
        """N."""
        return self.numbers.shape[0]

    @property
    def num_edges(self) -> int:
        """E."""
        return self.edge_index.shape[1]

    @property
    def num_crystals(self) -> int:
        """G."""
        return self.cell.shape[0]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> CrystalGraph:
        """The graph on ``device``, its floating-point tensors in ``dtype``."""
        moved = {
            f.name: (t := getattr(self, f.name)).to(device=device, dtype=dtype if t.is_floating_point() else None)
            for f in fields(self)
        }
        return replace(self, **moved)


def edge_batch(graph: CrystalGraph) -> EdgeAtoms:
    """(E,) the crystal that each edge belongs to."""
    return graph.batch[graph.edge_index[1]]


def edge_vectors(graph: CrystalGraph, positions: Positions | None = None, cell: Cells | None = None) -> EdgeVectors:
    """(E, 3) vectors ``r_j + k L - r_i`` in Å, of the graph's own geometry or of other ``positions`` and ``cell``."""
    positions = graph.positions if positions is None else positions
    cell = graph.cell if cell is None else cell
    source, destination = graph.edge_index
    shifts = rows_times_matrices(graph.cell_offsets.to(cell.dtype), cell[edge_batch(graph)])
    return positions[source] + shifts - positions[destination]


def fractional_positions(graph: CrystalGraph) -> Positions:
    """(N, 3) fractional coordinates, not wrapped."""
    return rows_times_matrices(graph.positions, inverses(graph.cell)[graph.batch])


def affine_positions(graph: CrystalGraph, cell: Cells) -> Positions:
    """(N, 3) Å, the atoms carried along affinely by a new ``cell`` (G, 3, 3): fractional coordinates stay."""
    return rows_times_matrices(fractional_positions(graph), cell[graph.batch])


def rows_times_matrices(rows: Rows, matrices: RowMatrices) -> Rows:
    """(n, 3) row vectors times (n, 3, 3) matrices, one each.

    Written without a matrix product: autocast and TF32 would round positions to 1e-2 Å.
    """
    return (rows[:, :, None] * matrices).sum(dim=1)


def inverses(matrices: RowMatrices) -> RowMatrices:
    """(n, 3, 3) inverses by cofactors; of a singular matrix they are infinite, or NaN.

    Libraries of linear algebra take their time to load on a GPU, start several kernels, and some wait for them.
    """
    first, second, third = matrices.unbind(dim=1)
    columns = [torch.linalg.cross(second, third), torch.linalg.cross(third, first), torch.linalg.cross(first, second)]
    return torch.stack(columns, dim=2) / (first * columns[0]).sum(dim=1)[:, None, None]


def determinants(matrices: RowMatrices) -> RowValues:
    """(n,) determinants of (n, 3, 3) matrices; written out as :func:`inverses` are."""
    first, second, third = matrices.unbind(dim=1)
    return (first * torch.linalg.cross(second, third)).sum(dim=1)


def atom_counts(graph: CrystalGraph) -> CrystalCounts:
    """(G,) number of atoms of each crystal."""
    return torch.bincount(graph.batch, minlength=graph.num_crystals)


def crystal_mean(values: RowComponents, batch: Ints, size: int, *, counts: CrystalCounts | None = None) -> CrystalMeans:
    """(n, C) values averaged over those of each of ``size`` crystals, (size, C); one without values gives zero.

    ``counts`` (size,) of the values, where they are known, save a wait for the device.
    """
    sums = values.new_zeros(size, values.shape[1]).index_add(0, batch, values)
    counts = torch.bincount(batch, minlength=size) if counts is None else counts
    return sums / counts.clamp_min(1)[:, None]


def collate(graphs: Sequence[CrystalGraph]) -> CrystalGraph:
    """One graph of several, atoms and crystals in the order given."""
    if not graphs:
        raise ValueError("no graphs to collate")
    atom_starts = _starts([g.num_atoms for g in graphs])
    crystal_starts = _starts([g.num_crystals for g in graphs])
    return CrystalGraph(
        numbers=torch.cat([g.numbers for g in graphs]),
        positions=torch.cat([g.positions for g in graphs]),
        cell=torch.cat([g.cell for g in graphs]),
        batch=torch.cat([g.batch + s for g, s in zip(graphs, crystal_starts, strict=True)]),
        edge_index=torch.cat([g.edge_index + s for g, s in zip(graphs, atom_starts, strict=True)], dim=1),
        cell_offsets=torch.cat([g.cell_offsets for g in graphs]),
        in_cell=torch.cat([g.in_cell for g in graphs]),
    )


def _starts(counts: Sequence[int]) -> list[int]:
    starts = [0]
    for count in counts[:-1]:
        starts.append(starts[-1] + count)
    return starts
