"""Nequix as a model of TorchSim, on the neighbour search of this package: in batches and on the device throughout.

PYTHONPATH=benchmarks DEEPRELAX_NEQUIX=nequix-oam-1.pt deeprelax bench DeepRelax-PBE --data pairs_universal.npz \\
    --number 1000 --device cuda --baseline nothing --calculator nequix_torch_sim:nequix
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from deeprelax_ase.graph import GraphSettings, neighbor_graph

try:
    from nequix.torch_impl.model import load_model, scatter
    from torch_sim import SimState
    from torch_sim.models.interface import ModelInterface
except ImportError as error:
    if __name__ != "__main__":
        raise
    raise SystemExit(f"{__doc__}\n{error.name} is missing: pip install nequix torch-sim-atomistic") from error


class Nequix(ModelInterface):
    """Energies, forces and stresses in float32.

    Args:
        file: ``nequix-oam-1.pt``.
        device: where.
    """

    def __init__(self, file: Path, device: str) -> None:
        super().__init__()
        self._device, self._dtype = torch.device(device), torch.float32
        self._compute_forces = self._compute_stress = True
        self._memory_scales_with = "n_atoms"
        network, config = load_model(str(file))
        self.network = network.to(self._device, self._dtype).eval()
        self.settings = GraphSettings(cutoff=config["cutoff"], max_neighbors=10**6, max_in_cell=0)
        self.species = torch.full((max(config["atomic_numbers"]) + 1,), -1, device=self._device)
        for index, number in enumerate(sorted(config["atomic_numbers"])):
            self.species[number] = index

    def forward(self, state: SimState) -> dict[str, Tensor]:
        """Energy (G,) eV, forces (N, 3) eV/Å and stress (G, 3, 3) eV/Å^3."""
        cell, batch = state.row_vector_cell, state.system_idx
        positions = state.positions.detach()
        graph = neighbor_graph(state.atomic_numbers, positions, cell, batch, settings=self.settings)
        with torch.enable_grad():
            energies, forces, stress = self.network(
                self.species[state.atomic_numbers],
                positions.clone(),
                graph.cell_offsets.to(self._dtype),
                graph.edge_index,
                cell,
                None,
                None,
                batch,
            )
        energy = scatter(energies, batch, dim=0, dim_size=len(cell)).detach().reshape(-1)
        return {"energy": energy, "forces": forces.detach(), "stress": stress.detach()}


def nequix(device: str = "cuda" if torch.cuda.is_available() else "cpu") -> Nequix:
    """The model whose file the environment variable ``DEEPRELAX_NEQUIX`` names; on the GPU, if there is one."""
    return Nequix(Path(os.environ["DEEPRELAX_NEQUIX"]), device)


if __name__ == "__main__":
    print(__doc__)
