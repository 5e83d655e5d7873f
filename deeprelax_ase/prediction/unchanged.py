"""Crystals that are left as they are, because the model would not bring them nearer to their minimum."""

from __future__ import annotations

import numpy as np

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.uncertainty.calibration import CalibratedError

#: Where a prediction would more likely than not lead away from the minimum, the crystal stays where it is.
EVEN = 0.5


def why_unchanged(initial: Crystal, relaxed: Crystal, error: CalibratedError, *, step: float) -> str:
    """Return the reason to leave ``initial`` as it is; empty where it is moved to the prediction.

    Args:
        initial: the unrelaxed crystal.
        relaxed: the predicted crystal.
        error: expected of the prediction.
        step: Å, how far atoms are moved, see :class:`~deeprelax_ase.uncertainty.worsening.Steps`.
    """
    if within_error(initial, relaxed, error, step=step):
        return "it would move by less than it is expected to be off"
    if error.odds_worse is not None and error.odds_worse > EVEN:
        return f"the odds are {error.odds_worse:.0%} that it would end further from its minimum"
    return ""


def within_error(initial: Crystal, relaxed: Crystal, error: CalibratedError, *, step: float) -> bool:
    """Whether the model would move ``initial`` by less than it expects to be off itself: then it is as good as relaxed.

    The ``step`` (Å) of the atoms, the volume, and the largest strain must all be within their errors. Without an
    expected error of the volume, as where the cell is kept, the answer is no.
    """
    if error.volume is None or not step <= error.coordinates:
        return False
    deformation = np.linalg.solve(initial.cell, relaxed.cell)
    strains = np.log(np.linalg.eigvalsh(deformation @ deformation.T)) / 2
    return bool(max(abs(strains.sum()), np.abs(strains).max()) <= error.volume)
