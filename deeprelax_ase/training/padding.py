"""Batches of one size: a dummy crystal takes up the slack, so that a step can be recorded once and replayed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from deeprelax_ase.nn.deeprelax_e3 import NetworkInput
from deeprelax_ase.nn.edge_lists import EdgeLists
from deeprelax_ase.nn.records import KnownForces
from deeprelax_ase.training.e3_loss import TrueRelaxation
from deeprelax_ase.training.force_targets import StartForces

#: Dummy atoms share the dummy edges: with too few of them, each would have far more edges than an atom has.
MIN_DUMMY_ATOMS = 512


class Sizes(NamedTuple):
    """Atoms, edges and crystals of a padded batch."""

    atoms: int
    edges: int
    crystals: int

    @classmethod
    def of(cls, given: NetworkInput) -> Sizes:
        """Count the sizes of ``given``, without room for dummies."""
        return cls(len(given.numbers), len(given.vectors), len(given.counts))

    @classmethod
    def around(cls, batches: Iterable[Sizes]) -> Sizes:
        """Room for ``batches`` and a little larger ones, round, so that runs share what they compile."""
        atoms, edges, crystals = (max(sizes) for sizes in zip(*batches, strict=True))
        return cls(_round(atoms + MIN_DUMMY_ATOMS + 64, 512), _round(1.04 * edges, 16384), _round(1.1 * crystals, 128))

    def hold(self, given: NetworkInput) -> bool:
        """Whether ``given`` fits, dummies included."""
        return (
            len(given.numbers) + MIN_DUMMY_ATOMS <= self.atoms
            and len(given.vectors) < self.edges
            and len(given.counts) < self.crystals
        )


def pad(given: NetworkInput, truth: TrueRelaxation, sizes: Sizes) -> tuple[NetworkInput, TrueRelaxation]:
    """The batch filled up to ``sizes`` by crystals that count for nothing.

    All dummy atoms belong to the last crystal; the dummy edges run from a dummy atom to itself, 1 Å long.
    """
    device, edges = given.numbers.device, given.edges
    atoms, bonds, crystals = len(given.numbers), len(given.vectors), len(given.counts)
    more = Sizes(sizes.atoms - atoms, sizes.edges - bonds, sizes.crystals - crystals)
    ends = atoms + torch.arange(more.edges, device=device) * more.atoms // more.edges
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


def _fill(values: Tensor, count: int, value: int) -> Tensor:
    return torch.cat([values, values.new_full((count,), value)])


def _round(value: float, multiple: int) -> int:
    return (int(value) // multiple + 1) * multiple
