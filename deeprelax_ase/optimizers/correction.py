"""Further jumps, once the forces are known where the first one landed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ase import Atoms

    from deeprelax_ase.predictor import Predictor

#: Further jumps under a calculator whose forces the model has learnt to read.
CORRECTIONS = 2


class Correction:
    """Jumps that know the forces; one that raises the energy is taken back, and no other follows.

    Args:
        atoms: moved in place, cell and positions; under their calculator.
        predictor: see :meth:`~deeprelax_ase.predictor.Predictor.correct`.
        left: most jumps to make.
    """

    def __init__(self, atoms: Atoms, predictor: Predictor, left: int) -> None:
        self.atoms, self.predictor, self.left = atoms, predictor, left
        self._before: tuple[float, np.ndarray, np.ndarray] | None = None  # energy, cell and positions before the last

    def step(self) -> bool:
        """Jump again, or take the last jump back; returns whether there was anything to do."""
        if self._before is None and self.left <= 0:
            return False
        energy = float(self.atoms.get_potential_energy())
        if self._before is not None and not energy <= self._before[0]:
            self._move(*self._before[1:])
            self._before, self.left = None, 0
            return True
        self._before = None
        if self.left <= 0:
            return False
        forces, stress = self.atoms.get_forces(), self.atoms.get_stress(voigt=False)
        relaxed = self.predictor.correct(self.atoms, forces, stress).relaxed
        self._before = energy, self.atoms.cell.array.copy(), self.atoms.positions.copy()
        self.left -= 1
        self._move(relaxed.cell, relaxed.positions)
        return True

    def _move(self, cell: np.ndarray, positions: np.ndarray) -> None:
        self.atoms.set_cell(cell)
        self.atoms.set_positions(positions)
