"""Crystals as plain tensors, and potentials in batches that fail as told."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk

from deeprelax_ase.calculators import BatchedPotential, EnergiesForcesStresses


def tensors_of(crystals: Sequence[Atoms]) -> tuple[torch.Tensor, ...]:
    """Numbers, positions, cells and the crystal of each atom."""
    return (
        torch.from_numpy(np.concatenate([atoms.numbers for atoms in crystals])),
        torch.from_numpy(np.concatenate([atoms.positions for atoms in crystals])),
        torch.from_numpy(np.stack([atoms.cell.array for atoms in crystals])),
        torch.repeat_interleave(torch.tensor([len(atoms) for atoms in crystals])),
    )


def rattled(element: str = "Cu", a: float = 3.7, seed: int = 0, cubic: bool = True) -> Atoms:
    atoms = bulk(element, "fcc", a=a, cubic=cubic)
    atoms.rattle(0.05, seed=seed)
    return atoms


class Springs(BatchedPotential):
    """Springs to the origin and of the volume; gold raises, silver has no numbers, platinum loses the device.

    Attributes:
        asked: how many atoms each call had.
    """

    name = "springs"
    device = torch.device("cpu")

    def __init__(self, most_atoms: int = 1000, elements: frozenset[int] | None = None) -> None:
        self.most_atoms, self.elements, self.asked = most_atoms, elements, []

    def compute(self, numbers, positions, cells, batch) -> EnergiesForcesStresses:
        self.asked.append(len(numbers))
        if len(numbers) > self.most_atoms:
            raise MemoryError
        if (numbers == 78).any():
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if (numbers == 79).any():
            raise RuntimeError("gold\ndiverges")
        volumes = torch.linalg.det(cells)
        energies = volumes.index_add(0, batch, positions.square().sum(dim=1) / 2)
        energies[batch[numbers == 47]] = torch.nan
        stresses = torch.eye(3, dtype=cells.dtype).expand_as(cells)
        return EnergiesForcesStresses(energies, -positions, stresses)
