"""Predictions as far as constraints let the atoms go, and crystals that come of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk
from ase.constraints import FixAtoms, FixCartesian

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import UnphysicalPredictionError
from deeprelax_ase.prediction.constrained import constrained
from deeprelax_ase.prediction.record import Prediction
from tests.stand_in import StandInPredictor


def moved_by(displacements: dict[int, list[float]], *constraints) -> Prediction:
    """A prediction that displaces some atoms of a crystal with ``constraints``, in Å, and keeps the cell."""
    atoms = bulk("Cu", cubic=True, a=3.7)
    atoms.set_constraint(list(constraints))
    made = StandInPredictor().predict(atoms, relax_cell=False)
    positions = atoms.positions.copy()
    for number, shift in displacements.items():
        positions[number] += shift
    return replace(made, relaxed=made.initial.with_geometry(positions, made.initial.cell))


def test_without_constraints_it_is_as_it_was():
    made = moved_by({0: [0.1, 0, 0]})
    assert constrained(made) is made


def test_the_crystal_is_put_where_a_fixed_atom_costs_no_distance():
    free, held = moved_by({1: [0.1, 0, 0]}), moved_by({1: [0.1, 0, 0]}, FixAtoms([1]))
    made = constrained(held)
    assert made.relaxed.positions[1].tolist() == held.initial.positions[1].tolist()
    np.testing.assert_allclose(made.relaxed.positions - free.relaxed.positions, [[-0.1, 0, 0]] * 4, atol=1e-12)
    assert made.relaxed.constraints == held.initial.constraints


def test_atoms_that_run_into_one_that_is_held_are_no_crystal():
    """Atom 1 is to make room for atom 0, and may not; atom 2 holds the crystal where it is."""
    away = {0: [0.0, 1.2, 1.2], 1: [0.0, 0.9, 0.9]}
    assert isinstance(constrained(moved_by(away)), Prediction)
    made = constrained(moved_by(away, FixAtoms([1, 2]), FixCartesian([3])))
    assert isinstance(made, UnphysicalPredictionError)
    assert "atoms 0 and 1 end" in str(made)


def test_a_crystal_that_is_left_is_left():
    made = replace(moved_by({0: [0.1, 0, 0]}, FixAtoms([0])), unchanged="it is relaxed")
    assert constrained(made) is made


@pytest.mark.parametrize("given", ["atoms", "crystal"])
def test_crystals_hold_copies_of_constraints(given):
    atoms = bulk("Cu", cubic=True)
    atoms.set_constraint(FixAtoms([0]))
    crystal = Crystal.of(atoms)
    held = atoms.constraints[0] if given == "atoms" else crystal.to_atoms().constraints[0]
    held.index[:] = 2
    assert crystal.constraints[0].index.tolist() == [0]
