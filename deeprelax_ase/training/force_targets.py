"""Forces and virial at the start as targets beside the relaxation: they tell of the landscape that atoms cross.

A head reads them after the first block, which sees the start and nothing else. It is for training alone.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.graph.record import crystal_mean
from deeprelax_ase.nn import DeepRelaxE3, DeepRelaxE3Config
from deeprelax_ase.nn.deeprelax_e3 import NetworkInput, strain_matrix
from deeprelax_ase.nn.e3_layers import Refinement
from deeprelax_ase.nn.heads import bounded_scale
from deeprelax_ase.nn.records import Relaxation

#: eV/Å and eV, bounds of the Laplace scales of forces, and of the virial of an atom.
_SCALES = (5e-3, 30.0)


class StartForces(NamedTuple):
    """Forces and virial of N atoms in G crystals, as they are or as they were read.

    Attributes:
        forces: (N, 3) eV/Å.
        virial: (G, 3, 3) eV, minus the stress times the volume of an atom: downhill, as forces are.
        atoms: (N,) weights of the forces; of what was read, their Laplace scales in eV/Å.
        crystals: (G,) weights of the virials; of what was read, their Laplace scales in eV.
    """

    forces: Tensor
    virial: Tensor
    atoms: Tensor
    crystals: Tensor


class WithForceTargets(DeepRelaxE3):
    """The end-to-end network with a head for forces and virial at the start."""

    def __init__(self, config: DeepRelaxE3Config) -> None:
        super().__init__(config)
        self.force_targets = Refinement(config.channels)

    def refine_and_read(self, given: NetworkInput) -> tuple[list[Relaxation], StartForces]:
        """The relaxation after each block, and what pulls at the atoms and cells at the start."""
        relaxations, first = [], None
        for relaxation, x, h in self.features(given):
            relaxations.append(relaxation)
            first = self.force_targets(x, h) if first is None else first
        assert first is not None
        dtype = given.vectors.dtype
        forces, coefficients, raw = (values.to(dtype) for values in first)

        def mean(values: Tensor) -> Tensor:
            return crystal_mean(values, given.batch, len(given.counts), counts=given.counts)

        return relaxations, StartForces(
            forces=forces,
            virial=strain_matrix(mean(coefficients)),
            atoms=bounded_scale(raw[:, 0], _SCALES),
            crystals=bounded_scale(mean(raw[:, 1:2])[:, 0], _SCALES),
        )


def without_force_targets(network: nn.Module) -> nn.Module:
    """The ``network`` as it is used: the head, if it has one, stays behind."""
    if not isinstance(network, WithForceTargets):
        return network
    plain = DeepRelaxE3(network.config).to(next(network.parameters()))
    plain.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("force_targets.")})
    return plain.requires_grad_(False)


def start_forces(pairs: RelaxationPairs, start: RelaxationPairs, free: Tensor) -> StartForces:
    """The forces of ``pairs``, which count where they are known and ``start`` is the very unrelaxed crystal.

    Those that the network is told count for nothing, and virials only where the cell is ``free`` (G,) to move in all
    directions.
    """
    batch, size = pairs.batch, len(pairs)
    elsewhere = (pairs.fractional_initial != start.fractional_initial).any(dim=1)
    moved = torch.zeros(size, dtype=torch.int64, device=batch.device).index_add(0, batch, elsewhere.long()) > 0
    moved |= (pairs.cell_initial != start.cell_initial).flatten(start_dim=1).any(dim=1)
    counted = pairs.has_forces & ~start.has_forces & ~moved
    weights, dtype = counted[batch], pairs.forces.dtype
    virial = -pairs.virial / pairs.counts[:, None, None]
    return StartForces(pairs.forces, virial, weights.to(dtype), (counted & free).to(dtype))


def start_forces_loss(read: StartForces, truth: StartForces) -> Tensor:
    """Negative Laplace log-likelihood of forces and virials, as in :mod:`deeprelax_ase.training.e3_loss`, untempered.

    Forces of overlapping atoms are a hundred times as large as the usual ones: a likelihood cares for relative errors.
    """
    forces = torch.linalg.vector_norm(read.forces - truth.forces, dim=1)
    virial = torch.linalg.matrix_norm(read.virial - truth.virial)
    parts = ((forces, read.atoms, 3, truth.atoms), (virial, read.crystals, 6, truth.crystals))
    return torch.stack(
        [
            ((components * torch.log(scale) + error / scale) * weight).sum() / weight.sum().clamp(min=1e-9)
            for error, scale, components, weight in parts
        ]
    ).sum()
