from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import spglib
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.spacegroup import crystal as ase_crystal

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.geometry import project, site_freedom, symmetrize, symmetry_operations


def rutile() -> Atoms:
    return ase_crystal(
        ("Ti", "O"), [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136, cellpar=[4.594, 4.594, 2.959, 90, 90, 90]
    )


def perovskite() -> Atoms:
    sites = [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)]
    return ase_crystal(("Sr", "Ti", "O"), sites, spacegroup=221, cellpar=[3.905] * 3 + [90] * 3)


def skewed_rocksalt() -> Atoms:
    return make_supercell(bulk("MgO", "rocksalt", a=4.21), [[1, 0, 0], [3, 1, 0], [-2, 1, 2]])


ATOMS: dict[str, tuple[Callable[[], Atoms], int]] = {
    "rocksalt": (lambda: bulk("NaCl", "rocksalt", a=5.64, cubic=True), 225),
    "primitive rocksalt": (lambda: bulk("NaCl", "rocksalt", a=5.64), 225),
    "skewed rocksalt": (skewed_rocksalt, 225),
    "perovskite": (perovskite, 221),
    "hcp": (lambda: bulk("Mg", "hcp", a=3.21, c=5.21), 194),
    "rutile": (rutile, 136),
    "wurtzite": (lambda: bulk("ZnO", "wurtzite", a=3.25, c=5.21, u=0.38), 186),
}
COPIES = {"rocksalt": 4, "skewed rocksalt": 2}
#: Wyckoff positions without a free coordinate; the oxygen of rutile has one, wurtzite is polar.
FIXED = ["rocksalt", "primitive rocksalt", "skewed rocksalt", "perovskite", "hcp"]


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


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    q = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return q * np.sign(np.linalg.det(q))


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
    assert not [f for f in filters if f[0] == "ignore" and f[2] is Warning]


@pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING")  # for the check; symmetrize itself must not warn
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


@pytest.mark.parametrize("name", ATOMS)
def test_operations_that_are_known_need_not_be_sought_again(name: str, rng: np.random.Generator):
    initial = crystal(name)
    positions, cell = predict(initial, rng)
    found = project(initial, positions, cell, symmetry_operations(initial))
    for actual, expected in zip(found, symmetrize(initial, positions, cell), strict=True):
        np.testing.assert_array_equal(actual, expected)
    same = project(initial, positions, cell, None)
    assert same[0] is positions
    assert same[1] is cell


# DegreesOfFreedom of sites


def low() -> Atoms:
    """Two atoms in a mirror plane of a crystal that is polar in this plane, and a pair beside it."""
    sites = [(0.1, 0, 0.2), (0.6, 0.5, 0.3), (0.3, 0.22, 0.71)]
    return ase_crystal(("Mg", "O", "N"), sites, spacegroup=6, cellpar=[4.0, 5.5, 4.6, 90, 97, 90])


def orthorhombic() -> Atoms:
    """Sites in the mirror planes of Pnma."""
    sites = [(0.18, 0.25, 0.16), (0.06, 0.25, 0.7)]
    return ase_crystal(("Ba", "S"), sites, spacegroup=62, cellpar=[7.6, 4.9, 8.4, 90, 90, 90])


def p1() -> Atoms:
    triclinic = [[4.1, 0.0, 0.0], [1.3, 4.7, 0.0], [-0.9, 1.1, 5.6]]
    sites = [[0.1, 0.2, 0.3], [2.1, 0.4, 0.9], [0.3, 2.6, 1.1], [2.0, 2.7, 3.9]]
    return Atoms("TiO2Sr", positions=sites, cell=triclinic, pbc=True)


#: DegreesOfFreedom of the sites by element: dimensions over three, less what moves the crystal as a whole.
FREEDOM: dict[str, tuple[Callable[[], Atoms], dict[str, float]]] = {
    **{name: (ATOMS[name][0], dict.fromkeys(["Na", "Cl", "Mg", "O", "Sr", "Ti"], 0.0)) for name in FIXED},
    "one atom": (lambda: bulk("Cu"), {"Cu": 0.0}),
    "rutile": (rutile, {"Ti": 0.0, "O": 1 / 3}),
    "wurtzite": (ATOMS["wurtzite"][0], {"Zn": 1 / 3 / 2, "O": 1 / 3 / 2}),  # along the axis, in common or apart
    "Pnma": (orthorhombic, {"Ba": 2 / 3, "S": 2 / 3}),
    "Pm": (low, {"Mg": 2 / 3 * 5 / 7, "O": 2 / 3 * 5 / 7, "N": 5 / 7}),
    "P1": (p1, dict.fromkeys(["Ti", "O", "Sr"], 3 / 4)),
}
every_freedom = pytest.mark.parametrize("name", FREEDOM)


def degrees_of_freedom(atoms: Atoms) -> np.ndarray:
    initial = Crystal.from_atoms(atoms)
    return site_freedom(initial, symmetry_operations(initial))


@every_freedom
def test_freedom_of_sites(name: str):
    make, expected = FREEDOM[name]
    atoms = make()
    np.testing.assert_allclose(
        degrees_of_freedom(atoms), [expected[symbol] for symbol in atoms.symbols], rtol=0, atol=1e-12
    )


@every_freedom
def test_freedom_is_what_the_projection_leaves(name: str):
    """Of all displacements of all atoms, those that it keeps, counted for each atom."""
    initial = Crystal.from_atoms(FREEDOM[name][0]())
    operations, size = symmetry_operations(initial), len(initial)
    units = np.eye(3 * size).reshape(-1, size, 3)
    kept = np.array([project(initial, initial.positions + u, initial.cell, operations)[0] for u in units])
    projector = (kept - initial.positions).reshape(3 * size, 3 * size)
    whole = np.tile(np.eye(3), size) @ projector
    dimensions = [np.linalg.matrix_rank(projector[:, 3 * i : 3 * i + 3], tol=1e-6) for i in range(size)]
    common = np.linalg.matrix_rank(whole, tol=1e-6)
    left = 1 - common / max(np.trace(projector), 1)
    np.testing.assert_allclose(site_freedom(initial, operations), np.array(dimensions) / 3 * left, rtol=0, atol=1e-9)


@every_freedom
@pytest.mark.parametrize(
    "supercell", [np.diag([2, 1, 1]), np.diag([1, 2, 2]), [[1, 1, 0], [0, 2, 0], [0, -1, 1]]], ids=["211", "122", "hnf"]
)
def test_freedom_of_sites_is_the_same_in_a_supercell(name: str, supercell):
    atoms = FREEDOM[name][0]()
    big = make_supercell(atoms, supercell, order="atom-major")
    copies = len(big) // len(atoms)
    assert copies > 1
    np.testing.assert_allclose(
        degrees_of_freedom(big), np.repeat(degrees_of_freedom(atoms), copies), rtol=0, atol=1e-12
    )


@every_freedom
def test_freedom_does_not_turn_and_goes_with_the_atoms(name: str, rng: np.random.Generator):
    atoms = FREEDOM[name][0]()
    order = rng.permutation(len(atoms))
    moved = atoms[order]
    rotation = random_rotation(rng)
    moved.set_cell(moved.cell.array @ rotation)
    moved.set_positions((moved.positions + rng.normal(size=3)) @ rotation)
    moved.wrap()
    np.testing.assert_allclose(degrees_of_freedom(moved), degrees_of_freedom(atoms)[order], rtol=0, atol=1e-12)


def test_what_breaks_the_symmetry_sets_sites_free(rng: np.random.Generator):
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    assert not degrees_of_freedom(atoms).any()
    atoms.positions[0, 2] += 0.1  # polar along z now, with a fourfold axis through atoms that move along it
    freedom = degrees_of_freedom(atoms)
    assert 0 < freedom[0] < 1 / 3
    atoms.positions += rng.normal(scale=0.05, size=(8, 3))
    np.testing.assert_allclose(degrees_of_freedom(atoms), 7 / 8, rtol=0, atol=1e-12)


def test_relaxations_keep_their_symmetry(data_pairs: Callable, data_crystals: Callable[..., list[Crystal]]):
    indices = np.flatnonzero(data_pairs("universal")["dft"])[:100]
    changes, symmetric = [], 0
    for initial, relaxed in zip(
        *(data_crystals("universal", indices, which=which) for which in ("initial", "relaxed")), strict=True
    ):
        positions, cell = symmetrize(initial, relaxed.positions, relaxed.cell)
        symmetric += cell is not relaxed.cell
        changes.append(np.abs(np.linalg.solve(cell.T, positions.T).T - relaxed.fractional_positions) @ np.abs(cell))
    assert symmetric > 80
    assert np.mean([np.max(c) < 1e-3 for c in changes]) > 0.95
