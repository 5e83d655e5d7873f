"""What tests of the optimizers share: a calculator that counts its calls, and comparisons of geometries."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.emt import EMT
from ase.optimize.optimize import Optimizer

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.optimizers import DeepRelaxOptimizer

#: How far held components of the strain may move.
HELD = 1e-12


class CountingEMT(EMT):
    """EMT that counts its calls, and can be told what to do at one of them."""

    def __init__(self, *, at: int = 0, then: BaseException | dict | None = None) -> None:
        super().__init__()
        self.calls, self._at, self._then = 0, at, then or {}

    def calculate(self, *args, **kwargs):
        self.calls += 1
        if self.calls != self._at:
            super().calculate(*args, **kwargs)
        elif isinstance(self._then, BaseException):
            raise self._then
        else:
            super().calculate(*args, **kwargs)
            self.results.update(self._then)


def quiet(target, predictor, cls=DeepRelaxOptimizer, **kwargs) -> DeepRelaxOptimizer:
    """An optimizer without a log."""
    return cls(target, logfile=None, predictor=predictor, **kwargs)


def watched(cls: type[Optimizer]) -> tuple[type[Optimizer], list[Any]]:
    """A class like ``cls``, name and all, and the list of the optimizers that are made of it."""
    made: list[Any] = []

    class Watched(cls):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    Watched.__name__ = cls.__name__
    return Watched, made


def geometry(crystal: Atoms | Crystal) -> tuple[np.ndarray, np.ndarray]:
    """Copies of positions and cell in Å."""
    return np.array(crystal.positions), np.array(crystal.cell)


def assert_at(atoms: Atoms, place: Atoms | Crystal | tuple[np.ndarray, np.ndarray], *, atol: float = 0.0) -> None:
    """Positions and cell are those of ``place``, within ``atol`` in Å."""
    expected = place if isinstance(place, tuple) else geometry(place)
    for here, there in zip(geometry(atoms), expected, strict=True):
        np.testing.assert_allclose(here, there, rtol=0, atol=atol)


def carried(before: Atoms, after: Atoms) -> np.ndarray:
    """(N, 3) Å, where the atoms of ``before`` would be had they only been carried along by the cell."""
    return np.linalg.solve(before.cell.array.T, before.positions.T).T @ after.cell.array


def deformation(before: Atoms, after: Atoms) -> np.ndarray:
    """(3, 3) D of ``cell_after = cell_before @ D``."""
    return np.linalg.solve(before.cell.array, after.cell.array)
