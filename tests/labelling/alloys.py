"""Alloys that relax under EMT in a moment, and calculators that do not do what they should."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from torch import Tensor

from deeprelax_ase.calculators import AsePotential, EnergiesForcesStresses, PotentialCalculator

METALS = ("Cu", "Au", "Ag", "Ni", "Pd", "Pt")

EMT_NAME = "ase.calculators.emt:EMT"


def alloys(number: int) -> list[Atoms]:
    """Ordered alloys in cells of four atoms, strained and rattled; each is another."""
    made = []
    for n in range(number):
        first, second = METALS[n % 6], METALS[(n + 1 + n // 6) % 6]
        atoms = bulk(first, "fcc", a=3.95 + 0.01 * n, cubic=True)
        atoms.numbers[n % 3 + 1 :] = bulk(second, "fcc", a=4.0).numbers[0]
        atoms.rattle(0.08, seed=n)
        atoms.info = {"material_id": f"alloy-{n}"}
        made.append(atoms)
    return made


def slab() -> Atoms:
    """Six layers of copper, thicker than what counts as a layer."""
    atoms = fcc111("Cu", (1, 1, 6), a=3.8, vacuum=7.0)
    atoms.pbc = True
    atoms.info = {"material_id": "slab"}
    return atoms


class Forbidding(EMT):
    """EMT that raises for gold, and gives NaN for platinum."""

    def calculate(self, atoms: Atoms | None = None, *arguments: object, **more: object) -> None:
        assert atoms is not None
        if "Au" in atoms.symbols:
            raise RuntimeError("no gold\nhere")
        super().calculate(atoms, *arguments, **more)
        if "Pt" in atoms.symbols:
            self.results["forces"] = np.full_like(self.results["forces"], np.nan)


class Stressless(Calculator):
    """EMT without its stress."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def calculate(self, atoms: Atoms | None = None, *arguments: object, **more: object) -> None:
        super().calculate(atoms, *arguments, **more)
        assert atoms is not None
        alone = atoms.copy()
        alone.calc = EMT()
        self.results = {"energy": alone.get_potential_energy(), "forces": alone.get_forces()}


class Together(AsePotential):
    """EMT as if it took many crystals at once; it notes how many."""

    one_by_one = False
    asked: ClassVar[list[int]] = []

    @property
    def atoms_at_once(self) -> int:
        return 20

    def compute(self, *tensors: Tensor) -> EnergiesForcesStresses:
        self.asked.append(len(tensors[2]))
        return super().compute(*tensors)


def knowing_metals() -> PotentialCalculator:
    """EMT that tells its elements, and gives NaN for platinum."""
    potential = Together(Forbidding())
    potential.elements = frozenset(bulk(metal).numbers[0] for metal in METALS)
    return PotentialCalculator(potential)


def emt_together() -> PotentialCalculator:
    return PotentialCalculator(Together(EMT()))
