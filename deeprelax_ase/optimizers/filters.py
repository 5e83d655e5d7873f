"""ASE's cell filter without computing the same thing several times a step."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase.filters import FrechetCellFilter


class RememberingCellFilter(FrechetCellFilter):
    """``FrechetCellFilter`` that computes its gradient once for each geometry.

    ASE asks for the gradient three times a step. Its derivatives of the matrix exponential take a notable share of a
    relaxation under a small potential. Forces, stress, cell and settings determine the gradient, and are compared.
    """

    _known: tuple[list[np.ndarray], np.ndarray] | None = None

    def get_forces(self, **kwargs: Any) -> np.ndarray:
        """(N + 3, 3) eV/Å, forces on the atoms and on the cell."""
        atoms = self.atoms
        given = [
            atoms.get_forces(**kwargs),
            atoms.get_stress(**kwargs),
            atoms.cell.array.copy(),
            np.array([self.scalar_pressure, self.exp_cell_factor, self.hydrostatic_strain, self.constant_volume]),
            np.array(self.mask),
            np.array(self.orig_cell),
        ]
        if self._known is None or not all(map(np.array_equal, given, self._known[0])):
            self._known = given, self._gradient(**kwargs)
        return self._known[1].copy()

    def _gradient(self, **kwargs: Any) -> np.ndarray:
        """Compute the gradient; the volume stays where a mask keeps lengths too, which ASE loses sight of."""
        lengths = np.diag(self.mask).copy()
        if not self.constant_volume or lengths.all():
            return super().get_forces(**kwargs)
        self.constant_volume = False
        try:
            gradient = super().get_forces(**kwargs)
        finally:
            self.constant_volume = True
        cell = gradient[-3:]
        cell -= np.diag(lengths) * np.trace(cell) / max(lengths.sum(), 1)
        return gradient
