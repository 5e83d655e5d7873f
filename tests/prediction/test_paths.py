"""Paths from unrelaxed to relaxed crystals: ends, cells, distances, symmetry, and two peers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.mep import NEB
from ase.mep.neb import idpp_interpolate
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.geometry.symmetry import symmetry_operations
from deeprelax_ase.prediction.paths import CLEARANCE, PathError, relaxation_path
from deeprelax_ase.prediction.record import Prediction, Uncertainty
from tests.crystals import rattled, rotation
from tests.prediction.paths_between import (
    COPPER,
    assert_same_path,
    closest_ratio,
    deformed,
    exchanged,
    hop,
    straight,
)

#: Universal crystals whose atoms move by more than 1 Å. On straight lines those of the first get nearest to each other.
FAR_MOVING = [35202, 37838, 32037, 40227, 31501]


class TestEnds:
    def test_are_exact_for_crystals_of_every_shape(self, sample_crystals, rng):
        for crystal in sample_crystals.values():
            relaxed = deformed(crystal, rng)
            images = relaxation_path(crystal, relaxed, 3)
            assert len(images) == 3
            for image, end in ((images[0], crystal), (images[-1], relaxed)):
                assert np.array_equal(image.positions, end.positions)
                assert np.array_equal(image.cell.array, end.cell)
            for image in images:
                assert image.numbers.tolist() == crystal.numbers.tolist()
                assert image.pbc.all()

    def test_alone_make_a_path_of_two(self, sample_crystals, rng):
        crystal = sample_crystals["rocksalt"]
        relaxed = deformed(crystal, rng)
        assert_same_path(relaxation_path(crystal, relaxed, 2), [crystal.to_atoms(), relaxed.to_atoms()], atol=0)

    def test_are_the_same_for_atoms_crystals_structures_and_predictions(self, rng):
        pytest.importorskip("pymatgen.core")
        initial = rattled(bulk("NaCl", "rocksalt", a=5.6, cubic=True), 1)
        relaxed = deformed(initial, rng)
        expected = relaxation_path(initial, relaxed, 5)
        uncertainty = Uncertainty(0.05, 0.04, 0.03, np.full(8, 0.05), np.zeros(0), np.zeros((0, 5), dtype=np.int64))
        prediction = Prediction(initial, relaxed, uncertainty, "a model", True, 0)
        for first, last in (
            (initial.to_atoms(), relaxed.to_atoms()),
            (initial.to_structure(), relaxed.to_structure()),
            (initial, prediction),
        ):
            assert_same_path(relaxation_path(first, last, 5), expected, atol=1e-9)

    def test_hand_on_what_the_atoms_carry(self, rng):
        atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
        atoms.set_tags(range(8))
        atoms.set_initial_magnetic_moments(np.linspace(-1, 1, 8))
        atoms.info.update(id="mp-1", deeprelax_model="of an earlier run", deeprelax_status="converged")
        crystal = Crystal.of(atoms)
        uncertainty = Uncertainty(0.05, 0.04, 0.03, np.full(8, 0.05), np.zeros(0), np.zeros((0, 5), dtype=np.int64))
        prediction = Prediction(crystal, deformed(crystal, rng), uncertainty, "a model", True, 0)
        before = atoms.copy()
        images = relaxation_path(atoms, prediction, 4)
        for image in images:
            assert image.get_tags().tolist() == list(range(8))
            assert image.get_initial_magnetic_moments().tolist() == np.linspace(-1, 1, 8).tolist()
            assert image.info["id"] == "mp-1"
        assert [image.info.get("deeprelax_model") for image in images] == ["of an earlier run", None, None, "a model"]
        assert images[-1].info["deeprelax_status"] == "accepted"
        images[0].positions += 1
        images[0].info["id"] = "another"
        assert atoms == before
        assert atoms.info == before.info


class TestCell:
    def test_volume_goes_geometrically_and_nothing_turns(self, sample_crystals, rng):
        for crystal in sample_crystals.values():
            relaxed = deformed(crystal, rng, move=0.0)
            images = relaxation_path(crystal, relaxed, 4)
            logarithms = np.log([image.cell.volume for image in images])
            np.testing.assert_allclose(np.diff(logarithms), np.diff(logarithms).mean(), rtol=0, atol=1e-12)
            for image in images:
                deformation = np.linalg.solve(crystal.cell, image.cell.array)
                np.testing.assert_allclose(deformation, deformation.T, rtol=0, atol=1e-10)
                fractional = image.get_scaled_positions(wrap=False)
                np.testing.assert_allclose(fractional, crystal.fractional_positions, rtol=0, atol=1e-10)

    def test_equal_steps_of_the_cell_follow_each_other(self, rng):
        """The logarithm: two half ways, one after the other, are the whole."""
        crystal = rattled(COPPER, 3)
        relaxed = deformed(crystal, rng, strain=0.2)
        cells = [image.cell.array for image in relaxation_path(crystal, relaxed, 5)]
        steps = [np.linalg.solve(a, b) for a, b in pairwise(cells)]
        for step in steps[1:]:
            np.testing.assert_allclose(step, steps[0], rtol=0, atol=1e-12)
        assert np.abs(steps[0] - np.eye(3)).max() > 0.01

    def test_a_rotation_between_the_ends_goes_evenly(self):
        crystal = rattled(COPPER, 3)
        turn = Rotation.from_rotvec([0.3, -0.2, 0.5])
        relaxed = crystal.with_geometry(crystal.positions @ turn.as_matrix().T, crystal.cell @ turn.as_matrix().T)
        for t, image in zip([0, 0.25, 0.5, 0.75, 1], relaxation_path(crystal, relaxed, 5), strict=True):
            part = Rotation.from_rotvec(t * turn.as_rotvec()).as_matrix().T
            np.testing.assert_allclose(image.cell.array, crystal.cell @ part, rtol=0, atol=1e-10)
            np.testing.assert_allclose(image.positions, crystal.positions @ part, rtol=0, atol=1e-10)

    def test_a_kept_cell_is_kept_exactly(self):
        start, end = hop()
        assert all(np.array_equal(image.cell.array, start.cell.array) for image in relaxation_path(start, end, 5))

    def test_atoms_keep_their_periodic_images(self):
        """An atom that leaves the cell goes on outside of it; one far outside stays there."""
        initial = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
        initial.positions[3] += 3 * initial.cell.array[0]
        relaxed = initial.copy()
        relaxed.positions[0] -= [0.4, 0.0, 0.0]
        images = relaxation_path(initial, relaxed, 5)
        steps = np.diff([image.positions for image in images], axis=0)
        assert np.abs(steps).max() < 0.15
        assert images[2].positions[0, 0] < -0.1


class TestCollisions:
    @pytest.mark.parametrize(
        "atoms",
        [bulk("AuCu", "rocksalt", a=5.0, cubic=True), pytest.param(COPPER.repeat((2, 1, 1)), marks=pytest.mark.slow)],
        ids=["rocksalt", "fcc"],
    )
    def test_atoms_that_change_places_pass_each_other(self, atoms: Atoms):
        j = int(np.argmin(np.where(np.arange(len(atoms)) == 0, 9, np.linalg.norm(atoms.positions, axis=1))))
        relaxed = exchanged(atoms, 0, j)
        assert closest_ratio(straight(atoms, relaxed)) < 1e-6
        images = relaxation_path(atoms, relaxed)
        assert closest_ratio(images) > CLEARANCE - 0.01
        steps = np.linalg.norm(np.diff([image.positions for image in images], axis=0), axis=2)
        assert steps.max() < 1.5  # nobody jumps from one way around to another

    def test_changing_places_while_the_cell_shrinks(self):
        atoms = bulk("MgO", "rocksalt", a=4.5, cubic=True)
        relaxed = exchanged(atoms, 0, 1)
        relaxed.set_cell(atoms.cell.array * [[0.93], [0.94], [0.95]], scale_atoms=True)
        assert closest_ratio(straight(atoms, relaxed)) < 0.05
        assert closest_ratio(relaxation_path(atoms, relaxed, 8)) > CLEARANCE - 0.01

    def test_a_turning_molecule_keeps_its_bond(self):
        """The straight path at 120 degrees halves it."""
        ends = []
        for angle in np.deg2rad([10, 130]):
            half = 0.55 * np.array([np.cos(angle), np.sin(angle), 0])
            ends.append(Atoms("N2", positions=[2 + half, 2 - half], cell=[5, 5.2, 5.4], pbc=True))
        assert straight(*ends, n_images=5)[2].get_distance(0, 1) == pytest.approx(0.55)
        bonds = [image.get_distance(0, 1) for image in relaxation_path(*ends, 5)]
        np.testing.assert_allclose(bonds, 1.1, rtol=0, atol=0.02)

    @pytest.mark.parametrize(
        "index", [*FAR_MOVING[:2], *(pytest.param(n, marks=pytest.mark.slow) for n in FAR_MOVING[2:])]
    )
    def test_real_relaxations(self, data_crystals: Callable[..., list[Crystal]], index: int):
        ends = [data_crystals("universal", [index], which=which)[0].to_atoms() for which in ("initial", "relaxed")]
        before, after = closest_ratio(straight(*ends, n_images=7)), closest_ratio(relaxation_path(*ends, 7))
        assert after > max(0.9, before - 0.02)
        if index == FAR_MOVING[0]:
            assert before < 0.65

    def test_where_there_is_no_way_around_the_error_names_the_atoms(self):
        atoms = COPPER.repeat((2, 1, 1))
        before = atoms.copy()
        relaxed = exchanged(atoms, 0, 1)
        with pytest.raises(PathError, match=r"atoms [01] and [01] come as near .* 0\.[012]\d Å, [45]\d% of the way"):
            relaxation_path(atoms, relaxed, 2)
        with pytest.raises(PathError, match="lower the clearance"):
            relaxation_path(atoms, relaxed, 5, clearance=0.95)
        assert atoms == before

    def test_clearance_zero_allows_anything(self):
        atoms = COPPER.repeat((2, 1, 1))
        assert len(relaxation_path(atoms, exchanged(atoms, 0, 1), 3, clearance=0)) == 3

    @settings(max_examples=6)
    @given(seed=st.integers(0, 2**32 - 1), strain=st.floats(0, 0.1), move=st.floats(0, 0.3))
    def test_any_small_relaxation(self, seed: int, strain: float, move: float):
        rng = np.random.default_rng(seed)
        crystal = rattled(bulk("ZnS", "wurtzite", a=3.8, c=6.2), seed % 100)
        relaxed = deformed(crystal, rng, strain=strain, move=move)
        images = relaxation_path(crystal, relaxed, 4, clearance=0.5)
        volumes = np.array([image.cell.volume for image in images])
        np.testing.assert_allclose(volumes, volumes[0] * (volumes[-1] / volumes[0]) ** np.linspace(0, 1, 4), rtol=1e-10)
        assert np.array_equal(images[-1].positions, relaxed.positions)
        assert closest_ratio(images) > 0.49


@pytest.fixture(scope="module")
def ends() -> tuple[Atoms, Atoms]:
    crystal = rattled(bulk("MgO", "rocksalt", a=4.3, cubic=True), 2)
    return crystal.to_atoms(), deformed(crystal, np.random.default_rng(20240400865), move=0.4).to_atoms()


@pytest.fixture(scope="module")
def path(ends) -> list[Atoms]:
    return relaxation_path(*ends, 5)


class TestSymmetry:
    def test_the_path_is_not_straight(self, ends, path):
        line = straight(*ends, n_images=5)
        assert max(np.abs(a.positions - b.positions).max() for a, b in zip(path, line, strict=True)) > 0.02

    def test_is_the_same_every_time(self, ends, path):
        assert_same_path(relaxation_path(*ends, 5), path, atol=0)

    @pytest.mark.parametrize("colliding", [False, pytest.param(True, marks=pytest.mark.slow)])
    def test_turns_with_the_crystal(self, ends, path, colliding: bool):
        if colliding:
            ends = (ends[0], exchanged(ends[0], 0, 1))
            path = relaxation_path(*ends, 5)
        q = rotation(5)
        turned = [Atoms(a.numbers, positions=a.positions @ q, cell=a.cell.array @ q, pbc=True) for a in ends]
        expected = [Atoms(a.numbers, positions=a.positions @ q, cell=a.cell.array @ q, pbc=True) for a in path]
        assert_same_path(relaxation_path(*turned, 5), expected, atol=1e-6)

    def test_moves_with_the_crystal(self, ends, path):
        moved = [atoms.copy() for atoms in (*ends, *path)]
        for atoms in moved:
            atoms.set_positions(
                atoms.positions + [0.3, -7.0, 1.1] @ np.linalg.inv(ends[0].cell.array) @ atoms.cell.array
            )
        assert_same_path(relaxation_path(*moved[:2], 5), moved[2:], atol=1e-6)

    def test_knows_no_first_cell(self, ends, path):
        """An atom may be given on any of its periodic images, in both ends alike."""
        moved = [atoms.copy() for atoms in (*ends, *path)]
        for atoms in moved:
            atoms.positions[2] += [2, -1, 1] @ atoms.cell.array
        assert_same_path(relaxation_path(*moved[:2], 5), moved[2:], atol=1e-6)

    def test_knows_no_order_of_the_atoms(self, ends, path):
        order = [3, 1, 7, 0, 2, 6, 5, 4]
        assert_same_path(relaxation_path(*(a[order] for a in ends), 5), [a[order] for a in path], atol=1e-6)

    def test_there_and_back_is_the_same(self, ends, path):
        assert_same_path(relaxation_path(*ends[::-1], 5)[::-1], path, atol=1e-3)

    def test_shared_symmetry_is_kept(self):
        """Rutile, its oxygen moving and its axes changing."""

        def rutile(a: float, c: float, u: float) -> Atoms:
            sites = [
                [0, 0, 0],
                [0.5, 0.5, 0.5],
                [u, u, 0],
                [-u, -u, 0],
                [0.5 + u, 0.5 - u, 0.5],
                [0.5 - u, 0.5 + u, 0.5],
            ]
            return Atoms("Sn2O4", cell=[a, a, c], positions=np.array(sites) * [a, a, c], pbc=True)

        for image in relaxation_path(rutile(4.6, 3.0, 0.27), rutile(4.8, 3.2, 0.34), 5):
            operations = symmetry_operations(Crystal.of(image), symprec=1e-6)
            assert len(operations.rotations) == 16


@pytest.fixture(scope="module")
def folding() -> list[Atoms]:
    """A cluster that changes its shape, far from its images, so that the peers know all of the pairs that we do."""
    start = molecule("C2H6").positions * 1.6
    turned = start.copy()
    turned[2:5] = Rotation.from_rotvec([0, 0, 1.0]).apply(start[2:5])
    end = turned + np.random.default_rng(4).normal(scale=0.1, size=start.shape)
    return [Atoms("Cu8", positions=positions + 7, cell=[14] * 3, pbc=True) for positions in (start, end)]


@pytest.fixture(scope="module")
def ours(folding) -> np.ndarray:
    """(5, N, 3) Å."""
    return np.array([image.positions for image in relaxation_path(*folding, 5)])


class TestPeers:
    """In a cell that is kept, and so large that nearest images suffice, other implementations find the same path."""

    @staticmethod
    def bend(path: np.ndarray) -> np.ndarray:
        """How far images lie off the straight path, along which they may be spaced in several ways."""
        line = path[0] + np.linspace(0, 1, len(path))[:, None, None] * (path[-1] - path[0])
        along = (path[-1] - path[0]) / np.linalg.norm(path[-1] - path[0])
        off = path - line
        return off - np.einsum("nia,ia->n", off, along)[:, None, None] * along

    @pytest.mark.slow  # as ASE's is
    def test_pymatgen(self, folding, ours):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about optional parts of pymatgen
            pathfinder = pytest.importorskip("pymatgen.analysis.diffusion.neb.pathfinder")
        structures = [Crystal.of(atoms).to_structure() for atoms in folding]
        solver = pathfinder.IDPPSolver.from_endpoints(structures, nimages=3, sort_tol=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it gets near, slowly
            theirs = np.array([s.cart_coords for s in solver.run(maxiter=1000, tol=1e-9, gtol=1e-4, spring_const=1.0)])
        assert np.abs(self.bend(ours)).max() > 0.02
        assert np.abs(self.bend(theirs) - self.bend(ours)).max() < 0.15 * np.abs(self.bend(ours)).max()

    def test_ase(self, folding, ours):
        images = [folding[0].copy() for _ in range(4)] + [folding[1].copy()]
        band = NEB(images, k=1.0, method="improvedtangent")
        band.interpolate("linear")
        idpp_interpolate(
            band, traj=None, log=None, fmax=1e-4, steps=1000, mic=True
        )  # by default it does next to nothing
        theirs = np.array([image.positions for image in images])
        assert np.abs(self.bend(theirs) - self.bend(ours)).max() < 0.15 * np.abs(self.bend(ours)).max()
