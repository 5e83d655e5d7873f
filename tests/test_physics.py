"""Physics that predictions keep, whatever the architecture: a model of each is asked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.geometry.symmetry import symmetry_operations
from deeprelax_ase.prediction.predictor import Predictor
from tests.crystals import CRYSTALS, DISTORTED, END_TO_END, SYMMETRIC, assert_same, every_crystal, rotation


def indifferent(predictor: Predictor) -> bool:
    """Whether the model cannot tell which cell and which periodic images describe a crystal."""
    return predictor.model_name == END_TO_END


def space_group(crystal: Crystal) -> tuple[int, np.ndarray | None]:
    """Number of rotations, and the copies of each atom."""
    operations = symmetry_operations(crystal)
    return (1, None) if operations is None else (len(operations.rotations), operations.copies)


def test_the_crystals_below_do_relax(exact: Predictor):
    for name in DISTORTED:
        prediction = exact.predict(CRYSTALS[name])
        assert np.abs(prediction.displacements).max() > 0.01, name
        assert abs(prediction.volume_change) > 0.005, name
        assert prediction.solver_converged, name


@every_crystal
@pytest.mark.parametrize("kind", ["rotation", "reflection"])
def test_turned_input_turns_the_prediction(exact: Predictor, crystal: Crystal, kind: str):
    turn = rotation(3) * (np.array([-1, 1, 1]) if kind == "reflection" else 1)
    assert np.linalg.det(turn) == pytest.approx(-1 if kind == "reflection" else 1)
    still = exact.predict(crystal)
    turned = exact.predict(crystal.with_geometry(crystal.positions @ turn, crystal.cell @ turn))
    expected = replace(still, relaxed=crystal.with_geometry(still.relaxed.positions @ turn, still.relaxed.cell @ turn))
    assert_same(expected, turned, atol=1e-10)


@every_crystal
def test_shifted_input_shifts_the_prediction(exact: Predictor, crystal: Crystal):
    shift = np.array([11.3, -4.7, 8.1])
    still, shifted = (
        exact.predict(crystal),
        exact.predict(crystal.with_geometry(crystal.positions + shift, crystal.cell)),
    )
    np.testing.assert_allclose(shifted.relaxed.cell, still.relaxed.cell, rtol=0, atol=1e-10)
    carried = shift @ np.linalg.inv(crystal.cell) @ still.relaxed.cell  # fractional coordinates are what stays
    np.testing.assert_allclose(shifted.relaxed.positions, still.relaxed.positions + carried, rtol=0, atol=1e-10)


@every_crystal
def test_order_of_atoms_does_not_matter(exact: Predictor, crystal: Crystal):
    order = np.random.default_rng(4).permutation(len(crystal))[::-1]
    permuted = exact.predict(Crystal(crystal.numbers[order], crystal.positions[order], crystal.cell))
    assert_same(exact.predict(crystal), permuted, atol=1e-10, order=order)


def test_physics_on_the_data(exact: Predictor, data_crystals):
    turn = rotation(5) * np.array([1, 1, -1])
    for crystal in data_crystals("universal", [11, 222]) + data_crystals("xmno", [3]):
        order = np.random.default_rng(len(crystal)).permutation(len(crystal))
        moved = Crystal(crystal.numbers[order], crystal.positions[order] @ turn, crystal.cell @ turn)
        still = exact.predict(crystal)
        expected = replace(
            still, relaxed=crystal.with_geometry(still.relaxed.positions @ turn, still.relaxed.cell @ turn)
        )
        assert_same(expected, exact.predict(moved), atol=1e-7, order=order)


def test_supercell_relaxes_as_its_cell(exact: Predictor):
    """Nearly, for the paper's graph: pairs within the cell are edges at any distance; a larger cell has more."""
    for name, crystal in CRYSTALS.items():
        single, double = exact.predict(crystal), exact.predict(Crystal.of(crystal.to_atoms() * (2, 1, 1)))
        tolerance = 1e-8 if indifferent(exact) else 0.01
        assert double.volume_change == pytest.approx(single.volume_change, abs=tolerance), name
        if indifferent(exact):
            expected = single.to_atoms() * (2, 1, 1)
            np.testing.assert_allclose(double.relaxed.cell, expected.cell.array, rtol=0, atol=1e-8, err_msg=name)
            np.testing.assert_allclose(double.relaxed.positions, expected.positions, rtol=0, atol=1e-8, err_msg=name)


def other_images(crystal: Crystal) -> tuple[Crystal, np.ndarray]:
    """The crystal told by other images of its atoms, and how many cells each of them is away."""
    jumps = np.random.default_rng(7).integers(-1, 2, size=(len(crystal), 3))
    return crystal.with_geometry(crystal.positions + jumps @ crystal.cell, crystal.cell), jumps


def test_choice_of_images_matters_little(exact: Predictor):
    """Not at all to the end-to-end model; but in the paper's graph "within the cell" depends on it."""
    positions, volume = (1e-8, 1e-8) if indifferent(exact) else (0.1, 0.02)
    for name, crystal in CRYSTALS.items():
        other, jumps = other_images(crystal)
        still, jumped = exact.predict(crystal), exact.predict(other)
        kept = jumped.relaxed.fractional_positions - still.relaxed.fractional_positions
        np.testing.assert_array_equal(np.round(kept), jumps, err_msg=name)
        assert np.abs((kept - jumps) @ still.relaxed.cell).max() < positions, name
        assert jumped.volume_change == pytest.approx(still.volume_change, abs=volume), name


@pytest.mark.slow
def test_choice_of_images_in_single_precision(shipped):
    predictor = Predictor(shipped(END_TO_END), device="cpu")
    for name, crystal in CRYSTALS.items():
        other, jumps = other_images(crystal)
        still, jumped = predictor.predict(crystal), predictor.predict(other)
        expected = still.relaxed.positions + jumps @ still.relaxed.cell
        np.testing.assert_allclose(jumped.relaxed.cell, still.relaxed.cell, rtol=0, atol=1e-4, err_msg=name)
        np.testing.assert_allclose(jumped.relaxed.positions, expected, rtol=0, atol=1e-4, err_msg=name)


@pytest.fixture(scope="module")
def keeping(make) -> Predictor:
    return make(keep_symmetry=True)


class TestSymmetry:
    @pytest.mark.parametrize("name", SYMMETRIC)
    def test_symmetric_sites_stay(self, keeping: Predictor, predictor: Predictor, name: str):
        crystal = CRYSTALS[name]
        for chosen, tolerance in ((keeping, 1e-10), (predictor, 1e-5 if indifferent(predictor) else 1e-10)):
            prediction = chosen.predict(crystal)
            np.testing.assert_allclose(
                prediction.relaxed.fractional_positions, crystal.fractional_positions, rtol=0, atol=tolerance
            )
            assert abs(prediction.volume_change) > 1e-3

    @pytest.mark.parametrize("name", [*SYMMETRIC, "wurtzite"])
    def test_space_group_stays(self, predictor: Predictor, name: str):
        before, after = (space_group(c) for c in (CRYSTALS[name], predictor.predict(CRYSTALS[name]).relaxed))
        assert before[0] == after[0] > 1
        np.testing.assert_array_equal(before[1], after[1])

    def test_cubic_cell_stays_cubic(self, keeping: Predictor, predictor: Predictor):
        for chosen, tolerance in ((keeping, 1e-12), (predictor, 1e-4 if indifferent(predictor) else 1e-12)):
            cell = chosen.predict(CRYSTALS["perovskite"]).relaxed.cell
            np.testing.assert_allclose(cell, np.eye(3) * cell[0, 0], rtol=0, atol=tolerance)

    def test_only_the_papers_network_is_projected_unless_asked(self, predictor: Predictor, make):
        """Pairs within the cell single out directions in its graph."""
        crystal = CRYSTALS["perovskite"]
        free, kept = (make(keep_symmetry=keep).predict(crystal).relaxed.cell for keep in (False, True))
        default = predictor.predict(crystal).relaxed.cell
        assert 0 < np.abs(free - kept).max() < (1e-4 if indifferent(predictor) else 0.2)
        np.testing.assert_array_equal(default, free if indifferent(predictor) else kept)


class TestFixedCell:
    @every_crystal
    def test_cell_stays_bitwise(self, exact: Predictor, predictor: Predictor, crystal: Crystal):
        for chosen in (exact, predictor):
            np.testing.assert_array_equal(chosen.predict(crystal, relax_cell=False).relaxed.cell, crystal.cell)

    def test_atoms_move_all_the_same(self, predictor: Predictor):
        moving = Predictor(predictor.model, device="cpu", leave_within_error=False)
        for name in DISTORTED:
            assert np.abs(moving.predict(CRYSTALS[name], relax_cell=False).displacements).max() > 0.01

    @pytest.mark.parametrize("name", SYMMETRIC)
    def test_atoms_on_symmetric_sites_do_not(self, predictor: Predictor, name: str):
        prediction = predictor.predict(CRYSTALS[name], relax_cell=False)
        tolerance = 1e-5 if indifferent(predictor) else 1e-10
        np.testing.assert_allclose(prediction.relaxed.positions, CRYSTALS[name].positions, rtol=0, atol=tolerance)

    def test_in_batches(self, predictor: Predictor):
        for prediction in predictor.predict_many(CRYSTALS.values(), relax_cell=False):
            np.testing.assert_array_equal(prediction.relaxed.cell, prediction.initial.cell)
