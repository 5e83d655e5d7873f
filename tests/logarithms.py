"""Logarithms of deformations for ASE's filter in the tests: SciPy takes a millisecond for each, several a step."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase.filters import FrechetCellFilter
from scipy.linalg import logm

#: Within this the series ends after some ten terms.
NEAR = 0.3


def logarithm(matrix: np.ndarray) -> np.ndarray:
    """``log A = log s + 2 artanh X`` with ``X = (A / s - 1) / (A / s + 1)``, for an A that is nearly a number s."""
    identity, scale = np.eye(3), np.cbrt(np.linalg.det(matrix))
    if scale <= 0:
        return logm(matrix)
    part = power = np.linalg.solve(matrix / scale + identity, matrix / scale - identity)
    if np.linalg.norm(part) > NEAR:
        return logm(matrix)
    square, total = part @ part, part.copy()
    for odd in range(3, 40, 2):
        power = power @ square
        total += power / odd
    return np.log(scale) * identity + 2 * total


_made = FrechetCellFilter.__init__


def _make(self: FrechetCellFilter, *args: Any, **options: Any) -> None:
    _made(self, *args, **options)
    for holder in (self, getattr(self, "_utility", self)):
        holder.logm = logarithm


FrechetCellFilter.__init__ = _make
