"""The MatGL graph builder: MatGL's periodic converters make the graph, this module reads its tensors.

MatGL 2 makes a ``DGLGraph``, MatGL 3 and later a ``Data`` of torch-geometric.

MatGL's edges run from ``src`` to ``dst`` with the vector ``r[dst] + pbc_offset L - r[src]``. In a :class:`CrystalGraph`
the atom whose image is taken is the source j, so that MatGL's ``dst`` is j and its ``src`` is i.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.graph.checks import check_density, check_distances
from deeprelax_ase.graph.crystal_graph import CrystalGraph, rows_times_matrices
from deeprelax_ase.graph.edges import CUTOFF_MARGIN, NeighborList, in_cell_pairs, row_starts, select_edges
from deeprelax_ase.graph.matgl_import import exact_neighbors, import_matgl
from deeprelax_ase.graph.settings import DEFAULT_SETTINGS, GraphSettings
from deeprelax_ase.graph.shapes import Batch, Cells, Numbers, PairTable, Positions
from deeprelax_ase.graph.torch_builder import batch_tensors, neighbor_pairs

if TYPE_CHECKING:
    from dgl import DGLGraph
    from torch_geometric.data import Data


def build_graph(
    crystals: Sequence[Crystal], *, settings: GraphSettings = DEFAULT_SETTINGS, dtype: torch.dtype = torch.float64
) -> CrystalGraph:
    """One graph of validated crystals, on the CPU, made with MatGL's ``Atoms2Graph``.

    Raises:
        BackendError: MatGL or what it runs on is missing, or MatGL runs on another backend.
        OverlappingAtomsError, IsolatedAtomError: see :func:`deeprelax_ase.graph.checks.check_distances`.
        ValueError: no crystals are given.
    """
    tensors = batch_tensors(crystals)
    check_density(tensors[2], tensors[3])
    # A little further than the cutoff, so that it is the float64 distances computed here that decide.
    tables = [_convert(crystal, settings.cutoff + 2 * CUTOFF_MARGIN) for crystal in crystals]
    neighbors = _neighbor_list(tables, *tensors[1:], settings.cutoff + CUTOFF_MARGIN)
    return _select(*tensors, neighbors, settings).to(dtype=dtype)


def read_matgl_graph(
    graph: DGLGraph | Data,
    crystal: Crystal,
    *,
    settings: GraphSettings = DEFAULT_SETTINGS,
    dtype: torch.dtype = torch.float64,
) -> CrystalGraph:
    """The graph of what a MatGL workflow made already: a ``DGLGraph``, or a ``Data`` of torch-geometric.

    Args:
        graph: from MatGL's ``Atoms2Graph`` or ``Structure2Graph``, with a cutoff of at least ``settings.cutoff``.
        crystal: the crystal that it was made of; its positions, atoms not wrapped or moved since.
        settings: those of the model.
        dtype: of the graph's floating-point tensors.

    Raises:
        ValueError: the graph is not a converter's, or lacks neighbours of ``crystal`` within the cutoff.
        OverlappingAtomsError, IsolatedAtomError: see :func:`deeprelax_ase.graph.checks.check_distances`.
    """
    atoms, known = _contents(graph)
    if "pbc_offset" not in known or atoms != len(crystal):
        raise ValueError(
            f"a graph of {atoms} atoms with data {sorted(known)} is not one of this crystal of {len(crystal)} atoms "
            "with 'pbc_offset'; make it with MatGL's Atoms2Graph or Structure2Graph"
        )
    tensors = batch_tensors([crystal])
    _, positions, cell, batch = tensors
    check_density(cell, batch)
    neighbors = _neighbor_list([_table(graph)], positions, cell, batch, settings.cutoff + CUTOFF_MARGIN)
    _check_complete(neighbors, neighbor_pairs(positions, cell, batch, cutoff=settings.cutoff), settings.cutoff)
    return _select(*tensors, neighbors, settings).to(dtype=dtype)


def _convert(crystal: Crystal, cutoff: float) -> PairTable:
    """:func:`_table` of a crystal's own graph.

    Atoms are wrapped first: memory and time of the converter grow with the cells between atoms and origin, to 13 GB for
    an atom 200 cells away. The offsets are then told from where the atoms are.
    """
    import_matgl()
    from matgl.ext.ase import Atoms2Graph

    cells = np.floor(crystal.fractional_positions).astype(np.int64)
    atoms = crystal.to_atoms()
    atoms.positions -= cells @ crystal.cell
    with exact_neighbors():
        graph = Atoms2Graph(tuple(sorted(set(atoms.get_chemical_symbols()))), cutoff).get_graph(atoms)[0]
    table = _table(graph)
    away = torch.from_numpy(cells)
    table[2:] += (away[table[0]] - away[table[1]]).T
    return table


def _contents(graph: DGLGraph | Data) -> tuple[int, set[str]]:
    """Count the atoms of the graph, and name what it knows of edges (and, in a ``Data``, of atoms)."""
    if hasattr(graph, "edata"):
        return graph.num_nodes(), set(graph.edata)
    return graph.num_nodes, set(graph.keys())


def _table(graph: DGLGraph | Data) -> PairTable:
    """(5, P) the graph's edges: destination, source and the three offsets."""
    of_dgl = hasattr(graph, "edata")
    destination, source = graph.edges() if of_dgl else graph.edge_index
    offsets = graph.edata["pbc_offset"] if of_dgl else graph.pbc_offset
    return torch.stack([destination.long(), source.long(), *offsets.round().long().T]).cpu()


def _neighbor_list(
    tables: Sequence[Tensor], positions: Positions, cell: Cells, batch: Batch, cutoff: float
) -> NeighborList:
    """The edges of ``tables``, one (5, P) a crystal, within ``cutoff`` as one sorted list.

    Distances are computed in float64 from the crystals' own positions.
    """
    starts = row_starts(batch, len(cell))
    table = torch.cat([torch.cat([t[:2] + start, t[2:]]) for t, start in zip(tables, starts[:-1], strict=True)], dim=1)
    table = table[:, torch.from_numpy(np.lexsort(table.numpy()[::-1]))]
    destination, source, offsets = table[0], table[1], table[2:].T
    shifts = rows_times_matrices(offsets.double(), cell[batch[destination]])
    distances = torch.linalg.vector_norm(positions[source] + shifts - positions[destination], dim=1)
    near = distances <= cutoff
    return NeighborList(source[near], destination[near], offsets[near], distances[near])


def _select(
    numbers: Numbers, positions: Positions, cell: Cells, batch: Batch, neighbors: NeighborList, settings: GraphSettings
) -> CrystalGraph:
    """The graph of the neighbours that become edges, once their distances are checked."""
    check_distances(neighbors, batch, cutoff=settings.cutoff)
    wanted = torch.arange(len(batch) if settings.max_in_cell else 0)  # pairs of a large cell are many
    edges = select_edges(neighbors, in_cell_pairs(positions, batch, wanted), settings=settings)
    return CrystalGraph(numbers, positions, cell, batch, *edges)


def _check_complete(found: NeighborList, expected: NeighborList, cutoff: float) -> None:
    """Compare short of the cutoff, where rounding in the converter decides about neighbours at exactly the cutoff."""
    inside, wanted = (pairs.distances <= cutoff - CUTOFF_MARGIN for pairs in (found, expected))
    if not all(torch.equal(a[inside], b[wanted]) for a, b in zip(found[:3], expected[:3], strict=True)):
        raise ValueError(
            f"the graph holds {int(inside.sum())} neighbours within {cutoff} Å, but the crystal has "
            f"{int(wanted.sum())}, or others: it was made with a cutoff below {cutoff} Å, or of other positions. Make "
            f"it of this crystal with cutoff={cutoff} or more, or let deeprelax_ase build the graph."
        )
