"""A potential in batches as a model of TorchSim's, so that TorchSim's own optimizers relax under the same potential."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_sim import SimState
from torch_sim.models.interface import ModelInterface

from deeprelax_ase.calculators.batched import BatchedPotential


class SimModel(ModelInterface):
    """Energies, forces and stresses in float64, on the device of the potential.

    Args:
        potential: one of :func:`~deeprelax_ase.calculators.get_batched`.
    """

    def __init__(self, potential: BatchedPotential) -> None:
        super().__init__()
        self.potential = potential
        self._device, self._dtype = potential.device, torch.float64
        self._compute_forces = self._compute_stress = True
        self._memory_scales_with = "n_atoms"

    def forward(self, state: SimState, **_: object) -> dict[str, Tensor]:
        """Energy (G,) eV, forces (N, 3) eV/Å and stress (G, 3, 3) eV/Å³."""
        found = self.potential(state.atomic_numbers, state.positions.detach(), state.row_vector_cell, state.system_idx)
        return {"energy": found.energies, "forces": found.forces, "stress": found.stresses}
