"""The space groups of the crystals of a batch, and the projection onto them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import ConstraintError
from deeprelax_ase.geometry import SymmetryOperations, project, symmetry_operations
from deeprelax_ase.prediction.allowed_strain import AllowedStrain, RelaxCell, refuse_broken_symmetry


@dataclass(frozen=True, eq=False)
class BatchSymmetry:
    """The space groups of G crystals with N atoms.

    Attributes:
        crystals: the unrelaxed ones.
        operations: of each; None where there is no symmetry.
    """

    crystals: Sequence[Crystal]
    operations: Sequence[SymmetryOperations | None]

    @classmethod
    def of(cls, crystals: Sequence[Crystal]) -> BatchSymmetry:
        """The symmetry of ``crystals``."""
        return cls(crystals, [symmetry_operations(crystal) for crystal in crystals])

    def broken_by(self, relax_cell: RelaxCell) -> list[ConstraintError | None]:
        """Say of each crystal whether cells that move like that break its symmetry; None where they do not."""
        return [_broken(relax_cell, each) if each is not None else None for each in self.operations]

    def project(self, positions: Tensor, cell: Tensor, *, fixed_cell: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted ``positions`` (N, 3) and ``cell`` (G, 3, 3) as symmetry allows.

        Cells that are kept, where ``fixed_cell`` (G,) says so, are exact.
        """
        given = zip(self.crystals, cell.cpu().numpy(), fixed_cell.tolist(), strict=True)
        cells = [crystal.cell if fixed else predicted for crystal, predicted, fixed in given]
        split = split_atoms(positions.cpu().numpy(), self.crystals)
        projected = [project(*parts) for parts in zip(self.crystals, split, cells, self.operations, strict=True)]
        geometry = np.concatenate([xyz for xyz, _ in projected]), np.stack([cell for _, cell in projected])
        moved = (torch.from_numpy(values).to(positions.device) for values in geometry)
        return next(moved), next(moved)


def _broken(relax_cell: RelaxCell, operations: SymmetryOperations) -> ConstraintError | None:
    basis = operations.basis
    try:
        if isinstance(relax_cell, AllowedStrain):
            refuse_broken_symmetry(relax_cell, [np.linalg.solve(basis, w.T @ basis) for w in operations.rotations])
    except ConstraintError as error:
        return error
    return None


def split_atoms(values: np.ndarray, crystals: Sequence[Crystal]) -> list[np.ndarray]:
    """Values of all atoms, cut into those of each crystal."""
    return np.split(values, np.cumsum([len(c) for c in crystals])[:-1])
