"""Vacuum, told by the atoms: molecules and wires, layers and slabs, and the strain that their cells may undergo.

Flags of periodicity do not count, nor does the choice of the cell. Atoms are linked where their spheres come near, and
in how many directions the links repeat says what they make up, see :mod:`deeprelax_ase.geometry.periodicity`. A pore is
no vacuum, since the framework around it repeats in all directions; nor is the space between the molecules of a crystal,
which are near to each other.

The distance that counts as near depends on the question. Molecules and wires in contact are 2 Å apart between their
spheres, so that little more is vacuum around them; layers may be further apart and still be a crystal's. Metals touch
or do not: nothing but a bond is between two of them, nor between a metal and an element that is none. And molecules
that touch fill their cell.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from deeprelax_ase.geometry.contacts import BONDED, metallic, packing, salt_metals, sphere_gaps
from deeprelax_ase.geometry.periodicity import periodicity
from deeprelax_ase.geometry.strain import matrix_product
from deeprelax_ase.graph import CrystalGraph, edge_vectors, fractional_positions
from deeprelax_ase.graph.crystal_graph import inverses
from deeprelax_ase.graph.settings import DEFAULT_SETTINGS
from deeprelax_ase.graph.shapes import (
    Batch,
    Cells,
    CrystalCounts,
    CrystalFlags,
    CrystalMeans,
    EdgeCounts,
    EdgeFlags,
    EdgeVectors,
    LatticeIndices,
    Lengths,
    Matrices,
    PerCrystal,
    Positions,
    RowComponents,
)

#: Å between the covalent spheres of two atoms, up to which no vacuum is between layers. Of 12,000 unrelaxed training
#: crystals that are no layers 99.6 % are held together in all directions by less, and most others have real vacuum,
#: 8 Å and more (``benchmarks/geometry_limits.md``).
NEAR = 4.0

#: Å likewise, up to which no vacuum is around molecules and wires: those of crystals are nearer, see there, and those
#: of benzene, of ice and of dry ice 2 Å apart at most. Layers further apart than this are predicted badly.
OPEN = 2.7

#: Å likewise, up to which atoms are packed as all kinds of crystals are but those of molecules. Between molecules and
#: single atoms that are further apart no model here predicts the distances, see there.
PACKED = 1.4

#: Å likewise, up to which two atoms touch that are no metals, and a metal and another element; two metals touch where
#: they are :data:`PACKED`, but for ions of salts. Volumes of crystals in which nothing that touches repeats in two
#: directions are predicted more than twice as far off as others. Molecules in boxes 2.8 to 3.4 Å longer than they are
#: come near without touching. Slabs of salts whose faces are further apart than the second have vacuum between them.
TOUCHING, TOUCHING_MIXED = 1.0, 1.2

#: Å likewise, the largest of two metals: for layers and slabs, instead of :data:`NEAR`, and for wires, instead of
#: :data:`OPEN`. In no training crystal a metal holds on to another over more, where nothing else is between them.
NEAR_METALS, OPEN_METALS = 2.2, 1.4

#: Å likewise, the largest of a metal and another element: layers of a crystal touch by elements that are no metals.
NEAR_MIXED, OPEN_MIXED = 2.2, 1.6

#: Share of the cell that crystals of molecules fill, see :func:`~deeprelax_ase.geometry.contacts.packing`, below which
#: they are molecules in a box: the loosest relaxed one of 10,000 validation and test crystals keeps 0.38, unrelaxed
#: 0.42; benzene, dry ice and argon fill 0.59 to 0.74.
LOOSE = 0.37

#: Å likewise, up to which atoms hold together as one layer, see there: just above what van der Waals contacts leave,
#: 1.9 Å between carbon atoms. Molecules further apart, such as benzene in a cube of 8 Å, are no layer. Metals hold
#: together as in wires: the areas of layers that only more holds together are predicted a quarter off.
HELD = 2.2

#: Å, from which thickness on a layer is a slab, cut from a crystal whose lattice it keeps. There as many of the
#: layers to learn from are thicker, 8 %, as of the slabs are thinner, see there.
SLAB = 5.5

#: Å, from which on a gap between lattice planes of a crystal is a little vacuum, where it is so many times as wide as
#: any other along the same normal, and what is between two of it is thicker than that, Å. Salts of large ions touch
#: across it, and so do two metals. It tells 95 % of the slabs with 4 Å that bonds do not, for 0.2 % of other crystals.
GAP, WIDER, THICK = 3.45, 1.2, 4.5

#: Å, from which on a gap between lattice planes of a pair to learn from is a vacuum that somebody put there.
VACUUM = 10.0


class Vacuum(NamedTuple):
    """Vacuum in G crystals.

    Attributes:
        directions: (G,) int64, in how many: 0 crystal, 1 layer or slab, 2 wire, 3 molecule.
        indices: (G, 3) int64, Miller indices (hkl) of a layer's plane; zero for all others.
        planes: (G, 3, 3) projectors onto the plane of a layer; the identity for all others.
        thickness: (G,) Å, from the lowest to the highest atom of a layer; zero for all others.
        width: (G,) Å, of the vacuum above it, from atom to atom; zero for all others.
        molecular: (G,) bool, crystals, and layers but for slabs, of molecules, or of atoms that do not touch: nothing
            that touches, see :data:`TOUCHING`, repeats in any direction.
        stringy: (G,) bool, likewise of chains that do not touch: what touches repeats in one direction only.
        parted: (G,) bool, crystals of layers as thick as slabs that are further than :data:`OPEN` apart, of two metals
            :data:`OPEN_METALS`, of a metal and another element :data:`TOUCHING_MIXED`, as slabs with little vacuum are;
            and crystals with a :data:`GAP` between planes of two lattice vectors.
    """

    directions: CrystalCounts
    indices: LatticeIndices
    planes: Matrices
    thickness: PerCrystal
    width: PerCrystal
    molecular: CrystalFlags
    stringy: CrystalFlags
    parted: CrystalFlags

    @property
    def slabs(self) -> CrystalFlags:
        """(G,) bool, the layers that are so thick that they are slabs."""
        return (self.directions == 1) & (self.thickness > SLAB)


def vacuum_of(graph: CrystalGraph, vectors: EdgeVectors | None = None) -> Vacuum:
    """Find the vacuum in the crystals of ``graph``, whose edge ``vectors`` (E, 3) are measured unless given.

    Across a vacuum above a layer no two atoms are nearer than :data:`NEAR`, around wires and molecules than
    :data:`OPEN`, and within the reach of the paper's graph, 6 Å: further away the network sees nothing. Atoms that
    repeat in two directions are a layer only if they are :data:`HELD` together in both of them. Molecules whose crystal
    is :data:`LOOSE` are in a box.
    """
    lengths = torch.linalg.vector_norm(edge_vectors(graph) if vectors is None else vectors, dim=1)
    gaps = sphere_gaps(graph, lengths)
    gaps = torch.where(lengths <= DEFAULT_SETTINGS.cutoff, gaps, torch.inf)
    zeros, identity = torch.zeros_like(graph.cell[:, 0, 0]), _identity(graph.cell)
    metals = metallic().to(graph.numbers.device)[graph.numbers][graph.edge_index].sum(dim=0)
    unlike = ~_between_ions(graph, gaps, metals)
    touching, indices = _linked(graph, unlike & (gaps <= gaps.new_tensor([TOUCHING, TOUCHING_MIXED, PACKED])[metals]))
    no, gapped = torch.zeros_like(touching, dtype=torch.bool), _gapped(graph)
    if (touching == 3).all():  # waits for the device
        return Vacuum(3 - touching, indices, identity, zeros, zeros, no, no, gapped)
    packed, _ = _linked(graph, gaps <= PACKED)
    opened, _ = _linked(graph, gaps <= gaps.new_tensor([OPEN, OPEN_MIXED, OPEN_METALS])[metals])
    closing = unlike & (gaps <= gaps.new_tensor([OPEN, TOUCHING_MIXED, OPEN_METALS])[metals])
    closed, between = _linked(graph, closing)
    near = gaps <= gaps.new_tensor([NEAR, NEAR_MIXED, NEAR_METALS])[metals]
    rank, indices = _linked(graph, near)
    layers = rank == 2
    held, _ = _linked(graph, gaps <= gaps.new_tensor([HELD, OPEN_MIXED, OPEN_METALS])[metals])
    rank = torch.where(layers, held, torch.where(opened < 2, opened, rank))
    boxable = (rank == 3) & (packed == 0)
    if boxable.any():  # waits for the device; there are few
        rank = torch.where(boxable & (packing(graph, lengths) < LOOSE), 0, rank)
    layers = rank == 2
    crystals = rank == 3
    indices = torch.where(layers[:, None], indices, torch.zeros_like(indices))
    apart = crystals & (closed == 2)

    plane = torch.where(layers[:, None], indices, torch.tensor([0, 0, 1], device=indices.device))
    miller = torch.where(apart[:, None], between, plane).to(graph.cell.dtype)
    normals = (miller[:, :, None] * inverses(graph.cell).mT).sum(dim=1)
    spacings = 1 / torch.linalg.vector_norm(normals, dim=1)
    heights = (fractional_positions(graph) * miller[graph.batch]).sum(dim=1)
    width = widest_gaps(heights[:, None], graph.batch, graph.num_crystals).squeeze(1) * spacings
    across = normals * spacings[:, None]
    outer = across[:, :, None] * across[:, None, :] * layers[:, None, None].to(across.dtype)
    thickness = spacings - width
    parted, thickness = (apart & (thickness > SLAB)) | (crystals & gapped), torch.where(layers, thickness, zeros)
    width = torch.where(layers, width, zeros)
    strained = crystals | (layers & (thickness <= SLAB))
    molecular, stringy = strained & (touching == 0), strained & (touching == 1)
    return Vacuum(3 - rank, indices, identity - outer, thickness, width, molecular, stringy, parted)


def _gapped(graph: CrystalGraph) -> CrystalFlags:
    """(G,) bool, crystals with one gap that is wider than all others along its normal, see :data:`GAP`.

    Between the planes of two lattice vectors: no others are looked at.
    """
    normals = inverses(graph.cell).mT
    spacings = 1 / torch.linalg.vector_norm(normals, dim=2)
    widest, inner, outer = _gaps(fractional_positions(graph), graph.batch, graph.num_crystals)
    least = widest / WIDER
    wide = (outer > least).to(spacings).index_add(0, graph.batch, (inner > least[graph.batch]).to(spacings))
    width = widest * spacings
    return ((width > GAP) & (spacings - width > THICK) & (wide == 1)).any(dim=1)


def _between_ions(graph: CrystalGraph, gaps: Lengths, metals: EdgeCounts) -> EdgeFlags:
    """(E,) bool, edges between two metals of salts, each bonded to an element that is no metal.

    However near they are, they do not hold on to each other: molecules of salts in small boxes are no crystals.

    Args:
        graph: G crystals.
        gaps: (E,) Å, see :func:`~deeprelax_ase.geometry.contacts.sphere_gaps`.
        metals: (E,) int, how many ends of each edge are metals.
    """
    bonded = torch.zeros_like(graph.numbers, dtype=torch.bool)
    bonded[graph.edge_index[1, (gaps <= BONDED) & (metals == 1)]] = True
    ions = bonded & salt_metals().to(graph.numbers.device)[graph.numbers]
    return ions[graph.edge_index].all(dim=0)


def _linked(graph: CrystalGraph, edges: EdgeFlags) -> tuple[CrystalCounts, LatticeIndices]:
    chosen = edges.nonzero().squeeze(1)
    return periodicity(graph.edge_index[:, chosen], graph.cell_offsets[chosen], graph.batch, graph.num_crystals)


def _identity(cell: Cells) -> Matrices:
    return torch.eye(3, dtype=cell.dtype, device=cell.device).expand(len(cell), 3, 3)


def project_strain(strain: Matrices, projectors: Matrices) -> Matrices:
    """(G, 3, 3) P e P, the part of the ``strain`` within the directions that ``projectors`` leave."""
    return matrix_product(matrix_product(projectors, strain), projectors)


def free_directions(projectors: Matrices) -> CrystalCounts:
    """(G,) int64, how many directions ``projectors`` (G, 3, 3) leave: 3, or 2 of a layer, or 0 of a fixed cell."""
    return projectors.diagonal(dim1=1, dim2=2).sum(dim=1).round().long()


def strain_projectors(fractional: Positions, cell: Cells, batch: Batch, fixed_cell: CrystalFlags) -> Matrices:
    """(G, 3, 3) projectors onto the directions in which cells may be strained.

    They are zero where ``fixed_cell`` (G,) is true, and those of :func:`in_plane_projectors` elsewhere.
    """
    planes = in_plane_projectors(fractional, cell, batch)
    return torch.where(fixed_cell[:, None, None], torch.zeros_like(planes), planes)


def in_plane_projectors(fractional: Positions, cell: Cells, batch: Batch, gap: float = VACUUM) -> Matrices:
    """(G, 3, 3) projectors onto the plane of crystals that are layers in a vacuum; the identity for all others.

    This is the rule of training; :func:`vacuum_of` is the rule of predictions. Training has to follow the labels: this
    rule finds each of 2,800 layers that were relaxed in their plane, sheared cells but for 0.2 % included, and calls
    those bulk whose cell was free. Bonds see 2 % of these layers fall apart into wires, which are refused when
    predicted, and vacuum in open crystals with gaps of 6 to 10 Å. Nor can training, in CUDA graphs, wait for the device
    as bonds do. Predictions cannot take this rule: users give any cell, and less vacuum than 10 Å. Of 9,000 pairs both
    find the same planes, but in 50 of 60 crystals of which one alone says that there is a layer.

    Args:
        fractional: (N, 3) fractional coordinates.
        cell: (G, 3, 3) Å, lattice vectors in rows.
        batch: (N,) the crystal of each atom, ascending.
        gap: Å, width of an empty slab between lattice planes from which on it is vacuum.
    """
    # Rows: reciprocal vectors, at right angles to the planes of the other two. The inverse does not wait for a GPU.
    normals = inverses(cell).mT
    spacings = 1 / torch.linalg.vector_norm(normals, dim=2)
    wide = widest_gaps(fractional, batch, len(cell)) * spacings > gap
    units = normals * spacings[:, :, None]
    identity = torch.eye(3, dtype=cell.dtype, device=cell.device).expand(len(cell), 3, 3)
    outer = units[:, :, :, None] * units[:, :, None, :]
    # two gaps make a wire and three a molecule: only one leaves a plane
    chosen = wide & (wide.sum(dim=1, keepdim=True) == 1)
    return identity - (outer * chosen[:, :, None, None].to(cell.dtype)).sum(dim=1)


def widest_gaps(fractional: RowComponents, batch: Batch, size: int) -> CrystalMeans:
    """(G, C) the widest gap along each of C ``fractional`` coordinates (N, C), around their period of 1."""
    return _gaps(fractional, batch, size)[0]


def _gaps(fractional: RowComponents, batch: Batch, size: int) -> tuple[CrystalMeans, RowComponents, CrystalMeans]:
    """The widest gaps (G, C); those from each atom to the next (N, C), zero after the last; from the last around."""
    wrapped = fractional - torch.floor(fractional)
    order = torch.argsort(wrapped + 2 * batch[:, None].to(wrapped.dtype), dim=0)
    values = wrapped.gather(0, order)  # crystals stay in their order, so that ``batch`` holds for them too
    inner = torch.where((batch[1:] == batch[:-1])[:, None], values[1:] - values[:-1], torch.zeros_like(values[1:]))
    inner = torch.cat([inner, torch.zeros_like(values[:1])])
    owner = batch[:, None].expand_as(values)
    widest = values.new_zeros(size, values.shape[1]).scatter_reduce(0, owner, inner, "amax")
    lowest = values.new_ones(size, values.shape[1]).scatter_reduce(0, owner, values, "amin")
    highest = values.new_zeros(size, values.shape[1]).scatter_reduce(0, owner, values, "amax")
    outer = 1 - highest + lowest
    return torch.maximum(widest, outer), inner, outer
