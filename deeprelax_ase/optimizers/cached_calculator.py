"""A calculator that still knows its results for a geometry that the atoms have left and come back to."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, compare_atoms

from deeprelax_ase.calculators.identity import calculator_name


class CachedCalculator(Calculator):
    """Answers for one geometry from memory, and asks the atoms' own calculator about all others.

    A rejected jump leads back to a start whose forces are computed already. But a calculator keeps the results of its
    last geometry only, and under DFT the next call costs minutes.

    Attributes:
        calculator: the one that the atoms had before.
        geometry: copy of the atoms at the remembered geometry.
        results: computed there, in ASE's units.
    """

    def __init__(self, atoms: Atoms) -> None:
        super().__init__()
        self.calculator = atoms.calc
        self.geometry = atoms.copy()
        self.results = deepcopy(dict(getattr(atoms.calc, "results", {})))
        self.implemented_properties = list(getattr(atoms.calc, "implemented_properties", self.results))

    def _get_name(self) -> str:
        """Return the name for ASE: that of the atoms' own calculator."""
        return calculator_name(self.calculator)

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """The property called ``name`` of ``atoms``; None where it would have to be calculated and must not be."""
        if name in self.results and self._is_here(atoms):
            return deepcopy(self.results[name])
        return self.calculator.get_property(name, atoms, allow_calculation)

    def get_potential_energy(self, atoms: Atoms | None = None, force_consistent: bool = False) -> float:
        """Energy of ``atoms`` in eV, or the free energy that forces are the derivatives of.

        Raises:
            PropertyNotImplementedError: the calculator knows no free energy.
        """
        name = "free_energy" if force_consistent else "energy"
        if self._is_here(atoms) and "energy" in self.results:
            if name not in self.results:
                raise PropertyNotImplementedError(f"{type(self.calculator).__name__} gives no {name}")
            return self.results[name]
        return self.calculator.get_potential_energy(atoms, force_consistent)

    def calculation_required(self, atoms: Atoms, properties: list[str]) -> bool:
        """Whether one of the ``properties`` of ``atoms`` is neither remembered nor known to the calculator."""
        if self._is_here(atoms):
            properties = [name for name in properties if name not in self.results]
        return bool(properties) and bool(self.calculator.calculation_required(atoms, properties))

    def _is_here(self, atoms: Atoms | None) -> bool:
        return atoms is None or not compare_atoms(self.geometry, atoms)
