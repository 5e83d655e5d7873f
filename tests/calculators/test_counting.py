from __future__ import annotations

import pytest
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.emt import EMT

from deeprelax_ase.calculators.counting import CallCounter


def test_computations_are_counted_and_answers_from_the_cache_are_not() -> None:
    atoms = bulk("Cu")
    atoms.calc = EMT()
    with CallCounter(atoms.calc) as counter:
        assert counter.calls == 0
        atoms.get_forces()
        atoms.get_potential_energy()
        assert counter.calls == 1
        atoms.positions += 0.1
        atoms.get_forces()
    assert counter.calls == 2


def test_the_calculator_is_left_as_it_was_even_after_an_error() -> None:
    atoms = bulk("Cu")
    atoms.calc = EMT()
    with CallCounter(atoms.calc) as outer:
        with pytest.raises(PropertyNotImplementedError), CallCounter(atoms.calc) as inner:
            atoms.calc.get_property("magmoms", atoms)
        atoms.get_forces()
    atoms.positions += 0.1
    atoms.get_forces()
    assert outer.calls == inner.calls == 1
    assert "calculate" not in vars(atoms.calc)


def test_a_geometry_counts_once_whatever_is_asked_of_it() -> None:
    class Slow(EMT):
        def calculate(self, atoms, properties, system_changes):
            super().calculate(atoms, properties, system_changes)
            self.results = {name: self.results[name] for name in properties}

    class OfAnotherClass:
        get_potential_energy = get_forces = lambda self, atoms: EMT().get_potential_energy(atoms)

    for calculator in (Slow(), OfAnotherClass()):
        atoms = bulk("Cu")
        with CallCounter(calculator) as counter:
            for _ in range(3):
                calculator.get_potential_energy(atoms)
                calculator.get_forces(atoms)
                atoms.positions += 0.1
        assert counter.calls == 3


def test_what_cannot_be_counted_is_not_known() -> None:
    with CallCounter(object()) as counter:
        pass
    assert counter.calls is None
