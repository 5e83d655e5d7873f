"""The end-to-end network: from a :class:`CrystalGraph` to displacements and a strain, refined block by block."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from deeprelax_ase.geometry.strain import symmetric_exponential
from deeprelax_ase.geometry.vacuum import free_directions, project_strain
from deeprelax_ase.graph.crystal_graph import CrystalGraph, atom_counts, crystal_mean, edge_vectors, rows_times_matrices
from deeprelax_ase.graph.shapes import (
    AtomScales,
    AtomStrains,
    Batch,
    Cells,
    CrystalCounts,
    CrystalMeans,
    EdgeFeatures,
    EdgeVectors,
    Harmonics,
    Matrices,
    Numbers,
    Positions,
    RowComponents,
    Scalars,
    Stacks,
    StrainCoefficients,
)
from deeprelax_ase.nn.basis import GaussianBasis
from deeprelax_ase.nn.config import DeepRelaxE3Config
from deeprelax_ase.nn.e3_layers import ForceReader, Refinement, Sources, Update, linear
from deeprelax_ase.nn.edge_lists import EdgeLists, edge_lists
from deeprelax_ase.nn.harmonics import harmonics, tensor_matrix
from deeprelax_ase.nn.heads import bounded_scale
from deeprelax_ase.nn.image_sums import sum_images
from deeprelax_ase.nn.messages import WEIGHTS, aggregate
from deeprelax_ase.nn.records import KnownForces, Relaxation

#: Bounds of the Laplace scales: of displacements in Å, and of the logarithms of volume and shape.
DISPLACEMENT_SCALES, STRAIN_SCALES = (5e-4, 5.0), (2e-4, 1.0)

#: Atoms whose layers a CPU computes at once.
_ATOMS = 256


class NetworkInput(NamedTuple):
    """Input of the network for G crystals with N atoms and E edges.

    Attributes:
        numbers: (N,) int64, atomic numbers.
        level: (G,) int64, index of the level of theory to relax to.
        strain_projectors: (G, 3, 3) onto the directions in which the cell may be strained.
        batch: (N,) int64, the crystal of each atom.
        counts: (G,) int64, atoms of each crystal.
        vectors: (E, 3) Å, from destination to source.
        known: forces, for the crystals where they are known.
        edges: their ends.
    """

    numbers: Numbers
    level: CrystalCounts
    strain_projectors: Matrices
    batch: Batch
    counts: CrystalCounts
    vectors: EdgeVectors
    known: KnownForces
    edges: EdgeLists


class Block(nn.Module):
    """Message and update phases on one geometry, and the refinement that they lead to."""

    def __init__(self, config: DeepRelaxE3Config) -> None:
        super().__init__()
        channels, layers = config.channels, range(config.layers_per_block)
        self.sources = nn.ModuleList(Sources(channels, tensors=config.tensor_messages) for _ in layers)
        self.filters = nn.ModuleList(nn.Linear(config.num_basis, WEIGHTS * channels, bias=False) for _ in layers)
        self.updates = nn.ModuleList(Update(channels, config.max_neighbors) for _ in layers)
        self.refinement = Refinement(channels)

    def forward(
        self, x: Scalars, h: Stacks, radial: EdgeFeatures, directions: Harmonics, edges: EdgeLists
    ) -> tuple[Scalars, Stacks, tuple[Positions, AtomStrains, AtomScales]]:
        """New features x (N, F) and h (N, 8, F), and what :class:`~deeprelax_ase.nn.e3_layers.Refinement` reads off."""
        images = None if radial.is_cuda else sum_images(radial, directions, edges)
        for sources, filters, update in zip(self.sources, self.filters, self.updates, strict=True):
            scalars, stacks = _in_parts(sources, x, h)
            if images is None:
                weights = linear(cast("nn.Linear", filters), radial).view(-1, WEIGHTS, x.shape[-1])
                messages = aggregate(scalars, stacks, weights, directions, edges)
            else:
                messages = images.messages(scalars, stacks, cast("Tensor", filters.weight))
            x, h = _in_parts(update, x, h, messages)
        shift, coefficients, raw = _in_parts(self.refinement, x, h)
        return x, h, (shift, coefficients, raw)


def _in_parts(layer: nn.Module, *given: Tensor) -> tuple[Tensor, ...]:
    """``layer``, which takes each atom for itself, on some atoms after others: of large crystals all fill no cache."""
    if given[0].is_cuda or len(given[0]) <= _ATOMS or torch.is_grad_enabled():
        return layer(*given)
    parts = zip(*(tensor.split(_ATOMS) for tensor in given), strict=True)
    first = layer(*next(parts))
    whole = tuple(tensor.new_empty(len(given[0]), *tensor.shape[1:]) for tensor in first)
    for start, made in zip(
        range(0, len(given[0]), _ATOMS), chain([first], (layer(*part) for part in parts)), strict=True
    ):
        for tensor, rows in zip(whole, made, strict=True):
            tensor[start : start + _ATOMS] = rows
    return whole


class DeepRelaxE3(nn.Module):
    """Atoms and cell move block by block towards the relaxed crystal; see :class:`DeepRelaxE3Config` for the shape.

    E(3)-equivariant, and indifferent to the choice of origin, of the cell and of periodic images: it reads nothing but
    distances and directions between neighbours. The geometry stays in the graph's floating-point type.

    Block b sees the edges that the blocks before it have moved, and adds to displacements u and strain e what the
    atoms of each crystal say, on average where it is of the crystal (:class:`~deeprelax_ase.nn.e3_layers.Refinement`)::

        d_ij = (r_j + k L - r_i) exp(e) + u_j - u_i
        u += u_i - mean(u_i),   e += P mean(e_i) P
        relaxed cell = L exp(e)

    The projector P is zero for a fixed cell, and leaves a layer the strains in its plane.
    """

    def __init__(self, config: DeepRelaxE3Config) -> None:
        super().__init__()
        self.config = config
        #: Whether the losses of later blocks reach the moves of earlier ones, in training.
        self.gradients_through_blocks = False
        self.basis = GaussianBasis(config.num_basis, config.cutoff)
        self.elements = nn.Embedding(config.num_elements + 1, config.channels)
        self.levels = nn.Embedding(len(config.levels), config.channels)
        # By the number of directions, 0 to 3. A network learns from zero what they change.
        self.freedoms = nn.Embedding(4, config.channels) if config.reads_cell_freedom else None
        if self.freedoms is not None:
            nn.init.zeros_(self.freedoms.weight)
        self.forces = ForceReader(config.channels) if config.reads_forces else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_blocks))

    def forward(
        self, graph: CrystalGraph, level: CrystalCounts | int = 0, *, strain_projectors: Matrices | None = None
    ) -> list[Relaxation]:
        """The relaxation after each block; the last one is the prediction.

        Args:
            graph: the unrelaxed crystals.
            level: index into ``config.levels`` of the level of theory to relax to; (G,) for one of each crystal.
            strain_projectors: (G, 3, 3) onto the directions in which the cell may be strained; all by default.
        """
        return self.refine(network_input(graph, level, strain_projectors=strain_projectors))

    def compile_parts(self, *, dynamic: bool) -> None:
        """Have everything compiled but the sum over neighbours, which is a kernel of its own on CUDA.

        Args:
            dynamic: for batches of any size; otherwise anew for each size.
        """
        self._edge_features = torch.compile(self._edge_features, dynamic=dynamic)  # type: ignore[method-assign]
        for part in self.modules():
            if isinstance(part, Sources | Update | Refinement | ForceReader):
                part.compile(dynamic=dynamic)

    def refine(self, given: NetworkInput) -> list[Relaxation]:
        """:meth:`forward` on plain tensors."""
        return [relaxation for relaxation, _ in self.stages(given)]

    def stages(self, given: NetworkInput) -> Iterator[tuple[Relaxation, Scalars]]:
        """The relaxation after each block, as it is reached, with the scalars x (N, F) of the atoms."""
        for relaxation, x, _ in self.features(given):
            yield relaxation, x

    def features(self, given: NetworkInput) -> Iterator[tuple[Relaxation, Scalars, Stacks]]:
        """:meth:`stages`, with the stacks h (N, 8, F) of the atoms too."""
        of_crystals = self.levels(given.level)
        if self.freedoms is not None:
            of_crystals = of_crystals + self.freedoms(free_directions(given.strain_projectors))
        x = self.elements(given.numbers) + of_crystals[given.batch]
        h = x.new_zeros(len(x), 8, x.shape[1])
        if self.forces is not None:
            by_forces, h = self.forces(given.known, given.batch, given.counts)
            x = x + by_forces
        displacements = given.vectors.new_zeros(len(x), 3)
        strain = given.vectors.new_zeros(len(given.counts), 3, 3)
        for block in self.blocks:
            if not self.gradients_through_blocks:  # then each learns from its geometry as from any other start
                displacements, strain = displacements.detach(), strain.detach()
            vectors = moved_vectors(given, displacements, strain)
            x, h, (shift, coefficients, raw) = block(x, h, *self._edge_features(vectors), given.edges)
            displacements = displacements + without_drift(shift.to(displacements.dtype), given)
            step = strain_matrix(_mean(coefficients.to(strain.dtype), given))
            strain = strain + project_strain(step, given.strain_projectors.to(step.dtype))
            yield _relaxation(displacements, strain, raw, given), x, h

    def _edge_features(self, vectors: EdgeVectors) -> tuple[EdgeFeatures, Harmonics]:
        """Radial basis (E, num_basis), in the type that the linear maps compute in, and harmonics (E, 8)."""
        lengths = torch.linalg.vector_norm(vectors, dim=-1)
        dtype = self.basis.centers.dtype
        lower = torch.get_autocast_dtype("cuda") if vectors.is_cuda and torch.is_autocast_enabled("cuda") else dtype
        envelope = 0.5 + 0.5 * torch.cos(math.pi * (lengths / self.config.cutoff).clamp(max=1.0))
        radial = self.basis(lengths.to(dtype)) * envelope.to(dtype)[:, None]
        return radial.to(lower), harmonics((vectors / lengths[:, None]).to(dtype))


def network_input(
    graph: CrystalGraph,
    level: CrystalCounts | int,
    known: KnownForces | None = None,
    *,
    strain_projectors: Matrices | None = None,
    vectors: EdgeVectors | None = None,
) -> NetworkInput:
    """Make the network's input from ``graph``, the ``level`` to relax to, one or (G,), and forces where they are known.

    The cells may be strained in the directions that ``strain_projectors`` (G, 3, 3) leave, by default in all. The edge
    ``vectors`` (E, 3) are measured unless given.
    """
    if strain_projectors is None:
        identity = torch.eye(3, dtype=graph.cell.dtype, device=graph.cell.device)
        strain_projectors = identity.expand_as(graph.cell)
    if isinstance(level, int):
        level = torch.full((graph.num_crystals,), level, device=graph.batch.device)
    return NetworkInput(
        numbers=graph.numbers,
        level=level,
        strain_projectors=strain_projectors,
        batch=graph.batch,
        counts=atom_counts(graph),
        vectors=edge_vectors(graph) if vectors is None else vectors,
        known=no_forces(graph.positions, graph.cell) if known is None else known,
        edges=edge_lists(graph.edge_index, graph.num_atoms, gradient=torch.is_grad_enabled()),
    )


def no_forces(positions: Positions, cell: Cells) -> KnownForces:
    """Return the record of atoms at ``positions`` (N, 3) in ``cell`` (G, 3, 3) whose forces are not known."""
    has_forces = torch.zeros(len(cell), dtype=torch.bool, device=cell.device)
    return KnownForces(torch.zeros_like(positions), torch.zeros_like(cell), has_forces)


def moved_vectors(given: NetworkInput, displacements: Positions, strain: Matrices) -> EdgeVectors:
    """(E, 3) Å, the edge vectors once the strain (G, 3, 3) has carried the atoms along and they are displaced."""
    source, destination = given.edges.source, given.edges.destination
    # By atoms first: gradients of all edges of a crystal would wait for each other. And to select rows, whose gradients
    # are summed as they come, takes a GPU less than to index them, which sorts.
    stretch = symmetric_exponential(strain).index_select(0, given.batch).index_select(0, destination)
    carried = rows_times_matrices(given.vectors, stretch)
    return carried + displacements.index_select(0, source) - displacements.index_select(0, destination)


def strain_matrix(coefficients: StrainCoefficients) -> Matrices:
    """(G, 6) coefficients, trace first, to (G, 3, 3) symmetric matrices."""
    identity = torch.eye(3, dtype=coefficients.dtype, device=coefficients.device)
    return coefficients[:, :1, None] * identity + tensor_matrix(coefficients[:, 1:])


def without_drift(displacements: Positions, given: NetworkInput) -> Positions:
    """(N, 3) displacements less the mean over each crystal: where the origin lies is nobody's business."""
    return displacements - _mean(displacements, given)[given.batch]


def _mean(values: RowComponents, given: NetworkInput) -> CrystalMeans:
    return crystal_mean(values, given.batch, len(given.counts), counts=given.counts)


def _relaxation(displacements: Positions, strain: Matrices, raw: AtomScales, given: NetworkInput) -> Relaxation:
    raw = raw.to(displacements.dtype)
    of_cell = _mean(raw[:, 1:], given)
    return Relaxation(
        displacements=displacements,
        strain=strain,
        displacement_scales=bounded_scale(raw[:, 0], DISPLACEMENT_SCALES),
        volume_scales=bounded_scale(of_cell[:, 0], STRAIN_SCALES),
        shape_scales=bounded_scale(of_cell[:, 1], STRAIN_SCALES),
    )
