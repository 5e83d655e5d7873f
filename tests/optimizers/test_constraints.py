"""Constraints are kept exactly, by the jump and by the finish, and nothing but what they fix is lost."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixCartesian, FixCom, FixedLine, FixedPlane, FixScaled, FixSymmetry
from ase.filters import Filter, FrechetCellFilter
from spglib import get_symmetry_dataset

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.optimizers.acceptance import JumpCriteria
from tests.optimizers.helpers import carried, quiet

KEEP = JumpCriteria(energy_rise=np.inf, fmax=np.inf)
NORMAL = np.array([1.0, 2.0, -1.0]) / np.sqrt(6)


def no_fixed_atom_moves(moved, before, after):
    np.testing.assert_allclose(moved[[0, 2]], 0, atol=1e-12)
    assert np.abs(moved[[1, 3]]).max() > 1e-3


def no_fixed_component_moves(moved, before, after):
    np.testing.assert_allclose(moved[1, [0, 2]], 0, atol=1e-12)
    assert abs(moved[1, 1]) > 1e-3


def no_atom_leaves_its_plane(moved, before, after):
    np.testing.assert_allclose(moved[3] @ NORMAL, 0, atol=1e-12)
    assert np.linalg.norm(moved[3]) > 1e-3


def no_atom_leaves_its_line(moved, before, after):
    np.testing.assert_allclose(np.cross(moved[3], NORMAL), 0, atol=1e-12)
    assert np.linalg.norm(moved[3]) > 1e-3


def the_centre_of_mass_stays(moved, before, after):
    np.testing.assert_allclose(before.get_masses() @ moved, 0, atol=1e-10)


def no_scaled_coordinate_moves(moved, before, after):
    shift = after.cell.scaled_positions(after.positions) - before.cell.scaled_positions(before.positions)
    np.testing.assert_allclose(shift[2, [0, 2]], 0, atol=1e-12)
    assert abs(shift[2, 1]) > 1e-4


CONSTRAINTS = {
    "FixAtoms": (lambda: FixAtoms([0, 2]), no_fixed_atom_moves),
    "FixCartesian": (lambda: FixCartesian([1], mask=(True, False, True)), no_fixed_component_moves),
    "FixedPlane": (lambda: FixedPlane(3, NORMAL), no_atom_leaves_its_plane),
    "FixedLine": (lambda: FixedLine(3, NORMAL), no_atom_leaves_its_line),
    "FixCom": (FixCom, the_centre_of_mass_stays),
    "FixScaled": (lambda: FixScaled([2], mask=(True, False, True)), no_scaled_coordinate_moves),
}

#: Those that mean the same however the cell moves; of the others, ASE's steps of a moving cell fix a little less.
OF_SCALED_POSITIONS = ("FixAtoms", "FixScaled")


@pytest.fixture(params=CONSTRAINTS)
def constrained(request, make_atoms):
    """The unrelaxed crystal with a constraint, and how to check it."""
    make, check = CONSTRAINTS[request.param]

    def make_constrained(*, calc: bool) -> Atoms:
        atoms = make_atoms(calc=calc)
        atoms.set_constraint(make())
        return atoms

    return request.param, make_constrained, check


@pytest.mark.parametrize("steps", [1, 8], ids=["jump", "finish"])
@pytest.mark.parametrize("calc", [True, False])
def test_they_are_kept_in_a_fixed_cell(constrained, predictor, calc, steps):
    _, make, check = constrained
    atoms = make(calc=calc)
    before = atoms.copy()
    quiet(atoms, predictor, relax_cell=False, criteria=KEEP).run(fmax=1e-6, steps=steps)
    assert atoms.cell.array.tobytes() == before.cell.array.tobytes()
    check(atoms.positions - before.positions, before, atoms)
    assert np.abs(atoms.positions - before.positions).max() > 0.01


@pytest.mark.parametrize("wrap", [lambda atoms: atoms, FrechetCellFilter], ids=["bare", "filter"])
@pytest.mark.parametrize("calc", [True, False])
def test_they_are_kept_in_a_jump_of_the_cell(constrained, predictor, near, wrap, calc):
    """As ASE has it: the cell carries all atoms along, and constraints hold for what they move beyond that."""
    _, make, check = constrained
    atoms = make(calc=calc)
    before = atoms.copy()
    quiet(wrap(atoms), predictor, criteria=KEEP).run(fmax=1e-6, steps=1)
    np.testing.assert_allclose(atoms.cell.array, near.cell, rtol=0, atol=1e-12)
    check(atoms.positions - carried(before, atoms), before, atoms)


@pytest.mark.parametrize("kind", OF_SCALED_POSITIONS)
def test_they_are_kept_by_a_finish_of_the_cell(make_atoms, predictor, kind):
    make, check = CONSTRAINTS[kind]
    atoms = make_atoms()
    before = atoms.copy()
    atoms.set_constraint(make())
    optimizer = quiet(atoms, predictor, finish="bfgs")
    assert not optimizer.run(fmax=1e-6, steps=8)
    check(atoms.positions - carried(before, atoms), before, atoms)


def test_fixed_atoms_stay_to_the_bit(make_atoms, predictor):
    atoms = make_atoms()
    atoms.set_constraint(FixAtoms([0, 2]))
    assert quiet(atoms, predictor, relax_cell=False).run(fmax=0.01)
    assert atoms.positions[[0, 2]].tobytes() == make_atoms().positions[[0, 2]].tobytes()


def test_several_are_kept_together(make_atoms, predictor):
    atoms = make_atoms(calc=False)
    before = atoms.copy()
    atoms.set_constraint([FixAtoms([0]), FixedPlane(3, NORMAL), FixCartesian([1], mask=(True, False, True))])
    quiet(FrechetCellFilter(atoms, mask=[1, 1, 1, 0, 0, 0]), predictor).run()
    moved = atoms.positions - carried(before, atoms)
    np.testing.assert_allclose(moved[0], 0, atol=1e-12)
    no_atom_leaves_its_plane(moved, before, atoms)
    no_fixed_component_moves(moved, before, atoms)


# Where the crystal is as a whole, a model does not say


DRIFT = np.array([0.3, -0.2, 0.1])


def all_distances(positions: np.ndarray) -> np.ndarray:
    return np.linalg.norm(positions[:, None] - positions, axis=-1)


@pytest.mark.parametrize("relax_cell", [True, False])
@pytest.mark.parametrize("constraint", [FixAtoms([1]), FixScaled([1]), FixCom(), FixCartesian([2])])
def test_one_fixed_atom_costs_nothing_of_the_distances(make_atoms, near, stand_in, constraint, relax_cell):
    """A prediction that has drifted by 0.3 Å is as good as any."""
    drifted = near.with_geometry(near.positions + DRIFT, near.cell)
    atoms = make_atoms(calc=False)
    atoms.set_constraint(constraint)
    before = all_distances(atoms.positions)
    optimizer = quiet(atoms, stand_in(drifted), relax_cell=relax_cell)
    optimizer.run()
    predicted = all_distances(optimizer.prediction.relaxed.positions)
    np.testing.assert_allclose(all_distances(atoms.positions), predicted, rtol=0, atol=1e-10)
    assert np.abs(before - predicted).max() > 0.05


def test_a_shown_atom_moves_with_respect_to_the_hidden_ones(make_atoms, near, stand_in):
    """All distances to the one hidden atom are those predicted."""
    drifted = near.with_geometry(near.positions + DRIFT, near.cell)
    atoms = make_atoms(calc=False)
    optimizer = quiet(Filter(atoms, indices=[0, 1, 3]), stand_in(drifted))
    optimizer.run()
    predicted = all_distances(optimizer.prediction.relaxed.positions)
    np.testing.assert_allclose(all_distances(atoms.positions), predicted, rtol=0, atol=1e-10)


# Symmetry


def layered() -> Atoms:
    """Tetragonal: the layers above and below the gold may move along z, everything else is fixed by symmetry."""
    atoms = bulk("Cu", cubic=True, a=3.75) * (1, 1, 2)
    atoms.symbols[0] = "Au"
    return atoms


def assert_symmetric(atoms: Atoms, rotations: np.ndarray, translations: np.ndarray) -> None:
    """Each operation maps the crystal onto itself."""
    metric, fractional = atoms.cell.array @ atoms.cell.array.T, atoms.cell.scaled_positions(atoms.positions)
    for rotation, translation in zip(rotations, translations, strict=True):
        np.testing.assert_allclose(rotation.T @ metric @ rotation, metric, rtol=0, atol=1e-9)
        difference = (fractional @ rotation.T + translation)[:, None] - fractional
        far = np.abs(difference - np.round(difference)).max(axis=-1)
        assert (far.min(axis=1) < 1e-10).all()


@pytest.fixture
def unsymmetric(stand_in):
    """Makes predictors whose predictions have lost all symmetry."""

    def make(strain: np.ndarray):
        atoms, rng = layered(), np.random.default_rng(8)
        cell = atoms.cell.array @ strain
        return stand_in(Crystal(atoms.numbers, carried(atoms, Atoms(cell=cell)) + 0.1 * rng.normal(size=(8, 3)), cell))

    return make


SKEWED = np.array([[0.98, 0.02, -0.01], [0.02, 1.01, 0.03], [-0.01, 0.03, 0.97]])


@pytest.mark.parametrize(
    "strain",
    [SKEWED, 1.2 * SKEWED, np.diag([1.3, 0.75, 0.9]), np.eye(3) + 0.3 * np.eye(3)[[1, 0, 2]] * (1 - np.eye(3))],
    ids=["small", "20 %", "unsymmetric 30 %", "shear 30 %"],
)
@pytest.mark.parametrize("calc", [True, False])
@pytest.mark.parametrize("wrap", [lambda atoms: atoms, FrechetCellFilter], ids=["bare", "filter"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of spglib
def test_symmetry_is_kept(unsymmetric, strain, calc, wrap):
    atoms = layered()
    data = get_symmetry_dataset((atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers))
    assert len(data.rotations) == 16
    before = atoms.copy()
    atoms.set_constraint(FixSymmetry(atoms))
    if calc:
        atoms.calc = EMT()
    optimizer = quiet(wrap(atoms), unsymmetric(strain), criteria=KEEP, finish="bfgs")
    optimizer.run(fmax=0.01, steps=4)
    assert optimizer.nsteps == (4 if calc else 1)
    assert_symmetric(atoms, data.rotations, data.translations)
    assert np.abs(atoms.cell.array - before.cell.array).max() > 0.01
    assert np.abs(atoms.positions - carried(before, atoms)).max() > 1e-3  # the layers have moved
