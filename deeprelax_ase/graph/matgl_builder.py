"""The MatGL/DGL graph builder: MatGL's periodic converters make the DGLGraph, this module reads its tensors.

MatGL's edges run from ``src`` to ``dst`` with the vector ``r[dst] + pbc_offset L - r[src]``. In a :class:`CrystalGraph`
the atom whose image is taken is the source j, so that MatGL's ``dst`` is j and its ``src`` is i.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.graph.checks import check_density, check_distances
from deeprelax_ase.graph.edges import CUTOFF_MARGIN, NeighborList, in_cell_pairs, select_edges
from deeprelax_ase.graph.matgl_import import import_matgl
from deeprelax_ase.graph.record import CrystalGraph
from deeprelax_ase.graph.settings import DEFAULT_SETTINGS, GraphSettings
from deeprelax_ase.graph.torch_builder import batch_tensors, neighbor_pairs

if TYPE_CHECKING:
    from dgl import DGLGraph


def build_graph(
    crystals: Sequence[Crystal], *, settings: GraphSettings = DEFAULT_SETTINGS, dtype: torch.dtype = torch.float64
) -> CrystalGraph:
    """One graph of validated crystals, on the CPU, made with MatGL's ``Atoms2Graph``.

    Raises:
        BackendError: MatGL or DGL is missing, or MatGL runs on another backend.
        OverlappingAtomsError, IsolatedAtomError: see :func:`deeprelax_ase.graph.checks.check_distances`.
        ValueError: no crystals are given.
    """
    numbers, positions, cell, batch = batch_tensors(crystals)
    check_density(cell, batch)
    # A little further than the cutoff, so that it is the float64 distances computed here that decide.
    graphs = [_convert(crystal, settings.cutoff + 2 * CUTOFF_MARGIN) for crystal in crystals]
    neighbors = _pairs(graphs, positions, cell, batch, settings.cutoff + CUTOFF_MARGIN)
    check_distances(neighbors, batch, cutoff=settings.cutoff)
    edges = select_edges(neighbors, _in_cell(positions, batch, settings), settings=settings)
    return CrystalGraph(numbers, positions, cell, batch, *edges).to(dtype=dtype)


def read_dgl_graph(
    dgl_graph: DGLGraph,
    crystal: Crystal,
    *,
    settings: GraphSettings = DEFAULT_SETTINGS,
    dtype: torch.dtype = torch.float64,
) -> CrystalGraph:
    """The graph of a ``DGLGraph`` that a MatGL workflow made already.

    Args:
        dgl_graph: from MatGL's ``Atoms2Graph`` or ``Structure2Graph``, with a cutoff of at least ``settings.cutoff``.
        crystal: the crystal that it was made of; its positions, atoms not wrapped or moved since.
        settings: what the model needs.
        dtype: of the graph's floating-point tensors.

    Raises:
        ValueError: the graph is not a converter's, or lacks neighbours of ``crystal`` within the cutoff.
        OverlappingAtomsError, IsolatedAtomError: see :func:`deeprelax_ase.graph.checks.check_distances`.
    """
    if "pbc_offset" not in dgl_graph.edata or dgl_graph.num_nodes() != len(crystal):
        raise ValueError(
            f"a graph of {dgl_graph.num_nodes()} atoms with edge data {sorted(dgl_graph.edata)} is not one of this "
            f"crystal of {len(crystal)} atoms with 'pbc_offset'; make it with MatGL's Atoms2Graph or Structure2Graph"
        )
    numbers, positions, cell, batch = batch_tensors([crystal])
    check_density(cell, batch)
    neighbors = _pairs([dgl_graph], positions, cell, batch, settings.cutoff + CUTOFF_MARGIN)
    _check_complete(neighbors, neighbor_pairs(positions, cell, batch, cutoff=settings.cutoff), settings.cutoff)
    check_distances(neighbors, batch, cutoff=settings.cutoff)
    edges = select_edges(neighbors, _in_cell(positions, batch, settings), settings=settings)
    return CrystalGraph(numbers, positions, cell, batch, *edges).to(dtype=dtype)


def _in_cell(positions: Tensor, batch: Tensor, settings: GraphSettings) -> NeighborList:
    """All pairs of a cell, which are many in a large one: none where none are wanted."""
    wanted = torch.arange(len(batch)) if settings.max_in_cell else torch.arange(0)
    return in_cell_pairs(positions, batch, wanted)


def _convert(crystal: Crystal, cutoff: float) -> DGLGraph:
    import_matgl()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from matgl.ext.ase import Atoms2Graph
    atoms = crystal.to_atoms()
    return Atoms2Graph(tuple(sorted(set(atoms.get_chemical_symbols()))), cutoff).get_graph(atoms)[0]


def _pairs(graphs: Sequence[DGLGraph], positions: Tensor, cell: Tensor, batch: Tensor, cutoff: float) -> NeighborList:
    """The graphs' edges within ``cutoff`` as one sorted list, distances in float64 from the crystals' own positions."""
    rows, first = [], 0
    for graph in graphs:
        source, destination = graph.edges()[1].long() + first, graph.edges()[0].long() + first
        rows.append(torch.stack([destination, source, *graph.edata["pbc_offset"].round().long().T]).cpu())
        first += graph.num_nodes()
    table = torch.cat(rows, dim=1)  # (5, P): destination, source, three offsets
    table = table[:, torch.from_numpy(np.lexsort(table.numpy()[::-1]))]
    destination, source, offsets = table[0], table[1], table[2:].T
    shifts = torch.einsum("pk,pkx->px", offsets.double(), cell[batch[destination]])
    distances = torch.linalg.vector_norm(positions[source] + shifts - positions[destination], dim=1)
    near = distances <= cutoff
    return NeighborList(source[near], destination[near], offsets[near], distances[near])


def _check_complete(found: NeighborList, expected: NeighborList, cutoff: float) -> None:
    """Compare short of the cutoff, where rounding in the converter decides about neighbours at exactly the cutoff."""
    inside, wanted = (pairs.distances <= cutoff - CUTOFF_MARGIN for pairs in (found, expected))
    if not all(torch.equal(a[inside], b[wanted]) for a, b in zip(found[:3], expected[:3], strict=True)):
        raise ValueError(
            f"the DGLGraph holds {int(inside.sum())} neighbours within {cutoff} Å, but the crystal has "
            f"{int(wanted.sum())}, or others: it was made with a cutoff below {cutoff} Å, or of other positions. Make "
            f"it of this crystal with cutoff={cutoff} or more, or let deeprelax_ase build the graph."
        )
