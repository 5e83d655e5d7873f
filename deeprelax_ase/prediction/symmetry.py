"""The space groups of the crystals of a batch: what they say of sites, and the projection onto them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.geometry import SymmetryOperations, primitive_atoms, project, site_freedom, symmetry_operations
from deeprelax_ase.geometry.quantities import SiteSymmetry


@dataclass(frozen=True, eq=False)
class BatchSymmetry:
    """The space groups of G crystals with N atoms.

    Attributes:
        crystals: the unrelaxed ones.
        operations: of each; None where there is no symmetry, or none is looked for.
        keep: whether predictions are projected onto them.
    """

    crystals: Sequence[Crystal]
    operations: Sequence[SymmetryOperations | None]
    keep: bool

    @classmethod
    def of(cls, crystals: Sequence[Crystal], *, find: bool = True, keep: bool = True) -> BatchSymmetry:
        """The symmetry of ``crystals``, looked for where ``find`` says so; ``keep`` as above."""
        return cls(crystals, [symmetry_operations(c) if find else None for c in crystals], keep)

    def sites(self, device: torch.device) -> SiteSymmetry:
        """What the groups say of each atom and crystal."""
        pairs = list(zip(self.crystals, self.operations, strict=True))
        freedom = np.concatenate([site_freedom(*pair) for pair in pairs])
        atoms = np.array([primitive_atoms(*pair) for pair in pairs])
        return SiteSymmetry(torch.from_numpy(freedom).to(device), torch.from_numpy(atoms).to(device))

    def project(self, positions: Tensor, cell: Tensor, *, fixed_cell: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted ``positions`` (N, 3) and ``cell`` (G, 3, 3) as symmetry allows.

        Cells that are kept, where ``fixed_cell`` (G,) says so, are exact.
        """
        operations = self.operations if self.keep else [None] * len(self.crystals)
        given = zip(self.crystals, cell.cpu().numpy(), fixed_cell.tolist(), strict=True)
        cells = [crystal.cell if fixed else predicted for crystal, predicted, fixed in given]
        split = split_atoms(positions.cpu().numpy(), self.crystals)
        projected = [project(*parts) for parts in zip(self.crystals, split, cells, operations, strict=True)]
        geometry = np.concatenate([xyz for xyz, _ in projected]), np.stack([cell for _, cell in projected])
        moved = (torch.from_numpy(values).to(positions.device) for values in geometry)
        return next(moved), next(moved)


def split_atoms(values: np.ndarray, crystals: Sequence[Crystal]) -> list[np.ndarray]:
    """Values of all atoms, cut into those of each crystal."""
    return np.split(values, np.cumsum([len(c) for c in crystals])[:-1])
