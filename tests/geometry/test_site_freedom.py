from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.spacegroup import crystal as ase_crystal

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.geometry import project, site_freedom, symmetrize, symmetry_operations
from tests.geometry.symmetric_crystals import ATOMS, FIXED, random_rotation, rutile


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
