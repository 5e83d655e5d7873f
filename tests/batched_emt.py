"""EMT, and a calculator of springs, as if they took many crystals at once."""

from __future__ import annotations

from errno import ENOSPC
from typing import Any

import numpy as np
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from deeprelax_ase.calculators import AsePotential, PotentialCalculator


class Together(AsePotential):
    """A calculator as if it took many crystals at once.

    Attributes:
        asked: how many crystals each call had.
    """

    one_by_one = False
    most_atoms = 40

    def __init__(self, calculator: Any = None) -> None:
        super().__init__(calculator or EMT())
        self.asked: list[int] = []

    @property
    def atoms_at_once(self) -> int:
        return self.most_atoms

    def compute(self, numbers, positions, cells, batch):
        self.asked.append(len(cells))
        return super().compute(numbers, positions, cells, batch)


def emt() -> PotentialCalculator:
    """For ``--calculator tests.batched_emt:emt``."""
    return PotentialCalculator(Together())


def springs() -> PotentialCalculator:
    """For ``--calculator tests.batched_emt:springs``, any elements."""
    return PotentialCalculator(Together(LennardJones(sigma=2.5, epsilon=0.1, rc=8.0, smooth=True)))


class Broken(LennardJones):
    """Cannot do more than eight atoms, whatever is the matter then."""

    def __init__(self, wrong: Exception | None) -> None:
        super().__init__(sigma=2.5, epsilon=0.1, rc=8.0, smooth=True)
        self.wrong = wrong

    def calculate(self, atoms, *arguments: object) -> None:
        if len(atoms) > 8 and self.wrong is not None:
            raise self.wrong
        super().calculate(atoms, *arguments)
        if len(atoms) > 8:
            self.results["forces"] = np.full((len(atoms), 3), np.nan)


def raises() -> PotentialCalculator:
    """For ``--calculator tests.batched_emt:raises``."""
    return PotentialCalculator(Together(Broken(RuntimeError("no licence"))))


def full_disk() -> PotentialCalculator:
    return PotentialCalculator(Together(Broken(OSError(ENOSPC, "No space left on device"))))


def too_large() -> PotentialCalculator:
    return PotentialCalculator(Together(Broken(MemoryError())))


def no_number() -> PotentialCalculator:
    return PotentialCalculator(Together(Broken(None)))
