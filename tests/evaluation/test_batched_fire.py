"""Optimizers of ASE that step side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.evaluation.baselines import ase_optimizer
from deeprelax_ase.evaluation.batched_fire import ase_optimizer_in_batches
from deeprelax_ase.evaluation.relaxation import Limits


class Potential:
    """EMT of each crystal; keeps how many crystals it was asked for at once."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, given: Sequence[Atoms]) -> list[dict]:
        self.asked.append(len(given))
        found = []
        for atoms in given:
            atoms = atoms.copy()
            atoms.calc = EMT()
            found.append(
                {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": atoms.get_stress()}
            )
        return found


def crystals() -> list[Crystal]:
    made = []
    for seed, (element, size) in enumerate([("Cu", 3.8), ("Al", 4.2), ("Ag", 3.9), ("Au", 4.1)]):
        atoms = bulk(element, a=size, cubic=True)
        atoms.rattle(0.05, seed=seed)
        made.append(Crystal.of(atoms))
    return made


@pytest.mark.parametrize("atoms_per_batch", [9, 100])
def test_each_takes_the_steps_that_it_takes_alone(atoms_per_batch: int) -> None:
    limits, potential, told = Limits(fmax=0.05, steps=200), Potential(), []
    alone = ase_optimizer("FIRE", EMT, limits)(crystals(), lambda: None)
    relax = ase_optimizer_in_batches("FIRE", potential, limits, atoms_per_batch=atoms_per_batch)
    made = relax(crystals(), lambda: told.append(1))
    assert max(potential.asked) == {9: 2, 100: 4}[atoms_per_batch]
    assert (made.calls, made.converged, made.failed) == (alone.calls, 1.0, 0)
    assert sum(potential.asked) == made.calls * 4
    assert len(told) == 4
    for one, other in zip(made.crystals, alone.crystals, strict=True):
        np.testing.assert_allclose(one.positions, other.positions, atol=1e-10)
        np.testing.assert_allclose(one.cell, other.cell, atol=1e-10)


def test_it_ends_after_so_many_steps() -> None:
    limits = Limits(fmax=1e-9, steps=3)
    alone = ase_optimizer("FIRE", EMT, limits)(crystals(), lambda: None)
    made = ase_optimizer_in_batches("FIRE", Potential(), limits)(crystals(), lambda: None)
    assert (made.calls, made.converged) == (alone.calls, alone.converged) == (4.0, 0.0)


def test_a_crystal_that_fails_costs_itself() -> None:
    bad = Crystal.of(bulk("MgO", "rocksalt", a=4.2))  # EMT knows no Mg
    given = [crystals()[0], bad, *crystals()[1:]]
    made = ase_optimizer_in_batches("FIRE", Potential(), Limits(fmax=0.05))(given, lambda: None)
    assert made.failed == 1
    assert made.converged == pytest.approx(4 / 5)
    assert made.crystals[1] is bad
    assert made.crystals[0].volume == pytest.approx(4 * bulk("Cu", a=3.59).get_volume(), rel=0.01)


def test_nothing_to_relax() -> None:
    assert ase_optimizer_in_batches("FIRE", Potential(), Limits())([], lambda: None).crystals == []


@pytest.mark.slow
def test_m3gnet_in_batches_is_m3gnet() -> None:
    from deeprelax_ase.calculators import get_calculator
    from deeprelax_ase.errors import CalculatorError
    from deeprelax_ase.evaluation.batched_fire import m3gnet_compute

    try:
        compute, calculator = m3gnet_compute(), get_calculator("m3gnet")
    except CalculatorError as error:
        pytest.skip(f"needs M3GNet: {error}")
    given = [c.to_atoms() for c in crystals()] + [bulk("MgO", "rocksalt", a=4.3)]
    for atoms, found in zip(given, compute(given), strict=True):
        calculator.calculate(atoms, ["energy", "forces", "stress"])
        assert found["energy"] == pytest.approx(calculator.results["energy"], abs=1e-4)
        np.testing.assert_allclose(found["forces"], calculator.results["forces"], atol=1e-4)
        np.testing.assert_allclose(found["stress"], calculator.results["stress"], atol=1e-5)
