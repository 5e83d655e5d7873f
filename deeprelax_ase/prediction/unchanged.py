"""Crystals that are left as they are, because the model would not bring them nearer to their minimum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deeprelax_ase.uncertainty.calibration import CalibratedError

#: Where a prediction would more likely than not lead away from the minimum, the crystal stays where it is.
EVEN = 0.5

_WITHIN = "it would move by less than it is expected to be off"


def why_unchanged(
    initial: np.ndarray, relaxed: np.ndarray, errors: Sequence[CalibratedError], steps: np.ndarray
) -> list[str]:
    """Return the reasons to leave crystals as they are; empty where they are moved to the prediction.

    Args:
        initial: (G, 3, 3) Å, cells of the unrelaxed crystals.
        relaxed: (G, 3, 3) Å, of the predicted ones.
        errors: expected of the predictions.
        steps: (G,) Å, how far atoms are moved, see :func:`~deeprelax_ase.uncertainty.features.step_sizes`.
    """
    within = within_error(initial, relaxed, errors, steps).tolist()
    return [_WITHIN if inside else _likely_further(error) for inside, error in zip(within, errors, strict=True)]


def _likely_further(error: CalibratedError) -> str:
    if error.odds_worse is not None and error.odds_worse > EVEN:
        return f"the odds are {error.odds_worse:.0%} that it would end further from its minimum"
    return ""


def within_error(
    initial: np.ndarray, relaxed: np.ndarray, errors: Sequence[CalibratedError], steps: np.ndarray
) -> np.ndarray:
    """(G,) bool, which crystals the model would move by less than it expects to be off: they are as good as relaxed.

    The step of the atoms, the volume, and the largest strain must all be within their errors. Without an expected error
    of the volume, as where the cell is kept, the answer is no. Arguments as of :func:`why_unchanged`.
    """
    coordinates = np.array([error.coordinates for error in errors])
    volumes = np.array([np.nan if error.volume is None else error.volume for error in errors])
    found = (steps <= coordinates) & np.isfinite(volumes)
    near = np.flatnonzero(found)
    deformation = np.linalg.solve(initial[near], relaxed[near])
    strains = np.log(np.linalg.eigvalsh(deformation @ deformation.transpose(0, 2, 1))) / 2
    largest = np.maximum(np.abs(strains.sum(axis=1)), np.abs(strains).max(axis=1))
    found[near] = largest <= volumes[near]
    return found
