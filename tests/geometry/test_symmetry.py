from __future__ import annotations

import warnings

import numpy as np
import pytest
import spglib
from ase.build import make_supercell

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.geometry import project, symmetry_operations
from tests.geometry.symmetric_crystals import ATOMS, FIXED, random_rotation

COPIES = {"rocksalt": 4, "skewed rocksalt": 2}


def crystal(name: str) -> Crystal:
    return Crystal.from_atoms(ATOMS[name][0]())


def space_group(crystal: Crystal, symprec: float = 1e-4) -> int:
    return spglib.get_symmetry_dataset(
        (crystal.cell, crystal.fractional_positions, crystal.numbers), symprec=symprec
    ).number


def predict(initial: Crystal, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A prediction that keeps no symmetry: a general deformation, and displacements of a tenth of an Å."""
    cell = initial.cell @ (np.eye(3) * 1.03 + rng.normal(scale=0.03, size=(3, 3)))
    return initial.fractional_positions @ cell + rng.normal(scale=0.1, size=initial.positions.shape), cell


def symmetrize(
    initial: Crystal, positions: np.ndarray, cell: np.ndarray, **options: float
) -> tuple[np.ndarray, np.ndarray]:
    return project(initial, positions, cell, symmetry_operations(initial, **options))


def assert_close(actual: tuple[np.ndarray, np.ndarray], expected: tuple[np.ndarray, np.ndarray], atol: float = 1e-10):
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=0, atol=atol)


def test_warnings_of_other_threads_are_left_alone(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch):
    """Filters belong to the process: one that ignores all warnings while spglib is asked does so in every thread."""
    find, filters = spglib.get_symmetry_dataset, []

    def watched(*args, **options):
        filters.extend(warnings.filters)
        return find(*args, **options)

    monkeypatch.setattr(spglib, "get_symmetry_dataset", watched)
    initial = crystal("rutile")
    symmetrize(initial, *predict(initial, rng))
    assert any(category is DeprecationWarning for _, _, category, _, _ in filters)
    assert not [f for f in filters if f[0] == "ignore" and f[1:4] == (None, Warning, None)]


@pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING")  # for the check; the search itself must not warn
@pytest.mark.parametrize("name", ATOMS)
def test_the_space_group_is_kept(name: str, rng: np.random.Generator):
    initial = crystal(name)
    assert space_group(initial) == ATOMS[name][1]
    positions, cell = predict(initial, rng)
    assert space_group(initial.with_geometry(positions, cell)) <= 2  # two equal atoms always have an inversion
    assert space_group(initial.with_geometry(*symmetrize(initial, positions, cell))) == ATOMS[name][1]


@pytest.mark.parametrize("name", FIXED)
def test_sites_that_symmetry_fixes_do_not_move(name: str, rng: np.random.Generator):
    initial = crystal(name)
    positions, cell = symmetrize(initial, *predict(initial, rng))
    np.testing.assert_allclose(positions, initial.fractional_positions @ cell, rtol=0, atol=1e-10)
    assert np.abs(cell - initial.cell).max() > 1e-2


def test_free_coordinates_move_alike(rng: np.random.Generator):
    initial = crystal("rutile")
    predicted = predict(initial, rng)
    positions, cell = symmetrize(initial, *predicted)
    fractional = Crystal(initial.numbers, positions, cell).fractional_positions
    moves = fractional - initial.fractional_positions
    np.testing.assert_allclose(moves[:2], 0, atol=1e-10)  # titanium
    assert np.abs(moves[2:, :2]).max() > 1e-3
    np.testing.assert_allclose(np.abs(moves[2:, :2]), np.abs(moves[2, 0]), atol=1e-10)
    np.testing.assert_allclose(moves[:, 2], 0, atol=1e-10)


def test_a_common_displacement_stays_only_along_a_polar_axis():
    shift = np.array([0.1, -0.2, 0.3])
    polar = crystal("wurtzite")
    positions, _ = symmetrize(polar, polar.positions + shift, polar.cell)
    np.testing.assert_allclose(positions - polar.positions, np.tile([0, 0, 0.3], (len(polar), 1)), atol=1e-10)
    centred = crystal("rutile")
    positions, _ = symmetrize(centred, centred.positions + shift, centred.cell)
    np.testing.assert_allclose(positions, centred.positions, atol=1e-10)


@pytest.mark.parametrize("name", ATOMS)
def test_a_second_projection_changes_nothing(name: str, rng: np.random.Generator):
    initial = crystal(name)
    once = symmetrize(initial, *predict(initial, rng))
    assert_close(symmetrize(initial, *once), once)


@pytest.mark.parametrize("name", ATOMS)
def test_a_symmetric_prediction_is_kept(name: str):
    initial = crystal(name)
    cell = initial.cell * 1.05
    assert_close(
        symmetrize(initial, initial.fractional_positions @ cell, cell), (initial.fractional_positions @ cell, cell)
    )


@pytest.mark.parametrize("name", ATOMS)
def test_the_predicted_volume_is_kept(name: str, rng: np.random.Generator):
    initial = crystal(name)
    positions, cell = predict(initial, rng)
    _, projected = symmetrize(initial, positions, cell)
    assert np.linalg.det(projected) == pytest.approx(np.linalg.det(cell), rel=1e-10)


@pytest.mark.parametrize("name", ATOMS)
def test_the_orientation_is_the_initial_crystals(name: str, rng: np.random.Generator):
    initial = crystal(name)
    positions, cell = predict(initial, rng)
    expected = symmetrize(initial, positions, cell)
    stretch = np.linalg.solve(initial.cell, expected[1])
    np.testing.assert_allclose(stretch, stretch.T, atol=1e-10)
    rotation = random_rotation(rng)
    assert_close(symmetrize(initial, positions @ rotation, cell @ rotation), expected)


@pytest.mark.parametrize("name", ATOMS)
@pytest.mark.parametrize("determinant", [1, -1])
def test_a_rotated_crystal_gives_a_rotated_result(name: str, determinant: int, rng: np.random.Generator):
    initial = crystal(name)
    positions, cell = predict(initial, rng)
    rotation = random_rotation(rng) * determinant
    turned = initial.with_geometry(initial.positions @ rotation, initial.cell @ rotation)
    expected = symmetrize(initial, positions, cell)
    actual = symmetrize(turned, positions @ rotation, cell @ rotation)
    assert_close(actual, (expected[0] @ rotation, expected[1] @ rotation))


def test_the_order_and_the_images_of_atoms_do_not_matter(rng: np.random.Generator):
    initial = crystal("rutile")
    positions, cell = predict(initial, rng)
    expected = symmetrize(initial, positions, cell)
    order = rng.permutation(len(initial))
    images = rng.integers(-3, 4, size=(len(initial), 3))
    moved = Crystal(initial.numbers[order], initial.positions[order] + images @ initial.cell, initial.cell)
    actual = symmetrize(moved, positions[order] + images @ cell, cell)
    assert_close(actual, (expected[0][order] + images @ expected[1], expected[1]))


def test_an_unchanged_cell_is_returned_bit_by_bit(rng: np.random.Generator):
    initial = crystal("rutile")
    positions = initial.positions + rng.normal(scale=0.1, size=initial.positions.shape)
    _, cell = symmetrize(initial, positions, initial.cell.copy())
    np.testing.assert_array_equal(cell, initial.cell)


def test_a_crystal_without_symmetry_is_returned_as_it_is(sample_crystals: dict[str, Crystal], rng: np.random.Generator):
    initial = sample_crystals["triclinic"]
    positions, cell = predict(initial, rng)
    assert symmetry_operations(initial) is None
    actual = symmetrize(initial, positions, cell)
    assert actual[0] is positions
    assert actual[1] is cell


def test_a_crystal_that_spglib_refuses_is_returned_as_it_is(rng: np.random.Generator):
    overlapping = Crystal([6, 6], np.zeros((2, 3)), np.eye(3) * 3)
    positions, cell = predict(overlapping, rng)
    actual = symmetrize(overlapping, positions, cell)
    assert actual[0] is positions
    assert actual[1] is cell


@pytest.mark.parametrize("raises", [True, False])
def test_spglib_may_raise_or_return_nothing(
    raises: bool, monkeypatch: pytest.MonkeyPatch, sample_crystals: dict[str, Crystal]
):
    class SpglibError(Exception):
        pass

    def fail(*args: object, **kwargs: object) -> None:
        if raises:
            raise SpglibError

    monkeypatch.setattr(spglib, "get_symmetry_dataset", fail)
    monkeypatch.setattr(spglib, "SpglibError", SpglibError, raising=False)
    assert symmetry_operations(sample_crystals["rocksalt"]) is None


@pytest.mark.parametrize("spoilt", ["positions", "cell", "volume"])
def test_a_prediction_that_is_no_crystal_is_returned_as_it_is(spoilt: str, rng: np.random.Generator):
    initial = crystal("rutile")
    positions, cell = predict(initial, rng)
    if spoilt == "positions":
        positions[0, 0] = np.nan
    elif spoilt == "cell":
        cell[1, 2] = np.inf
    else:
        cell[2] = 0.0
    actual = symmetrize(initial, positions, cell)
    assert actual[0] is positions
    assert actual[1] is cell


def test_symprec_decides_what_counts_as_symmetry(rng: np.random.Generator):
    rough = crystal("perovskite")
    rough = rough.with_geometry(rough.positions + rng.uniform(-2e-3, 2e-3, size=rough.positions.shape), rough.cell)
    fine, coarse = (symmetry_operations(rough, symprec=symprec) for symprec in (1e-5, 2e-2))
    assert fine is None
    assert len(coarse.rotations) == 48


@pytest.mark.parametrize("name", ATOMS)
def test_operations_map_the_crystal_onto_itself(name: str):
    initial = crystal(name)
    operations = symmetry_operations(initial)
    assert len(operations.rotations) == {225: 48, 221: 48, 194: 24, 136: 16, 186: 12}[ATOMS[name][1]]
    assert len(np.unique(operations.copies)) == len(initial) // COPIES.get(name, 1)
    metric = operations.basis @ operations.basis.T
    fractional = initial.positions @ np.linalg.inv(operations.basis)
    for rotation, origins in zip(operations.rotations, operations.origins, strict=True):
        np.testing.assert_allclose(rotation.T @ metric @ rotation, metric, atol=1e-10)
        translations = fractional - fractional[origins] @ rotation.T
        difference = translations - translations[0]  # lattice vectors of a centred cell: halves and thirds
        np.testing.assert_allclose(6 * difference, np.round(6 * difference), atol=1e-6)
        assert (initial.numbers[origins] == initial.numbers).all()


def test_a_supercell_is_relaxed_as_its_primitive_cell(rng: np.random.Generator):
    primitive, supercell = (
        crystal("primitive rocksalt"),
        Crystal.from_atoms(make_supercell(crystal("primitive rocksalt").to_atoms(), np.diag([2, 1, 1]))),
    )
    stretch = np.eye(3) + rng.normal(scale=0.03, size=(3, 3))
    _, expected = symmetrize(primitive, primitive.positions @ stretch, primitive.cell @ stretch)
    noise = rng.normal(scale=0.1, size=supercell.positions.shape)
    positions, cell = symmetrize(supercell, supercell.positions @ stretch + noise, supercell.cell @ stretch)
    np.testing.assert_allclose(cell, np.diag([2, 1, 1]) @ expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(positions, supercell.fractional_positions @ cell, rtol=0, atol=1e-10)


def test_copies_without_any_other_symmetry_stay_copies(sample_crystals: dict[str, Crystal], rng: np.random.Generator):
    once = sample_crystals["triclinic"]
    twice = Crystal.from_atoms(once.to_atoms() * (1, 2, 1))
    positions, cell = predict(twice, rng)
    new_positions, new_cell = symmetrize(twice, positions, cell)
    np.testing.assert_allclose(
        new_positions[len(once) :] - new_positions[: len(once)], np.tile(new_cell[1] / 2, (4, 1))
    )
    stretch = np.linalg.solve(twice.cell, cell)
    np.testing.assert_allclose(new_cell @ new_cell.T, cell @ cell.T, atol=1e-10)
    assert not np.allclose(stretch, stretch.T)


def test_a_crystal_without_operations_stays_as_it_is(rng: np.random.Generator):
    initial = crystal(next(iter(ATOMS)))
    positions, cell = predict(initial, rng)
    same = project(initial, positions, cell, None)
    assert same[0] is positions
    assert same[1] is cell
