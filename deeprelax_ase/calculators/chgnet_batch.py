"""CHGNet of many crystals in one call of the network."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ase.units import GPa
from pymatgen.core import Lattice, Structure

from deeprelax_ase.calculators.batched import BatchedPotential
from deeprelax_ase.calculators.m3gnet_torch import EnergiesForcesStresses
from deeprelax_ase.calculators.scope import torch_settings
from deeprelax_ase.graph.shapes import Batch, Cells, Numbers, Positions


class CHGNetPotential(BatchedPotential):
    """CHGNet in batches, in float32 on the device where the network lies. Its graphs are made one by one, on the CPU.

    Args:
        model: as ``CHGNet.load`` gives it, or a ``CHGNetCalculator`` holds it.
    """

    name = "chgnet"
    #: What the embedding of its atoms has.
    elements = frozenset(range(1, 95))

    def __init__(self, model: Any) -> None:
        self.model, self.device = model, next(model.parameters()).device

    def compute(self, numbers: Numbers, positions: Positions, cells: Cells, batch: Batch) -> EnergiesForcesStresses:
        """Compute a batch, see :class:`~deeprelax_ase.calculators.batched.BatchedPotential`."""
        counts = torch.bincount(batch, minlength=len(cells)).tolist()
        parts = zip(numbers.cpu().split(counts), positions.cpu().split(counts), cells.cpu(), strict=True)
        with torch_settings(torch.float32):
            graphs = [self.model.graph_converter(_structure(*part)) for part in parts]
            made = self.model.predict_graph(graphs, task="efs", batch_size=len(graphs))
        made = [made] if isinstance(made, dict) else made
        sizes = np.array(counts) if self.model.is_intensive else 1
        energies = np.array([float(one["e"]) for one in made]) * sizes
        forces = np.concatenate([one["f"] for one in made])
        stresses = np.stack([one["s"] for one in made]) * GPa
        return EnergiesForcesStresses(*(torch.from_numpy(a).to(positions) for a in (energies, forces, stresses)))


def _structure(numbers: Numbers, positions: Positions, cell: torch.Tensor) -> Structure:
    return Structure(Lattice(cell.numpy()), numbers.tolist(), positions.numpy(), coords_are_cartesian=True)
