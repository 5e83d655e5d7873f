"""Further jumps, once the forces are known where the first one landed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deeprelax_ase.errors import StructureError
from deeprelax_ase.optimizers.restart import Before

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
        before: where the last one started, if one was made whose energy has not been looked at.
    """

    def __init__(self, atoms: Atoms, predictor: Predictor, left: int, before: Before | None = None) -> None:
        self.atoms, self.predictor, self.left, self.before = atoms, predictor, left, before

    def step(self) -> bool:
        """Jump again, or take the last jump back; returns whether there was anything to do."""
        if self.before is None and self.left <= 0:
            return False
        energy = float(self.atoms.get_potential_energy())
        if self.before is not None and not energy <= self.before.energy:
            self.atoms.set_cell(self.before.cell)
            self.atoms.set_positions(self.before.positions)
            self.before, self.left = None, 0
            return True
        self.before = None
        if self.left <= 0:
            return False
        forces, stress = self.atoms.get_forces(), self.atoms.get_stress(voigt=False)
        try:
            relaxed = self.predictor.correct(self.atoms, forces, stress).relaxed
        except StructureError:  # the last jump led where the network cannot follow; the finish may
            self.left = 0
            return False
        self.before = Before(energy, self.atoms.cell.array.copy(), self.atoms.positions.copy())
        self.left -= 1
        self.atoms.set_cell(relaxed.cell)
        self.atoms.set_positions(relaxed.positions)
        return True
