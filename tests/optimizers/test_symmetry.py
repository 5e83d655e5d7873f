"""``symprec``: crystals that are nearly symmetric are made so before they are relaxed."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from spglib import get_symmetry_dataset

from deeprelax_ase.errors import ConstraintError, StructureError
from tests.optimizers.helpers import assert_at, quiet, watched

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of spglib


@pytest.fixture
def nearly(minimum) -> Atoms:
    """Cu3Au, 0.005 Å and 0.2 % off its symmetry."""
    rng = np.random.default_rng(9)
    atoms = minimum.to_atoms()
    strain = 2e-3 * rng.normal(size=(3, 3))
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
    atoms.positions += 5e-3 * rng.normal(size=(4, 3))
    return atoms


def space_group(crystal, symprec: float = 1e-6) -> str:
    atoms = crystal if isinstance(crystal, Atoms) else crystal.to_atoms()
    return get_symmetry_dataset((atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), symprec).international


@pytest.mark.parametrize("calc", [True, False])
def test_the_model_sees_a_symmetric_crystal(nearly, predictor, calc):
    assert space_group(nearly) == "P1"
    nearly.calc = EMT() if calc else None
    before = nearly.copy()
    optimizer = quiet(nearly, predictor, symprec=0.1)
    optimizer.run(fmax=1e-9, steps=1)
    assert space_group(optimizer.prediction.initial) == "Pm-3m"
    assert np.abs(optimizer.prediction.initial.positions - before.positions).max() < 0.03
    assert np.abs(optimizer.prediction.initial.cell - before.cell.array).max() < 0.03


def test_without_it_crystals_are_taken_as_they_are(nearly, predictor):
    before = nearly.copy()
    optimizer = quiet(nearly, predictor)
    optimizer.run()
    assert_at(optimizer.prediction.initial.to_atoms(), before)


def test_the_finish_measures_its_strain_from_the_symmetric_cell(nearly, predictor):
    nearly.calc = EMT()
    finish, made = watched(BFGS)
    optimizer = quiet(nearly, predictor, symprec=0.1, finish=finish)
    optimizer.run(fmax=1e-9, steps=2)
    np.testing.assert_array_equal(made[0].atoms.orig_cell, optimizer.prediction.initial.cell)


def test_it_is_done_once(nearly, predictor):
    optimizer = quiet(nearly, predictor, symprec=0.1)
    optimizer.run()
    after = nearly.copy()
    optimizer.run()
    assert_at(nearly, after)
    assert space_group(nearly) == "P1"  # where the stand-in has put it


@pytest.mark.parametrize(
    ("wrap", "kwargs"),
    [
        (FrechetCellFilter, {}),
        (lambda atoms: atoms, {"relax_cell": False}),
        (lambda atoms: (atoms.set_constraint(FixAtoms([0])), atoms)[1], {}),
        (lambda atoms: (atoms.set_pbc((1, 1, 0)), atoms)[1], {}),
    ],
    ids=["filter", "relax_cell=False", "constraint", "slab"],
)
def test_where_atoms_or_cell_may_not_move_it_is_refused(minimum, predictor, wrap, kwargs):
    atoms = minimum.to_atoms()
    target = wrap(atoms)
    with pytest.raises(ConstraintError, match=r"symprec=0.1 .*refine_symmetry\(atoms, symprec\)"):
        quiet(target, predictor, symprec=0.1, **kwargs).run()
    assert_at(atoms, minimum)


def test_no_space_group_is_an_error(nearly, predictor):
    nearly.positions[2] = nearly.positions[1]
    with pytest.raises(StructureError, match="no space group was found within symprec"):
        quiet(nearly, predictor, symprec=0.1).run()
