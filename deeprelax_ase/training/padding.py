"""Batches of one size: a dummy crystal takes up the slack, so that a step can be recorded once and replayed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from deeprelax_ase.graph.crystal_graph import CrystalGraph
from deeprelax_ase.nn.deeprelax_e3 import NetworkInput
from deeprelax_ase.nn.edge_lists import EdgeLists
from deeprelax_ase.nn.records import KnownForces
from deeprelax_ase.training.e3_loss import TrueRelaxation
from deeprelax_ase.training.force_targets import StartForces

#: Dummy atoms share the dummy edges: with too few of them, each would have far more edges than an atom has.
MIN_DUMMY_ATOMS = 512


class Sizes(NamedTuple):
    """Atoms, edges and crystals of a padded batch, and in-cell pairs, which the paper's network has."""

    atoms: int
    edges: int
    crystals: int
    pairs: int = 0

    @classmethod
    def of(cls, given: NetworkInput) -> Sizes:
        """Count the sizes of ``given``, without room for dummies."""
        return cls(len(given.numbers), len(given.vectors), len(given.counts))

    @classmethod
    def around(cls, batches: Iterable[Sizes]) -> Sizes:
        """Room for ``batches`` and a little larger ones, round, so that runs share what they compile."""
        atoms, edges, crystals, pairs = (max(sizes) for sizes in zip(*batches, strict=True))
        return cls(
            atoms=_round(atoms + MIN_DUMMY_ATOMS + 64, 512),
            edges=_round(1.04 * edges, 16384),
            crystals=_round(1.1 * crystals, 128),
            pairs=_round(1.1 * pairs, 4096),
        )

    def hold(self, given: Sizes) -> bool:
        """Whether a batch of the sizes ``given`` fits, dummies included."""
        return (
            given.atoms + MIN_DUMMY_ATOMS <= self.atoms
            and given.edges < self.edges
            and given.crystals < self.crystals
            and given.pairs <= self.pairs
        )


def pad(given: NetworkInput, truth: TrueRelaxation, sizes: Sizes) -> tuple[NetworkInput, TrueRelaxation]:
    """The batch filled up to ``sizes`` by crystals that count for nothing.

    All dummy atoms belong to the last crystal; the dummy edges run from a dummy atom to itself, 1 Å long.
    """
    device, edges = given.numbers.device, given.edges
    atoms, bonds, crystals = len(given.numbers), len(given.vectors), len(given.counts)
    more = Sizes(sizes.atoms - atoms, sizes.edges - bonds, sizes.crystals - crystals)
    ends = _dummy_ends(given.numbers, more)
    starts = bonds + torch.searchsorted(ends, atoms + 1 + torch.arange(more.atoms, device=device))
    extra = torch.arange(bonds, sizes.edges, device=device)
    return NetworkInput(
        numbers=_fill(given.numbers, more.atoms, 0),
        level=_fill(given.level, more.crystals, 0),
        strain_projectors=torch.cat([given.strain_projectors, given.strain_projectors.new_zeros(more.crystals, 3, 3)]),
        batch=_fill(given.batch, more.atoms, sizes.crystals - 1),
        counts=_fill(given.counts, more.crystals, more.atoms),
        vectors=torch.cat([given.vectors, given.vectors.new_tensor([[1.0, 0.0, 0.0]]).expand(more.edges, 3)]),
        known=KnownForces(
            forces=torch.cat([given.known.forces, given.known.forces.new_zeros(more.atoms, 3)]),
            virial=torch.cat([given.known.virial, given.known.virial.new_zeros(more.crystals, 3, 3)]),
            has_forces=_fill(given.known.has_forces, more.crystals, 0),
        ),
        edges=EdgeLists(
            source=torch.cat([edges.source, ends]),
            destination=torch.cat([edges.destination, ends]),
            destination_starts=torch.cat([edges.destination_starts, starts]),
            by_source=torch.cat([edges.by_source, extra]),
            source_starts=torch.cat([edges.source_starts, starts]),
        ),
    ), TrueRelaxation(
        displacements=torch.cat([truth.displacements, truth.displacements.new_zeros(more.atoms, 3)]),
        strain=torch.cat([truth.strain, truth.strain.new_zeros(more.crystals, 3, 3)]),
        atoms=_fill(truth.atoms, more.atoms, 0),
        crystals=_fill(truth.crystals, more.crystals, 0),
        batch=_fill(truth.batch, more.atoms, sizes.crystals - 1),
        energy=_fill(truth.energy, more.crystals, 0),
        energies=_fill(truth.energies, more.crystals, 0),
        start=StartForces(
            forces=torch.cat([truth.start.forces, truth.start.forces.new_zeros(more.atoms, 3)]),
            virial=torch.cat([truth.start.virial, truth.start.virial.new_zeros(more.crystals, 3, 3)]),
            atoms=_fill(truth.start.atoms, more.atoms, 0),
            crystals=_fill(truth.start.crystals, more.crystals, 0),
            gain=_fill(truth.start.gain, more.crystals, 0),
            gains=_fill(truth.start.gains, more.crystals, 0),
        ),
    )


class LabelledGraph(NamedTuple):
    """A graph of unrelaxed crystals, with the relaxed ones.

    Attributes:
        graph: of N atoms and G crystals.
        pairs: (P,) its in-cell edges.
        fractional_relaxed: (N, 3).
        cell_relaxed: (G, 3, 3) Å.
    """

    graph: CrystalGraph
    pairs: Tensor
    fractional_relaxed: Tensor
    cell_relaxed: Tensor

    @property
    def sizes(self) -> Sizes:
        """Without room for dummies."""
        return Sizes(self.graph.num_atoms, self.graph.num_edges, self.graph.num_crystals, len(self.pairs))

    def tensors(self) -> list[Tensor]:
        """All of them, in an order that :meth:`of_tensors` knows."""
        return [*vars(self.graph).values(), *self[1:]]

    @classmethod
    def of_tensors(cls, tensors: list[Tensor]) -> LabelledGraph:
        """The inverse of :meth:`tensors`."""
        return cls(CrystalGraph(*tensors[:-3]), *tensors[-3:])


def pad_graph(given: LabelledGraph, sizes: Sizes) -> LabelledGraph:
    """The batch filled up to ``sizes`` by atoms of number zero, which count for nothing.

    As those of :func:`pad`; cells of dummies are 1 Å wide, and dummy pairs are dummy edges.
    """
    graph, before = given.graph, given.sizes
    more = Sizes(*(after - here for after, here in zip(sizes, before, strict=True)))
    ends = _dummy_ends(graph.numbers, more)
    along = graph.cell_offsets.new_tensor([[1, 0, 0]]).expand(more.edges, 3)
    cells = torch.eye(3, dtype=graph.cell.dtype, device=graph.cell.device).expand(more.crystals, 3, 3)
    pairs = before.edges + torch.arange(more.pairs, device=ends.device) % more.edges
    padded = CrystalGraph(
        numbers=_fill(graph.numbers, more.atoms, 0),
        positions=torch.cat([graph.positions, graph.positions.new_zeros(more.atoms, 3)]),
        cell=torch.cat([graph.cell, cells]),
        batch=_fill(graph.batch, more.atoms, sizes.crystals - 1),
        edge_index=torch.cat([graph.edge_index, ends.expand(2, -1)], dim=1),
        cell_offsets=torch.cat([graph.cell_offsets, along]),
        in_cell=_fill(graph.in_cell, more.edges, 0),
    )
    fractional = given.fractional_relaxed
    return LabelledGraph(
        graph=padded,
        pairs=torch.cat([given.pairs, pairs]),
        fractional_relaxed=torch.cat([fractional, fractional.new_zeros(more.atoms, 3)]),
        cell_relaxed=torch.cat([given.cell_relaxed, cells]),
    )


def _dummy_ends(numbers: Tensor, more: Sizes) -> Tensor:
    """The dummy atom that each dummy edge joins with itself, behind the atoms of ``numbers`` (N,)."""
    return len(numbers) + torch.arange(more.edges, device=numbers.device) * more.atoms // more.edges


def _fill(values: Tensor, count: int, value: int) -> Tensor:
    return torch.cat([values, values.new_full((count,), value)])


def _round(value: float, multiple: int) -> int:
    return (int(value) // multiple + 1) * multiple
