from __future__ import annotations

import warnings

import numpy as np
import pytest
from ase.constraints import FixAtoms, FixBondLengths, FixInternals, Hookean
from ase.filters import ExpCellFilter, Filter, FrechetCellFilter, StrainFilter, UnitCellFilter
from ase.mep import NEB

from deeprelax_ase.errors import ConstraintError
from deeprelax_ase.io.constraints import refuse_constraints
from deeprelax_ase.optimizers import DeepRelaxOptimizer
from deeprelax_ase.optimizers.degrees_of_freedom import degrees_of_freedom


def exp_cell_filter(atoms, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return ExpCellFilter(atoms, **kwargs)


CELL_FILTERS = [FrechetCellFilter, UnitCellFilter, exp_cell_filter]


@pytest.mark.parametrize("relax_cell", [True, False])
def test_bare_atoms(make_atoms, relax_cell):
    atoms = make_atoms()
    dof = degrees_of_freedom(atoms, relax_cell=relax_cell)
    assert dof.atoms is atoms
    assert dof.moves_cell is dof.own_filter is relax_cell
    if relax_cell:
        assert isinstance(dof.target, FrechetCellFilter)
        np.testing.assert_array_equal(dof.orig_cell, atoms.cell.array)
    else:
        assert dof.target is atoms
        assert dof.orig_cell is None


@pytest.mark.parametrize("make_filter", CELL_FILTERS)
@pytest.mark.parametrize("relax_cell", [True, False])
def test_cell_filters_speak_for_themselves(make_atoms, make_filter, relax_cell):
    target = make_filter(make_atoms())
    dof = degrees_of_freedom(target, relax_cell=relax_cell)
    assert dof.target is target
    assert dof.atoms is target.atoms
    assert dof.moves_cell
    assert not dof.own_filter


@pytest.mark.parametrize("selection", [{"indices": [0, 1, 2, 3]}, {"mask": [True] * 4}])
def test_filter_that_shows_all_atoms_keeps_the_cell(make_atoms, selection):
    dof = degrees_of_freedom(Filter(make_atoms(), **selection), relax_cell=True)
    assert not dof.moves_cell


@pytest.mark.parametrize("selection", [{"indices": [2, 0]}, {"indices": [0, 0, 2]}, {"mask": [True, False] * 2}])
def test_filter_shows_some_atoms(make_atoms, selection):
    dof = degrees_of_freedom(Filter(make_atoms(), **selection), relax_cell=True)
    np.testing.assert_array_equal(dof.visible, [True, False, True, False])
    assert dof.cell is None
    assert not dof.free


SHEAR = np.array([[1.0, 1, 0], [1, 0, 0], [0, 0, 1]])


@pytest.mark.parametrize("make_filter", [*CELL_FILTERS, StrainFilter])
def test_masks_are_whole(make_atoms, make_filter):
    dof = degrees_of_freedom(make_filter(make_atoms(), mask=[1, 0, 1, 0, 0, 1]), relax_cell=True)
    np.testing.assert_array_equal(dof.cell.matrix, SHEAR)
    assert not dof.cell.free
    assert not dof.free


@pytest.mark.parametrize("make_filter", CELL_FILTERS)
def test_masks_may_be_matrices(make_atoms, make_filter):
    dof = degrees_of_freedom(make_filter(make_atoms(), mask=SHEAR), relax_cell=True)
    np.testing.assert_array_equal(dof.cell.matrix, SHEAR)


@pytest.mark.parametrize("make_filter", CELL_FILTERS)
@pytest.mark.parametrize(
    ("options", "name", "value", "free"),
    [
        ({"hydrostatic_strain": True}, "hydrostatic", True, False),
        ({"constant_volume": True}, "constant_volume", True, False),
        ({"scalar_pressure": -0.1}, "pressure", -0.1, True),
    ],
)
def test_options_of_cell_filters(make_atoms, make_filter, options, name, value, free):
    dof = degrees_of_freedom(make_filter(make_atoms(), **options), relax_cell=True)
    assert getattr(dof.cell, name) == value
    assert dof.free is free


def test_strain_filter_moves_the_cell_alone(make_atoms):
    dof = degrees_of_freedom(StrainFilter(make_atoms()), relax_cell=False)
    assert dof.moves_cell
    assert dof.orig_cell is None
    assert not dof.visible.any()


class OwnFilter(FrechetCellFilter):
    """May restrict anything."""


@pytest.mark.parametrize(
    ("make_target", "reason"),
    [
        (lambda atoms: Filter(Filter(atoms, indices=[0, 1]), indices=[0, 1]), "something else than Atoms"),
        (OwnFilter, "neither Atoms nor"),
        (lambda atoms: NEB([atoms, atoms.copy(), atoms.copy()], method="improvedtangent"), "neither Atoms nor"),
        (lambda atoms: atoms.positions, "neither Atoms nor"),
        (lambda atoms: FrechetCellFilter(atoms, mask=[0.5, 1, 1, 0, 0, 0]), "no symmetric choice"),
        (lambda atoms: UnitCellFilter(atoms, mask=np.triu(np.ones((3, 3)))), "no symmetric choice"),
        (lambda atoms: FrechetCellFilter(atoms, mask=SHEAR, constant_volume=True), "frees shears but not all that"),
        (lambda atoms: UnitCellFilter(atoms, mask=[1, 1, 1, 0, 1, 1], constant_volume=True), "frees shears but not"),
    ],
)
def test_other_filters_are_refused(make_atoms, predictor, make_target, reason):
    target = make_target(make_atoms())
    with pytest.raises(ConstraintError, match=rf"{reason}.*FrechetCellFilter\(atoms\).*FIRE"):
        DeepRelaxOptimizer(target, predictor=predictor)


class OwnConstraint(FixAtoms):
    """May fix anything."""


REFUSED = {
    "FixInternals": lambda: FixInternals(bonds=[[2.5, [0, 1]]]),
    "Hookean": lambda: Hookean(0, 1, rt=2.0, k=5.0),
    "FixBondLengths": lambda: FixBondLengths([[0, 1]]),
    "OwnConstraint": lambda: OwnConstraint([0]),
}


@pytest.mark.parametrize("wrap", [lambda atoms: atoms, FrechetCellFilter, lambda atoms: Filter(atoms, indices=[0])])
@pytest.mark.parametrize("name", REFUSED)
def test_other_constraints_are_refused(make_atoms, predictor, wrap, name):
    atoms = make_atoms()
    atoms.set_constraint([FixAtoms([2]), REFUSED[name]()])
    with pytest.raises(ConstraintError, match=rf"\({name}\).*it keeps FixAtoms, .*set_constraint\(\).*FIRE"):
        DeepRelaxOptimizer(wrap(atoms), predictor=predictor)


def test_all_that_are_refused_are_named(make_atoms):
    atoms = make_atoms()
    atoms.set_constraint([make() for make in REFUSED.values()])
    with pytest.raises(ConstraintError, match="FixBondLengths, FixInternals, Hookean, OwnConstraint"):
        refuse_constraints(atoms.constraints)


def test_removed_constraints_are_forgiven(make_atoms):
    atoms = make_atoms()
    atoms.set_constraint(Hookean(0, 1, rt=2.0, k=5.0))
    atoms.set_constraint()
    refuse_constraints(atoms.constraints)


@pytest.mark.parametrize(
    ("wrap", "elsewhere"), [(lambda atoms: atoms, False), (lambda atoms: atoms, True), (FrechetCellFilter, False)]
)
def test_the_cell_that_strain_is_measured_from_is_restored(make_atoms, wrap, elsewhere):
    atoms = make_atoms()
    dof = degrees_of_freedom(wrap(atoms), relax_cell=True)
    if elsewhere:
        atoms.set_cell(1.05 * atoms.cell)
    dof.restore_orig_cell(1.1 * atoms.cell.array)
    np.testing.assert_array_equal(dof.orig_cell, 1.1 * atoms.cell.array)
    dof.restore_orig_cell(None)
    np.testing.assert_array_equal(dof.orig_cell, 1.1 * atoms.cell.array)


def test_a_filter_of_the_callers_that_began_elsewhere_is_left_alone(make_atoms):
    atoms = make_atoms()
    began = atoms.cell.array.copy()
    dof = degrees_of_freedom(FrechetCellFilter(atoms), relax_cell=True)
    atoms.set_cell(1.05 * atoms.cell)
    dof.restore_orig_cell(1.1 * began)
    np.testing.assert_array_equal(dof.orig_cell, began)
