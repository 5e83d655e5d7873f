from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from ase.calculators.calculator import PropertyNotImplementedError

from deeprelax_ase.optimizers.cached_calculator import CachedCalculator
from tests.optimizers.helpers import CountingEMT


@pytest.fixture
def atoms(make_atoms):
    """Atoms whose calculator has been called where they are, and whose calls are counted from there."""
    made = make_atoms(calc=False)
    made.calc = CountingEMT()
    made.get_forces()
    made.calc.calls = 0
    return made


def test_it_answers_without_a_call_where_it_was_made(atoms):
    calculator, energy, forces = atoms.calc, atoms.get_potential_energy(), atoms.get_forces()
    stress = atoms.get_stress()
    remembered = CachedCalculator(atoms)
    start = atoms.positions.copy()
    atoms.positions[0, 0] += 0.1
    assert atoms.get_potential_energy() != energy
    calls = calculator.calls
    atoms.set_positions(start)
    atoms.calc = remembered
    assert atoms.get_potential_energy() == energy
    assert atoms.get_potential_energy(force_consistent=True) == energy  # EMT has no entropy
    np.testing.assert_array_equal(atoms.get_forces(), forces)
    np.testing.assert_array_equal(atoms.get_stress(), stress)
    assert not remembered.calculation_required(atoms, ["energy", "forces"])
    assert remembered.get_property("energy", allow_calculation=False) == energy
    assert calculator.calls == calls


@pytest.mark.parametrize(
    "change",
    [
        lambda atoms: atoms.positions.__iadd__(1e-6),
        lambda atoms: atoms.set_cell(1.001 * atoms.cell),
        lambda atoms: atoms.symbols.__setitem__(0, "Ag"),
        lambda atoms: atoms.set_pbc((1, 1, 0)),
        lambda atoms: atoms.set_initial_magnetic_moments([1, 0, 0, 0]),
    ],
    ids=["positions", "cell", "elements", "pbc", "moments"],
)
def test_it_asks_about_everything_else(atoms, change):
    calculator = atoms.calc
    atoms.calc = CachedCalculator(atoms)
    change(atoms)
    assert atoms.calc.calculation_required(atoms, ["energy"])
    assert atoms.calc.get_property("energy", atoms, allow_calculation=False) is None
    assert calculator.calls == 0
    plain = atoms.copy()
    plain.calc = CountingEMT()
    assert atoms.get_potential_energy() == plain.get_potential_energy()
    np.testing.assert_array_equal(atoms.get_forces(), plain.get_forces())
    assert calculator.calls == 1


def test_it_asks_for_what_was_not_computed(atoms):
    calculator = atoms.calc
    stress = atoms.get_stress()
    atoms.calc = remembered = CachedCalculator(atoms)
    del remembered.results["stress"]
    calculator.reset()
    np.testing.assert_array_equal(atoms.get_stress(), stress)
    assert calculator.calls == 1


def test_what_it_remembers_cannot_be_changed(atoms):
    calculator, forces = atoms.calc, atoms.get_forces()
    atoms.calc = CachedCalculator(atoms)
    calculator.results["forces"][:] = 0
    atoms.calc.get_property("forces")[:] = 0
    np.testing.assert_array_equal(atoms.get_forces(), forces)


def test_a_free_energy_that_is_not_given_is_not_made_up(make_atoms):
    class NoFreeEnergy(CountingEMT):
        implemented_properties: ClassVar = ["energy", "forces"]

        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            del self.results["free_energy"]

    atoms = make_atoms(calc=False)
    atoms.calc = NoFreeEnergy()
    energy = atoms.get_potential_energy()
    atoms.calc = CachedCalculator(atoms)
    assert atoms.calc.implemented_properties == ["energy", "forces"]
    with pytest.raises(PropertyNotImplementedError, match="NoFreeEnergy gives no free_energy"):
        atoms.get_potential_energy(force_consistent=True)
    assert atoms.get_potential_energy() == energy
