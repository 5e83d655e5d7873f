"""Forces, virial and energy at the start as targets beside the relaxation: they tell of the landscape that atoms cross.

A head reads them, see :mod:`deeprelax_ase.training.heads`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.data.forces import NEAR_MINIMUM

#: eV/Å and eV, bounds of the Laplace scales of forces, and of the virial of an atom.
FORCE_SCALES = (5e-3, 30.0)

#: Å, how far an atom, and how much a cell, may still move at a minimum that augmentation has put a crystal onto: some
#: hundred times what single precision leaves.
_REST, _REST_STRAIN = 2e-4, 2e-5

#: 1/(eV/atom), what an error of the energy counts beside the likelihoods. Half of the crystals that the models learn
#: from gain less than 0.45 eV/atom, nine in ten less than 2. Set by hand, not compared with others.
_ENERGY_WEIGHT = 5.0


class StartForces(NamedTuple):
    """Forces and virial of N atoms in G crystals, and what relaxation gains, as they are or as they were read.

    Attributes:
        forces: (N, 3) eV/Å.
        virial: (G, 3, 3) eV, minus the stress times the volume of an atom: downhill, as forces are.
        atoms: (N,) weights of the forces; of what was read, their Laplace scales in eV/Å.
        crystals: (G,) weights of the virials; of what was read, their Laplace scales in eV.
        gain: (G,) eV/atom, the energy at the start less that at the minimum.
        gains: (G,) weights of it; of what was read, 1.
    """

    forces: Tensor
    virial: Tensor
    atoms: Tensor
    crystals: Tensor
    gain: Tensor
    gains: Tensor

    def counting_for_nothing(self) -> StartForces:
        """The same with all weights zero."""
        return self._replace(**{name: torch.zeros_like(getattr(self, name)) for name in ("atoms", "crystals", "gains")})


def start_forces(
    pairs: RelaxationPairs, start: RelaxationPairs, displacements: Tensor, strain: Tensor, free: Tensor
) -> StartForces:
    """Collect known forces and energies at ``start``, which relaxes by ``displacements`` (N, 3) Å and ``strain``.

    The values of ``pairs`` hold where ``start`` is the very unrelaxed crystal. All values are zero where augmentation
    put it onto the minimum. Crystals whose forces the network is told count for nothing, nor do forces near minima,
    which are another potential's; virials count only where the cell is ``free`` (G,) to move in all directions.
    """
    batch, size, dtype = pairs.batch, len(pairs), pairs.forces.dtype

    def any_of(atoms: Tensor) -> Tensor:
        return torch.zeros(size, dtype=torch.int64, device=batch.device).index_add(0, batch, atoms.long()) > 0

    moved = any_of((pairs.fractional_initial != start.fractional_initial).any(dim=1))
    moved |= (pairs.cell_initial != start.cell_initial).flatten(start_dim=1).any(dim=1)
    on_its_way = any_of(torch.linalg.vector_norm(displacements, dim=1) > _REST)
    on_its_way |= (strain.abs() > _REST_STRAIN).flatten(start_dim=1).any(dim=1)
    unread = ~start.has_forces
    rests = unread & moved & ~on_its_way
    theirs = unread & ~moved & (pairs.kind != NEAR_MINIMUM)
    counted = (theirs & pairs.has_forces) | rests
    own = theirs.to(dtype)
    return StartForces(
        forces=pairs.forces * own[batch, None],
        virial=-pairs.virial * (own / pairs.counts)[:, None, None],
        atoms=counted[batch].to(dtype),
        crystals=(counted & free).to(dtype),
        gain=pairs.energy_gain * own,
        gains=((theirs & (pairs.energy_gain != 0)) | rests).to(dtype),
    )


def start_forces_loss(read: StartForces, truth: StartForces) -> Tensor:
    """Negative Laplace log-likelihood of forces and virials, as in :mod:`deeprelax_ase.training.e3_loss`, untempered,
    and the absolute error of the energy.

    Forces of overlapping atoms are a hundred times as large as the usual ones: a likelihood cares for relative errors.
    """
    forces = torch.linalg.vector_norm(read.forces - truth.forces, dim=1)
    virial = torch.linalg.matrix_norm(read.virial - truth.virial)
    parts = (
        (3 * torch.log(read.atoms) + forces / read.atoms, truth.atoms),
        (6 * torch.log(read.crystals) + virial / read.crystals, truth.crystals),
        (_ENERGY_WEIGHT * (read.gain - truth.gain).abs(), truth.gains),
    )
    return torch.stack([(loss * weight).sum() / weight.sum().clamp(min=1e-9) for loss, weight in parts]).sum()
