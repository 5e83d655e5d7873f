"""Physics that predictions keep, whatever the architecture: a model of each is asked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.geometry.symmetry import symmetry_operations
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.prediction.record import Prediction
from tests.crystals import CRYSTALS, DISTORTED, END_TO_END, SYMMETRIC, assert_same, rotation


def indifferent(predictor: Predictor) -> bool:
    """Whether the model cannot tell which cell and which periodic images describe a crystal."""
    return predictor.model_name == END_TO_END


def space_group(crystal: Crystal) -> tuple[int, np.ndarray | None]:
    """Number of rotations, and the copies of each atom."""
    operations = symmetry_operations(crystal)
    return (1, None) if operations is None else (len(operations.rotations), operations.copies)


def predictions(predictor: Predictor, crystals: Iterable[Crystal], **options: bool) -> dict[str, Prediction]:
    """Of :data:`CRYSTALS`, or of what was made of each of them, together: others test that each is as it is alone."""
    made = dict(zip(CRYSTALS, predictor.predict_many(crystals, **options), strict=True))
    assert all(isinstance(prediction, Prediction) for prediction in made.values())
    return made


@pytest.fixture(scope="module")
def still(exact: Predictor) -> dict[str, Prediction]:
    """Of the crystals as they are."""
    return predictions(exact, CRYSTALS.values())


def test_the_crystals_below_do_relax(still: dict[str, Prediction]):
    for name in DISTORTED:
        assert np.abs(still[name].displacements).max() > 0.01, name
        assert abs(still[name].volume_change) > 0.005, name
        assert still[name].solver_converged, name


@pytest.mark.parametrize("kind", [pytest.param("rotation", marks=pytest.mark.slow), "reflection"])
def test_turned_input_turns_the_prediction(exact: Predictor, still: dict[str, Prediction], kind: str):
    turn = rotation(3) * (np.array([-1, 1, 1]) if kind == "reflection" else 1)
    assert np.linalg.det(turn) == pytest.approx(-1 if kind == "reflection" else 1)
    turned = predictions(exact, (c.with_geometry(c.positions @ turn, c.cell @ turn) for c in CRYSTALS.values()))
    for name, crystal in CRYSTALS.items():
        before = still[name].relaxed
        relaxed = crystal.with_geometry(before.positions @ turn, before.cell @ turn)
        assert_same(replace(still[name], relaxed=relaxed), turned[name], atol=1e-10)


def test_shifted_input_shifts_the_prediction(exact: Predictor, still: dict[str, Prediction]):
    shift = np.array([11.3, -4.7, 8.1])
    shifted = predictions(exact, (c.with_geometry(c.positions + shift, c.cell) for c in CRYSTALS.values()))
    for name, crystal in CRYSTALS.items():
        before, after = still[name].relaxed, shifted[name].relaxed
        np.testing.assert_allclose(after.cell, before.cell, rtol=0, atol=1e-10, err_msg=name)
        carried = shift @ np.linalg.inv(crystal.cell) @ before.cell  # fractional coordinates are what stays
        np.testing.assert_allclose(after.positions, before.positions + carried, rtol=0, atol=1e-10, err_msg=name)


def test_order_of_atoms_does_not_matter(exact: Predictor, still: dict[str, Prediction]):
    orders = {name: np.random.default_rng(4).permutation(len(crystal))[::-1] for name, crystal in CRYSTALS.items()}
    given = [(crystal, orders[name]) for name, crystal in CRYSTALS.items()]
    permuted = predictions(exact, (Crystal(c.numbers[order], c.positions[order], c.cell) for c, order in given))
    for name, order in orders.items():
        assert_same(still[name], permuted[name], atol=1e-10, order=order)


def test_physics_on_the_data(exact: Predictor, data_crystals):
    turn = rotation(5) * np.array([1, 1, -1])
    for crystal in data_crystals("universal", [11]) + data_crystals("xmno", [3]):
        order = np.random.default_rng(len(crystal)).permutation(len(crystal))
        moved = Crystal(crystal.numbers[order], crystal.positions[order] @ turn, crystal.cell @ turn)
        still = exact.predict(crystal)
        expected = replace(
            still, relaxed=crystal.with_geometry(still.relaxed.positions @ turn, still.relaxed.cell @ turn)
        )
        assert_same(expected, exact.predict(moved), atol=1e-7, order=order)


def test_supercell_relaxes_as_its_cell(exact: Predictor, still: dict[str, Prediction]):
    """Nearly, for the paper's graph: pairs within the cell are edges at any distance; a larger cell has more."""
    doubled = predictions(exact, (Crystal.of(crystal.to_atoms() * (2, 1, 1)) for crystal in CRYSTALS.values()))
    tolerance = 1e-8 if indifferent(exact) else 0.01
    for name, double in doubled.items():
        assert double.volume_change == pytest.approx(still[name].volume_change, abs=tolerance), name
        if indifferent(exact):
            expected = still[name].to_atoms() * (2, 1, 1)
            np.testing.assert_allclose(double.relaxed.cell, expected.cell.array, rtol=0, atol=1e-8, err_msg=name)
            np.testing.assert_allclose(double.relaxed.positions, expected.positions, rtol=0, atol=1e-8, err_msg=name)


def other_images(crystal: Crystal) -> tuple[Crystal, np.ndarray]:
    """The crystal told by other images of its atoms, and how many cells each of them is away."""
    jumps = np.random.default_rng(7).integers(-1, 2, size=(len(crystal), 3))
    return crystal.with_geometry(crystal.positions + jumps @ crystal.cell, crystal.cell), jumps


def test_choice_of_images_matters_little(exact: Predictor, still: dict[str, Prediction]):
    """Not at all to the end-to-end model; but in the paper's graph "within the cell" depends on it."""
    positions, volume = (1e-8, 1e-8) if indifferent(exact) else (0.1, 0.02)
    others = {name: other_images(crystal) for name, crystal in CRYSTALS.items()}
    for name, jumped in predictions(exact, (crystal for crystal, _ in others.values())).items():
        jumps, before = others[name][1], still[name]
        kept = jumped.relaxed.fractional_positions - before.relaxed.fractional_positions
        np.testing.assert_array_equal(np.round(kept), jumps, err_msg=name)
        assert np.abs((kept - jumps) @ before.relaxed.cell).max() < positions, name
        assert jumped.volume_change == pytest.approx(before.volume_change, abs=volume), name


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
    def test_symmetric_sites_stay(self, keeping: Predictor, predictor: Predictor):
        for chosen, tolerance in ((keeping, 1e-10), (predictor, 1e-5 if indifferent(predictor) else 1e-10)):
            made = predictions(chosen, CRYSTALS.values())
            for name in SYMMETRIC:
                stayed, sites = (c.fractional_positions for c in (made[name].relaxed, CRYSTALS[name]))
                np.testing.assert_allclose(stayed, sites, rtol=0, atol=tolerance, err_msg=name)
                assert abs(made[name].volume_change) > 1e-3, name

    def test_space_group_stays(self, predictor: Predictor):
        made = predictions(predictor, CRYSTALS.values())
        for name in (*SYMMETRIC, "wurtzite"):
            before, after = space_group(CRYSTALS[name]), space_group(made[name].relaxed)
            assert before[0] == after[0] > 1, name
            np.testing.assert_array_equal(before[1], after[1], err_msg=name)

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
    def test_cell_stays_bitwise(self, exact: Predictor, predictor: Predictor):
        alone = {"hcp": exact.predict(CRYSTALS["hcp"], relax_cell=False)}
        for made in (alone, predictions(predictor, CRYSTALS.values(), relax_cell=False)):
            for name, prediction in made.items():
                np.testing.assert_array_equal(prediction.relaxed.cell, CRYSTALS[name].cell, err_msg=name)

    def test_atoms_move_all_the_same(self, predictor: Predictor):
        moving = Predictor(predictor.model, device="cpu", leave_within_error=False)
        made = predictions(moving, CRYSTALS.values(), relax_cell=False)
        for name in DISTORTED:
            assert np.abs(made[name].displacements).max() > 0.01, name

    def test_atoms_on_symmetric_sites_do_not(self, predictor: Predictor):
        made = predictions(predictor, CRYSTALS.values(), relax_cell=False)
        tolerance = 1e-5 if indifferent(predictor) else 1e-10
        for name in SYMMETRIC:
            stayed, sites = made[name].relaxed.positions, CRYSTALS[name].positions
            np.testing.assert_allclose(stayed, sites, rtol=0, atol=tolerance, err_msg=name)
