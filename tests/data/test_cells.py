from __future__ import annotations

import numpy as np
import pytest
from ase.geometry import find_mic
from hypothesis import given, settings
from hypothesis import strategies as st

from deeprelax_ase.data.cells import lattice_changes, nearest_differences

CELL = np.array([[4.0, 0.3, 0.0], [0.4, 5.4, 0.2], [-0.5, 0.6, 7.1]])
SEEDS = st.integers(0, 10_000)


def unimodular(rng: np.random.Generator, steps: int = 4) -> np.ndarray:
    change = np.eye(3, dtype=int)
    for _ in range(steps):
        i, j = rng.choice(3, size=2, replace=False)
        step = np.eye(3, dtype=int)
        step[i, j] = rng.choice([-1, 1])
        change = step @ change
    return change


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_another_choice_of_vectors_is_found_again(seed: int) -> None:
    rng = np.random.default_rng(seed)
    change = unimodular(rng)
    strain = rng.normal(scale=0.04, size=(3, 3))
    relaxed = CELL @ (np.eye(3) + (strain + strain.T) / 2)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    changes, strains = lattice_changes(CELL, change @ relaxed @ turn, 0.35)
    expected = np.round(np.linalg.inv(change)).astype(int)
    assert any(np.array_equal(found, expected) for found in changes)
    assert (np.diff(strains) >= 0).all()
    assert strains.max() <= 0.35
    for found, size in zip(changes, strains, strict=True):
        assert abs(round(np.linalg.det(found))) == 1
        stretches = np.linalg.svd(np.linalg.solve(CELL, found @ change @ relaxed @ turn), compute_uv=False)
        assert np.abs(np.log(stretches)).max() == pytest.approx(size, abs=1e-9)


def test_a_cube_has_its_48_settings() -> None:
    changes, strains = lattice_changes(4 * np.eye(3), 5 * np.eye(3), 0.25)
    assert len(changes) == 48
    assert len({tuple(c.flatten()) for c in changes}) == 48
    np.testing.assert_allclose(strains, np.log(5 / 4), rtol=0, atol=1e-12)
    assert len(lattice_changes(4 * np.eye(3), 5 * np.eye(3), 0.2)[0]) == 0


def test_thin_and_long_cells_take_no_time() -> None:
    thin = np.array([[2.5, 0, 0], [1.25, 2.2, 0], [0.3, 0.4, 60.0]])
    changes, _ = lattice_changes(thin, unimodular(np.random.default_rng(1), 6) @ thin, 0.35)
    assert 0 < len(changes) < 5000


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_images_are_the_nearest_ones_in_skewed_cells_too(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cell = unimodular(rng, 3) @ CELL
    moved = rng.normal(scale=0.4, size=(6, 3))
    moved -= moved.mean(axis=0)
    fractional = moved @ np.linalg.inv(cell) + rng.integers(-2, 3, size=(6, 3)) + rng.normal(size=3)
    found = nearest_differences(fractional, cell) @ cell
    np.testing.assert_allclose(found.mean(axis=0), 0, rtol=0, atol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), find_mic(found, cell)[1], rtol=0, atol=1e-9)
    np.testing.assert_allclose(found, moved, rtol=0, atol=1e-9)


@given(st.lists(st.floats(-3, 3), min_size=3, max_size=3))
def test_drift_is_removed_across_images(shift: list[float]) -> None:
    small = np.array([[0.01, 0, 0], [-0.01, 0.02, 0], [0, -0.02, 0]])
    images = np.array([[1, 0, -2], [0, 3, 0], [0, 0, 1]])
    np.testing.assert_allclose(nearest_differences(small + images + shift, CELL), small, rtol=0, atol=1e-9)
