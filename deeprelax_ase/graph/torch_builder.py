"""The batched graph builder in plain torch: many crystals at once, on CPU or CUDA.

Neighbours are enumerated lattice plane by lattice plane, lattice line by lattice line, point by point: only points
inside the cutoff sphere are ever made, whatever the shape of the cell and wherever its atoms lie. This way visits every
pair of atoms of a crystal; large crystals have a cell list instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.graph.cell_list import cell_list_pairs
from deeprelax_ase.graph.checks import check_density, check_distances
from deeprelax_ase.graph.columns import CrystalColumns
from deeprelax_ase.graph.crystal_graph import CrystalGraph
from deeprelax_ase.graph.edges import CUTOFF_MARGIN, NeighborList, expand, in_cell_pairs, row_starts, select_edges
from deeprelax_ase.graph.settings import DEFAULT_SETTINGS, GraphSettings
from deeprelax_ase.graph.shapes import (
    Batch,
    CellOffsets,
    Cells,
    Destinations,
    EdgeFlags,
    EdgeIndex,
    Matrices,
    Numbers,
    Positions,
)

#: Pairs and images enumerated at once (upper estimate); larger batches and cells are worked through in chunks of
#: destinations. On a CPU small chunks stay in its caches; a GPU wants few large ones, at most about 3 GB.
CHUNK_SIZES = {"cpu": 2**21, "cuda": 2**25}

#: Atoms of a crystal from which on a cell list is faster than looking at every pair.
LARGE = 400

#: Pairs that a cell list looks at for an atom, about: 27 bins of 6 Å with 0.1 atoms / Å³.
_LISTED = 600

#: Å, added to the radius of the enumeration so that rounding loses no neighbour; the exact cutoff is applied after it.
_ENUMERATION_MARGIN = 1e-2


def build_graph(
    crystals: Sequence[Crystal],
    *,
    settings: GraphSettings = DEFAULT_SETTINGS,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
) -> CrystalGraph:
    """One graph of validated crystals, on ``device`` and in ``dtype``; distances are computed in float64.

    Raises:
        OverlappingAtomsError, IsolatedAtomError: see :func:`deeprelax_ase.graph.edges.check_distances`.
        ValueError: no crystals are given.
    """
    tensors = (t.to(device) for t in batch_tensors(crystals))
    return neighbor_graph(*tensors, settings=settings, check=True).to(dtype=dtype)


def batch_tensors(crystals: Sequence[Crystal]) -> tuple[Numbers, Positions, Cells, Batch]:
    """``numbers`` (N,), ``positions`` (N, 3), ``cell`` (G, 3, 3) and ``batch`` (N,) of crystals, in float64."""
    if not crystals:
        raise ValueError("no crystals to build a graph of")
    if isinstance(crystals, CrystalColumns):
        arrays = crystals.numbers, crystals.positions, crystals.cells
        owner = np.repeat(np.arange(len(crystals)), crystals.counts)
        return tuple(torch.from_numpy(np.array(array)) for array in (*arrays, owner))  # type: ignore[return-value]
    return (
        torch.from_numpy(np.concatenate([c.numbers for c in crystals])),
        torch.from_numpy(np.concatenate([c.positions for c in crystals])),
        torch.from_numpy(np.stack([c.cell for c in crystals])),
        torch.repeat_interleave(torch.tensor([len(c) for c in crystals])),
    )


@torch.no_grad()
def neighbor_graph(
    numbers: Numbers,
    positions: Positions,
    cell: Cells,
    batch: Batch,
    *,
    settings: GraphSettings = DEFAULT_SETTINGS,
    check: bool = False,
    chunk_size: int | None = None,
) -> CrystalGraph:
    """The graph of a batch of crystals that is already in tensors on one device.

    The graph carries the tensors given; no gradient flows through the choice of edges.

    Args:
        numbers: (N,) int64, atomic numbers.
        positions: (N, 3) Å, as given, not wrapped; float32 or float64, and distances are computed in it.
        cell: (G, 3, 3) Å, rows are lattice vectors, linearly independent.
        batch: (N,) int64, crystal of each atom, ascending, none of the G crystals empty.
        settings: cutoff and numbers of neighbours.
        check: refuse overlapping and isolated atoms; this waits for the device.
        chunk_size: upper estimate of the pairs held at once, by default :data:`CHUNK_SIZES` of the device; bounds the
            memory and does not change the graph.

    Raises:
        OverlappingAtomsError, IsolatedAtomError: with ``check``.
    """
    if check:
        check_density(cell, batch)
    parts = []
    for destinations, neighbors in listed_pairs(positions, cell, batch, cutoff=settings.cutoff, chunk_size=chunk_size):
        if check:
            check_distances(neighbors, batch, destinations, cutoff=settings.cutoff)
        inner = in_cell_pairs(positions, batch, destinations if settings.max_in_cell else destinations[:0])
        parts.append(select_edges(neighbors, inner, settings=settings))
    edge_index, cell_offsets, in_cell = parts[0] if len(parts) == 1 else _join(parts)
    return CrystalGraph(numbers, positions, cell, batch, edge_index, cell_offsets, in_cell)


def listed_pairs(
    positions: Positions, cell: Cells, batch: Batch, *, cutoff: float, chunk_size: int | None = None
) -> Iterator[tuple[Destinations, NeighborList]]:
    """List :func:`neighbor_pairs` in parts that bound the memory, and by a cell list where crystals are large.

    Args:
        positions, cell, batch, cutoff: see there.
        chunk_size: see :func:`neighbor_graph`.

    Yields:
        consecutive destinations, and their pairs.
    """
    if chunk_size is None:
        chunk_size = CHUNK_SIZES.get(positions.device.type, CHUNK_SIZES["cpu"])
    for destinations, crystal in _chunks(cell, batch, cutoff, chunk_size):
        if crystal is None:
            yield destinations, neighbor_pairs(positions, cell, batch, cutoff=cutoff, destinations=destinations)
        else:
            yield destinations, _pairs_of_one(positions, cell, batch, cutoff, destinations, crystal)


@torch.no_grad()
def neighbor_pairs(
    positions: Positions, cell: Cells, batch: Batch, *, cutoff: float, destinations: Destinations | None = None
) -> NeighborList:
    """Every pair within ``cutoff``, over all cell offsets; an atom's own images belong to its neighbours.

    Args:
        positions: (N, 3) Å, as given, not wrapped.
        cell: (G, 3, 3) Å.
        batch: (N,) int64, ascending.
        cutoff: Å, inclusive with :data:`~deeprelax_ase.graph.edges.CUTOFF_MARGIN`.
        destinations: ascending atoms i to list the neighbours of; all by default.
    """
    if destinations is None:
        destinations = torch.arange(len(batch), device=batch.device)
    triangular, axes = _upper_triangular(cell)
    positions = (positions[:, None] * axes[batch]).sum(dim=2)  # no matmul: TF32 or autocast would round it
    # Every pair of atoms of a crystal, an atom with itself included.
    crystal = batch[destinations]
    first = torch.searchsorted(batch, crystal)
    row, slot = expand(torch.searchsorted(batch, crystal, right=True) - first)
    source, destination = first[row] + slot, destinations[row]
    vectors = positions[source] - positions[destination]  # (P, 3) r_j - r_i
    steps = triangular[crystal[row]]
    # Rows of the triangular cell: a = (x, y, z), b = (0, y, z), c = (0, 0, z). So k_a alone settles x, then k_b settles
    # y, then k_c settles z: each is bounded by what the coordinates already settled leave of the sphere.
    offsets: list[Tensor] = []
    room = torch.full_like(vectors[:, 0], (cutoff + _ENUMERATION_MARGIN) ** 2)
    pair = torch.arange(len(source), device=source.device)
    for axis in range(3):
        along = steps[pair, axis]  # (P', 3)
        radius, step, here = room.clamp(min=0).sqrt(), along[:, axis], vectors[:, axis]
        low = torch.ceil((-radius - here) / step)
        counts = (torch.floor((radius - here) / step) - low + 1).clamp(min=0).long()
        parent, slot = expand(counts)
        k = low[parent].long() + slot
        vectors = vectors[parent] + k[:, None] * along[parent]
        room = room[parent] - vectors[:, axis] ** 2
        pair = pair[parent]
        offsets = [*(earlier[parent] for earlier in offsets), k]
    distances = torch.linalg.vector_norm(vectors, dim=1)
    offset = torch.stack(offsets, dim=1)
    itself = (source == destination)[pair] & (offset == 0).all(dim=1)
    kept = ((distances <= cutoff + CUTOFF_MARGIN) & ~itself).nonzero().squeeze(1)
    pair = pair[kept]
    return NeighborList(source[pair], destination[pair], offset[kept], distances[kept])


def _upper_triangular(cell: Cells) -> tuple[Cells, Matrices]:
    """The cell in Cartesian axes that make it upper triangular with a positive diagonal, and these axes in rows."""
    a, b, c = cell.unbind(dim=1)
    normal = torch.linalg.cross(b, c)
    normal = normal * torch.sign((normal * a).sum(dim=1, keepdim=True))
    x = normal / torch.linalg.vector_norm(normal, dim=1, keepdim=True)
    z = c / torch.linalg.vector_norm(c, dim=1, keepdim=True)
    y = torch.linalg.cross(z, x)
    y = y * torch.sign((y * b).sum(dim=1, keepdim=True))
    axes = torch.stack([x, y, z], dim=1)
    return torch.triu((cell[:, :, None] * axes[:, None]).sum(dim=3)), axes


def _pairs_of_one(
    positions: Positions, cell: Cells, batch: Batch, cutoff: float, destinations: Destinations, crystal: int
) -> NeighborList:
    """:func:`neighbor_pairs` by a cell list, for ``destinations`` in one ``crystal``."""
    here = torch.searchsorted(batch, torch.tensor([crystal, crystal + 1], device=batch.device))
    first, end = here.tolist()
    found = cell_list_pairs(positions[first:end], cell[crystal], cutoff=cutoff, destinations=destinations - first)
    return found._replace(source=found.source + first, destination=found.destination + first)


def _chunks(cell: Cells, batch: Batch, cutoff: float, chunk_size: int) -> list[tuple[Destinations, int | None]]:
    """Consecutive destinations, split so that each part makes about ``chunk_size`` pairs and images at most.

    A part of a large crystal holds that crystal alone, and its number comes with it.
    """
    atoms = torch.arange(len(batch), device=batch.device)
    spacings = _upper_triangular(cell)[0].diagonal(dim1=1, dim2=2)
    images = (2 * (cutoff + _ENUMERATION_MARGIN) / spacings + 1).double().prod(dim=1)
    starts = row_starts(batch, len(cell))
    sizes = starts[1:] - starts[:-1]
    large = sizes > LARGE
    work = torch.where(large, _LISTED, sizes * images)[batch].cumsum(0)
    total, any_large = torch.stack([work[-1], large.any().to(work.dtype)]).tolist()
    if total <= chunk_size and not any_large:
        return [(atoms, None)]
    part = torch.floor(work / chunk_size).long() * (len(cell) + 1)
    part = part + torch.where(large, torch.arange(1, len(cell) + 1, device=cell.device), 0)[batch]
    kinds, lengths = torch.unique_consecutive(part, return_counts=True)
    alone = (kinds % (len(cell) + 1) - 1).tolist()
    return [
        (destinations, crystal if crystal >= 0 else None)
        for destinations, crystal in zip(atoms.split(lengths.tolist()), alone, strict=True)
    ]


def _join(parts: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[EdgeIndex, CellOffsets, EdgeFlags]:
    edge_index, cell_offsets, in_cell = zip(*parts, strict=True)
    return torch.cat(edge_index, dim=1), torch.cat(cell_offsets), torch.cat(in_cell)
