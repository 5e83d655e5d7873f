from __future__ import annotations

import warnings

import numpy as np
import pytest
from ase.constraints import FixAtoms, FixCartesian, FixSymmetry
from ase.filters import ExpCellFilter, Filter, FrechetCellFilter, StrainFilter, UnitCellFilter
from ase.mep import NEB

from deeprelax_ase.errors import ConstraintError
from deeprelax_ase.optimizers import DeepRelaxOptimizer
from deeprelax_ase.optimizers.freedom import freedom_of, refuse_constraints


def exp_cell_filter(atoms, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return ExpCellFilter(atoms, **kwargs)


CELL_FILTERS = [FrechetCellFilter, UnitCellFilter, exp_cell_filter]


@pytest.mark.parametrize("relax_cell", [True, False])
def test_bare_atoms(make_atoms, relax_cell):
    atoms = make_atoms()
    freedom = freedom_of(atoms, relax_cell=relax_cell)
    assert freedom.atoms is atoms
    assert freedom.moves_cell is freedom.own_filter is relax_cell
    if relax_cell:
        assert isinstance(freedom.target, FrechetCellFilter)
        np.testing.assert_array_equal(freedom.orig_cell, atoms.cell.array)
    else:
        assert freedom.target is atoms
        assert freedom.orig_cell is None


@pytest.mark.parametrize("make_filter", CELL_FILTERS)
@pytest.mark.parametrize("relax_cell", [True, False])
def test_cell_filters_speak_for_themselves(make_atoms, make_filter, relax_cell):
    target = make_filter(make_atoms())
    freedom = freedom_of(target, relax_cell=relax_cell)
    assert freedom.target is target
    assert freedom.atoms is target.atoms
    assert freedom.moves_cell
    assert not freedom.own_filter


@pytest.mark.parametrize("selection", [{"indices": [0, 1, 2, 3]}, {"mask": [True] * 4}])
def test_filter_that_shows_all_atoms_keeps_the_cell(make_atoms, selection):
    freedom = freedom_of(Filter(make_atoms(), **selection), relax_cell=True)
    assert not freedom.moves_cell


@pytest.mark.parametrize("make_filter", CELL_FILTERS)
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"mask": [1, 1, 1, 0, 0, 0]}, "mask"),
        ({"mask": np.eye(3)}, "mask"),
        ({"hydrostatic_strain": True}, "hydrostatic_strain is on"),
        ({"constant_volume": True}, "constant_volume is on"),
        ({"scalar_pressure": 0.1}, r"scalar_pressure is 0\.1 eV/Å\^3"),
        ({"scalar_pressure": -0.1}, "scalar_pressure is -0.1"),
    ],
)
def test_restricted_cell_filters_are_refused(make_atoms, make_filter, options, reason):
    with pytest.raises(ConstraintError, match=rf"{reason}.*FrechetCellFilter\(atoms\) with its defaults.*FIRE"):
        freedom_of(make_filter(make_atoms(), **options), relax_cell=True)


class OwnFilter(FrechetCellFilter):
    """May restrict anything."""


@pytest.mark.parametrize(
    ("make_target", "reason"),
    [
        (StrainFilter, "scaled positions"),
        (lambda atoms: StrainFilter(atoms, mask=[1, 1, 1, 0, 0, 0]), "scaled positions"),
        (lambda atoms: Filter(atoms, indices=[0, 1]), "hides some"),
        (lambda atoms: Filter(atoms, indices=[0, 0, 1, 2]), "hides some"),
        (lambda atoms: Filter(atoms, mask=[True, False, True, True]), "hides some"),
        (lambda atoms: Filter(Filter(atoms, indices=[0, 1]), indices=[0, 1]), "something else than Atoms"),
        (OwnFilter, "neither Atoms nor"),
        (lambda atoms: NEB([atoms, atoms.copy(), atoms.copy()], method="improvedtangent"), "neither Atoms nor"),
        (lambda atoms: atoms.positions, "neither Atoms nor"),
    ],
)
def test_other_filters_are_refused(make_atoms, predictor, make_target, reason):
    target = make_target(make_atoms())
    with pytest.raises(ConstraintError, match=reason):
        DeepRelaxOptimizer(target, predictor=predictor)


@pytest.mark.parametrize("wrap", [lambda atoms: atoms, FrechetCellFilter])
@pytest.mark.parametrize(
    ("constraint", "name"),
    [
        (lambda atoms: FixAtoms([0]), "FixAtoms"),
        (lambda atoms: FixCartesian([1], mask=(True, False, False)), "FixCartesian"),
        (lambda atoms: [FixAtoms([0]), FixCartesian([1])], "FixAtoms, FixCartesian"),
        (FixSymmetry, "FixSymmetry"),
    ],
)
def test_constraints_are_refused(make_atoms, predictor, wrap, constraint, name):
    atoms = make_atoms()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of spglib, beneath FixSymmetry
        atoms.set_constraint(constraint(atoms))
    with pytest.raises(ConstraintError, match=rf"\({name}\).*set_constraint\(\).*FIRE"):
        DeepRelaxOptimizer(wrap(atoms), predictor=predictor)


def test_removed_constraints_are_forgiven(make_atoms):
    atoms = make_atoms()
    atoms.set_constraint(FixAtoms([0]))
    atoms.set_constraint()
    refuse_constraints(atoms)


def test_only_an_own_filter_is_written_to(make_atoms):
    atoms = make_atoms()
    cell = 1.1 * atoms.cell.array
    own = freedom_of(atoms, relax_cell=True)
    own.restore_orig_cell(cell)
    np.testing.assert_array_equal(own.orig_cell, cell)
    theirs = freedom_of(FrechetCellFilter(atoms), relax_cell=True)
    theirs.restore_orig_cell(cell)
    np.testing.assert_array_equal(theirs.orig_cell, atoms.cell.array)
