"""Which crystals are left as they are, because the model would not bring them nearer to their minimum."""

from __future__ import annotations

import numpy as np

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.uncertainty.calibration import CalibratedError

#: Where a prediction would more likely than not lead away from the minimum, the crystal stays where it is.
EVEN = 0.5


def why_unchanged(initial: Crystal, relaxed: Crystal, error: CalibratedError) -> str:
    """Why ``initial`` is left as it is, rather than moved to where it is predicted; empty where it is moved.

    Args:
        initial: the unrelaxed crystal.
        relaxed: where the model predicts it.
        error: what the prediction is expected to be off.
    """
    if within_error(initial, relaxed, error):
        return "it would move by less than it is expected to be off"
    if error.odds_worse is not None and error.odds_worse > EVEN:
        return f"the odds are {error.odds_worse:.0%} that it would end further from its minimum"
    return ""


def within_error(initial: Crystal, relaxed: Crystal, error: CalibratedError) -> bool:
    """Whether the model would move ``initial`` by less than it expects to be off itself: then it is as good as relaxed.

    That holds of the mean absolute component of the displacements, of the volume, and of the largest strain. Without an
    expected error of the volume, as where the cell is kept, it does not hold.
    """
    if error.volume is None:
        return False
    moves = relaxed.fractional_positions - initial.fractional_positions
    moves = (moves - moves.mean(axis=0)) @ relaxed.cell
    deformation = np.linalg.solve(initial.cell, relaxed.cell)
    strains = np.log(np.linalg.eigvalsh(deformation @ deformation.T)) / 2
    swells = max(abs(strains.sum()), np.abs(strains).max())
    return bool(np.abs(moves).mean() <= error.coordinates and swells <= error.volume)
