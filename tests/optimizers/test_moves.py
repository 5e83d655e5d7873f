"""Jumps under filters: what a mask, or the filter's kind, holds is kept exactly, and the rest is the prediction's."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.filters import ExpCellFilter, Filter, FrechetCellFilter, StrainFilter, UnitCellFilter
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

from deeprelax_ase.errors import ConstraintError, IsolatedAtomError
from deeprelax_ase.geometry.strain import logarithmic_strain, matrix_function
from deeprelax_ase.optimizers.acceptance import JumpCriteria
from deeprelax_ase.prediction.allowed_strain import AllowedStrain
from deeprelax_ase.prediction.cell_freedom import permitted
from tests.optimizers.helpers import HELD, carried, deformation, quiet

KEEP = JumpCriteria(energy_rise=np.inf, fmax=np.inf)


def exp_cell_filter(atoms, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return ExpCellFilter(atoms, **kwargs)


CELL_FILTERS = pytest.mark.parametrize("make_filter", [FrechetCellFilter, UnitCellFilter, exp_cell_filter])
JUMP_AND_FINISH = pytest.mark.parametrize(("calc", "steps"), [(False, 1), (True, 3)])


# Masks and their kin


@CELL_FILTERS
@JUMP_AND_FINISH
@pytest.mark.parametrize(
    "mask",
    [
        *([1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 1], [0] * 6),
        *(
            pytest.param(m, marks=pytest.mark.slow)
            for m in ([0, 0, 1, 0, 0, 0], [1, 1, 1, 0, 1, 1], [0, 0, 0, 1, 1, 1])
        ),
    ],
)
def test_masked_components_are_kept(make_atoms, predictor, make_filter, mask, calc, steps):
    atoms = make_atoms(calc=calc)
    before = atoms.copy()
    target = make_filter(atoms, mask=mask)
    held = target.mask == 0
    quiet(target, predictor, criteria=KEEP, finish="bfgs").run(fmax=1e-6, steps=steps)
    strain = deformation(before, atoms) - np.eye(3)
    np.testing.assert_allclose(strain[held], 0, atol=HELD)
    for axis in np.flatnonzero(held.all(axis=0)):
        np.testing.assert_allclose(atoms.cell.array[:, axis], before.cell.array[:, axis], rtol=0, atol=HELD)
    assert held.all() or np.abs(strain[~held]).max() > 1e-3
    assert np.abs(atoms.positions - carried(before, atoms)).max() > 0.01


@CELL_FILTERS
def test_masks_hold_the_strain_of_the_cell_that_the_filter_began_in(make_atoms, predictor, make_filter):
    atoms = make_atoms(calc=False)
    began = atoms.copy()
    target = make_filter(atoms, mask=[1, 1, 1, 0, 0, 1])
    atoms.set_cell(atoms.cell.array @ [[1.1, 0.05, 0], [0.02, 0.9, 0], [0, 0, 1.05]], scale_atoms=True)
    quiet(target, predictor).run()
    strain = deformation(began, atoms) - np.eye(3)
    np.testing.assert_allclose(strain[target.mask == 0], 0, atol=1e-12)


@pytest.mark.parametrize("make_filter", [FrechetCellFilter, UnitCellFilter])
@JUMP_AND_FINISH
def test_hydrostatic_strain(make_atoms, predictor, make_filter, calc, steps):
    atoms = make_atoms(calc=calc)
    before = atoms.copy()
    target = make_filter(atoms, hydrostatic_strain=True)
    quiet(target, predictor, criteria=KEEP, finish="bfgs").run(fmax=1e-6, steps=steps)
    change = deformation(before, atoms)
    np.testing.assert_allclose(change, np.eye(3) * change[0, 0], rtol=0, atol=1e-12)
    assert abs(change[0, 0] - 1) > 1e-3


def test_hydrostatic_jump_has_the_predicted_volume(make_atoms, predictor, near):
    atoms = make_atoms(calc=False)
    quiet(FrechetCellFilter(atoms, hydrostatic_strain=True), predictor).run()
    assert atoms.get_volume() == pytest.approx(near.volume, rel=1e-12)


@pytest.mark.parametrize("mask", [None, [1, 1, 0, 0, 0, 1], [1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 1, 0]])
@pytest.mark.parametrize("calc", [True, False])
def test_constant_volume(make_atoms, predictor, mask, calc):
    atoms = make_atoms(calc=calc)
    before = atoms.copy()
    quiet(FrechetCellFilter(atoms, mask=mask, constant_volume=True), predictor, criteria=KEEP).run(steps=1)
    assert np.linalg.det(deformation(before, atoms)) == pytest.approx(1, abs=1e-10)
    assert np.abs(deformation(before, atoms) - np.eye(3)).max() > 1e-3


def test_constant_volume_through_the_finish(make_atoms, predictor):
    atoms = make_atoms()
    volume = atoms.get_volume()
    optimizer = quiet(FrechetCellFilter(atoms, constant_volume=True), predictor, finish="fast")
    assert optimizer.run(fmax=0.05)
    assert optimizer.nsteps > 2
    assert atoms.get_volume() == pytest.approx(volume, rel=1e-10)


def test_filters_and_constraints_together(make_atoms, predictor):
    atoms = make_atoms()
    before = atoms.copy()
    atoms.set_constraint(FixAtoms([1]))
    assert quiet(FrechetCellFilter(atoms, mask=[1, 1, 0, 0, 0, 0]), predictor, finish="fast").run(fmax=0.05)
    change = deformation(before, atoms)
    np.testing.assert_allclose(change, np.diag([change[0, 0], change[1, 1], 1]), rtol=0, atol=1e-12)
    np.testing.assert_allclose(atoms.positions[1], carried(before, atoms)[1], rtol=0, atol=1e-12)


# The cell alone, and the positions alone


@pytest.mark.parametrize("mask", [None, [1, 1, 0, 0, 0, 1]])
@JUMP_AND_FINISH
def test_strain_filter_strains_only(make_atoms, predictor, mask, calc, steps):
    atoms = make_atoms(calc=calc)
    before = atoms.copy()
    target = StrainFilter(atoms, mask=mask)
    quiet(target, predictor, criteria=KEEP, finish_kwargs={"maxstep": 0.01}).run(fmax=1e-6, steps=steps)
    np.testing.assert_allclose(atoms.positions, carried(before, atoms), rtol=0, atol=1e-12)
    xx, yy, zz, yz, xz, xy = target.strain
    counted = np.array([[xx, xy / 2, xz / 2], [xy / 2, yy, yz / 2], [xz / 2, yz / 2, zz]])
    np.testing.assert_allclose(deformation(before, atoms), np.eye(3) + counted, rtol=0, atol=1e-12)
    assert np.abs(counted).max() > 5e-3
    assert mask is None or np.abs(target.strain[[2, 3, 4]]).max() < 1e-14


def test_strain_filter_takes_the_predicted_strain(make_atoms, predictor, near):
    atoms = make_atoms(calc=False)
    quiet(StrainFilter(atoms), predictor).run()
    np.testing.assert_allclose(atoms.cell.array, near.cell, rtol=0, atol=1e-12)
    assert predictor.asked == [True]  # there are no positions to ask for


@pytest.mark.parametrize("selection", [{"indices": [3, 1]}, {"mask": [False, True, False, True]}])
@JUMP_AND_FINISH
def test_hidden_atoms_stay_to_the_bit(make_atoms, predictor, selection, calc, steps):
    atoms = make_atoms(calc=calc)
    before = atoms.copy()
    quiet(Filter(atoms, **selection), predictor, criteria=KEEP).run(fmax=1e-6, steps=steps)
    assert atoms.cell.array.tobytes() == before.cell.array.tobytes()
    assert atoms.positions[[0, 2]].tobytes() == before.positions[[0, 2]].tobytes()
    assert (np.linalg.norm(atoms.positions - before.positions, axis=1)[[1, 3]] > 1e-3).all()
    assert predictor.asked == [False]


# What the model is asked


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({}, [True]),
        ({"mask": [1, 1, 0, 0, 0, 0]}, [AllowedStrain((1, 1, 0, 0, 0, 0)), False]),
        ({"mask": [1, 1, 0, 0, 0, 0], "scalar_pressure": 0.0}, [AllowedStrain((1, 1, 0, 0, 0, 0)), False]),
        ({"mask": [0, 0, 0, 1, 1, 1]}, [True, False]),
        ({"hydrostatic_strain": True}, [AllowedStrain(hydrostatic=True), False]),
    ],
)
def test_a_restricted_cell_is_asked_about_itself(make_atoms, near, stand_in, options, asked):
    """The positions are those that the model gives in the cell as it may be."""
    predictor = stand_in(near)
    atoms = make_atoms(calc=False)
    optimizer = quiet(FrechetCellFilter(atoms, **options), predictor)
    optimizer.run()
    assert predictor.asked == asked
    assert optimizer.prediction.relaxed is near
    np.testing.assert_allclose(atoms.positions, near.fractional_positions @ atoms.cell.array, rtol=0, atol=1e-12)


def test_where_the_model_cannot_follow_its_first_answer_counts(make_atoms, near, stand_in):
    class OnlyOnce(stand_in):
        def predict(self, structure, **options):
            if self.asked:
                raise IsolatedAtomError("too far apart")
            return super().predict(structure, **options)

    atoms = make_atoms(calc=False)
    before = atoms.copy()
    quiet(FrechetCellFilter(atoms, mask=[1, 1, 0, 0, 0, 0]), OnlyOnce(near)).run()
    expected = near.positions - before.cell.scaled_positions(before.positions) @ near.cell
    np.testing.assert_allclose(atoms.positions - carried(before, atoms), expected, rtol=0, atol=1e-12)


# Pressure


def test_pressure_alone_is_refused(make_atoms, predictor):
    with pytest.raises(ConstraintError, match=r"pressure is 16.0218 GPa.*Give a calculator"):
        quiet(FrechetCellFilter(make_atoms(calc=False), scalar_pressure=0.1), predictor).run()
    assert predictor.asked == []


def test_pressure_is_the_finishes(make_atoms, predictor, minimum):
    atoms = make_atoms()
    pressure = 0.05  # eV/Å^3, 8 GPa
    assert quiet(FrechetCellFilter(atoms, scalar_pressure=pressure), predictor, finish="fast").run(fmax=2e-3)
    np.testing.assert_allclose(atoms.get_stress(), [-pressure] * 3 + [0] * 3, rtol=0, atol=2e-4)
    assert atoms.get_volume() < 0.98 * minimum.volume


@pytest.mark.parametrize(("pressure", "outcome"), [(0.0, "kept"), (3.0, "rejected")])
def test_enthalpy_decides_under_pressure(make_atoms, minimum, stand_in, pressure, outcome):
    """From a compressed start the jump lowers the energy, but raises the enthalpy."""
    atoms = make_atoms(calc=False)
    atoms.set_cell(0.96 * minimum.cell)
    atoms.set_positions(minimum.fractional_positions @ atoms.cell.array)
    atoms.calc = EMT()
    optimizer = quiet(FrechetCellFilter(atoms, scalar_pressure=pressure), stand_in(minimum))
    optimizer.run(fmax=1e-3, steps=1)
    assert optimizer.decision.outcome == outcome


# What of a strain is permitted

STRAINS = arrays(float, (3, 3), elements=st.floats(-0.15, 0.15)).map(lambda s: (s + s.T) / 2)
MASKS = st.lists(st.sampled_from([0.0, 1.0]), min_size=6, max_size=6).map(
    lambda m: np.array(m)[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
)
BLOCKS = [np.diag(d).astype(float) for d in ([1, 1, 1], [1, 0, 1], [0, 0, 1])]
BLOCKS += [np.ones((3, 3)), np.outer([1, 1, 0], [1, 1, 0]) + np.diag([0.0, 0.0, 1.0])]


@given(strain=STRAINS, mask=MASKS, hydrostatic=st.booleans())
def test_permitted_never_leaves_the_mask(strain, mask, hydrostatic):
    change = permitted(AllowedStrain(mask, hydrostatic=hydrostatic), strain)
    np.testing.assert_array_equal(change[mask == 0], np.eye(3)[mask == 0])
    np.testing.assert_allclose(change, change.T, rtol=0, atol=1e-14)
    assert (np.linalg.eigvalsh(change) > 0).all()


@given(strain=STRAINS, mask=st.sampled_from(BLOCKS), constant_volume=st.booleans())
def test_what_is_permitted_is_taken_as_it_is(strain, mask, constant_volume):
    cell = AllowedStrain(mask, constant_volume=constant_volume)
    once = permitted(cell, strain)
    again = permitted(cell, logarithmic_strain(np.eye(3), once))
    np.testing.assert_allclose(again, once, rtol=0, atol=1e-13)
    assert not constant_volume or np.linalg.det(once) == pytest.approx(1, abs=1e-13)


@given(strain=STRAINS, seed=st.integers(0, 99), hydrostatic=st.booleans(), constant_volume=st.booleans())
def test_without_a_mask_no_direction_is_special(strain, seed, hydrostatic, constant_volume):
    assume(np.abs(strain).max() > 1e-3)
    cell = AllowedStrain(hydrostatic=hydrostatic, constant_volume=constant_volume)
    turn = Rotation.random(rng=seed).as_matrix()
    np.testing.assert_allclose(
        permitted(cell, turn @ strain @ turn.T), turn @ permitted(cell, strain) @ turn.T, rtol=0, atol=1e-13
    )


@given(strain=STRAINS)
def test_everything_is_permitted_where_nothing_is_held(strain):
    np.testing.assert_allclose(permitted(AllowedStrain(), strain), matrix_function(np.exp, strain), rtol=0, atol=1e-14)
