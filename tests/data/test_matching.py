from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.data.matching import MATCH_KINDS, MatchError, match

NUMBERS = np.array([38, 22, 8, 8, 8])
#: Nothing that looks like a symmetry: then there is one mapping only.
SCALED = np.array([[0.05, 0.02, 0], [0.45, 0.55, 0.38], [0.5, 0.1, 0.62], [0.1, 0.7, 0.2], [0.8, 0.45, 0.81]])
CELL = np.array([[4.0, 0.3, 0.0], [0.4, 5.4, 0.2], [-0.5, 0.6, 7.1]])


def crystal(numbers: np.ndarray, fractional: np.ndarray, cell: np.ndarray) -> Crystal:
    return Crystal(numbers, fractional @ cell, cell)


def a_pair(seed: int) -> tuple[Crystal, Crystal]:
    """A crystal, and what it relaxes to: strained, its atoms displaced by a few tenths of an ångström."""
    rng = np.random.default_rng(seed)
    strain = rng.normal(scale=0.03, size=(3, 3))
    relaxed = CELL @ (np.eye(3) + (strain + strain.T) / 2)
    shake = rng.normal(scale=0.03, size=(2, 5, 3))
    return crystal(NUMBERS, SCALED + shake[0], CELL), crystal(NUMBERS, SCALED + shake[1], relaxed)


def rotation(rng: np.random.Generator) -> np.ndarray:
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return turn * np.sign(np.linalg.det(turn))


def displacements(matched) -> np.ndarray:
    return (matched.fractional_relaxed - matched.fractional_initial) @ matched.cell_relaxed


def assert_same(found, expected) -> None:
    np.testing.assert_allclose(found.fractional_relaxed, expected.fractional_relaxed, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.cell_relaxed, expected.cell_relaxed, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(found.numbers, expected.numbers)


def test_a_pair_in_order_is_taken_as_it_is() -> None:
    initial, relaxed = a_pair(0)
    found = match(initial, relaxed)
    assert found.how == MATCH_KINDS[0]
    np.testing.assert_allclose(found.cell_relaxed, relaxed.cell, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.fractional_initial, initial.fractional_positions, rtol=0, atol=1e-12)
    drift = (found.fractional_relaxed - found.fractional_initial).mean(axis=0)
    np.testing.assert_allclose(drift, 0, atol=1e-12)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000))
def test_images_origin_order_and_orientation_do_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    initial, relaxed = a_pair(seed)
    expected = match(initial, relaxed)
    order = rng.permutation(5)
    fractional = relaxed.fractional_positions + rng.integers(-2, 3, size=(5, 3)) + rng.normal(size=3)
    turned = relaxed.cell @ rotation(rng)
    found = match(initial, crystal(relaxed.numbers[order], fractional[order], turned))
    assert_same(found, expected)
    assert found.how == (MATCH_KINDS[0] if np.array_equal(order, np.arange(5)) else found.how)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_another_choice_of_lattice_vectors_is_mapped_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    initial, relaxed = a_pair(seed)
    expected = match(initial, relaxed)
    change = np.eye(3, dtype=int)
    for _ in range(2):
        i, j = rng.choice(3, size=2, replace=False)
        step = np.eye(3, dtype=int)
        step[i, j] = rng.choice([-1, 1])
        change = step @ change
    change = change[rng.permutation(3)]
    other = crystal(NUMBERS, relaxed.fractional_positions @ np.linalg.inv(change), change @ relaxed.cell)
    found = match(initial, other)
    assert found.how != MATCH_KINDS[1]
    lengths = [np.linalg.norm(displacements(m), axis=1) for m in (found, expected)]
    np.testing.assert_allclose(lengths[0], lengths[1], rtol=0, atol=1e-8)
    stretches = [
        np.linalg.svd(np.linalg.solve(m.cell_initial, m.cell_relaxed), compute_uv=False) for m in (found, expected)
    ]
    np.testing.assert_allclose(stretches[0], stretches[1], rtol=0, atol=1e-9)


def test_a_turned_crystal_is_turned_back_to_a_pure_stretch() -> None:
    initial, relaxed = a_pair(3)
    turn = rotation(np.random.default_rng(1))
    found = match(initial, Crystal(NUMBERS, relaxed.positions @ turn, relaxed.cell @ turn))
    deformation = np.linalg.solve(initial.cell, found.cell_relaxed)
    np.testing.assert_allclose(deformation, deformation.T, rtol=0, atol=1e-12)
    angle = np.arccos((np.trace(turn) - 1) / 2)
    assert found.turned == pytest.approx(angle, abs=0.05)  # less what turns the stretch itself
    assert match(initial, relaxed).turned < 1e-6


def test_a_small_turn_is_left_to_the_relaxation() -> None:
    initial, relaxed = a_pair(3)
    c, s = np.cos(5e-4), np.sin(5e-4)
    cell = relaxed.cell @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
    found = match(initial, crystal(NUMBERS, relaxed.fractional_positions, cell))
    np.testing.assert_allclose(found.cell_relaxed, cell, rtol=0, atol=1e-12)


def test_atoms_that_went_far_keep_their_order() -> None:
    initial, relaxed = a_pair(0)
    fractional = relaxed.fractional_positions.copy()
    fractional[2] += [0.0, 0.0, 0.2]  # 1.4 Å, still nearest to where it was
    found = match(initial, crystal(NUMBERS, fractional, relaxed.cell))
    assert found.how == MATCH_KINDS[0]


def test_another_composition_is_refused_with_the_reason() -> None:
    initial, relaxed = a_pair(0)
    numbers = np.array([20, 22, 8, 8, 8])
    with pytest.raises(MatchError, match="holds O3SrTi, the relaxed one CaO3Ti: not the same atoms"):
        match(initial, Crystal(numbers, relaxed.positions, relaxed.cell))


def test_a_supercell_is_refused_with_advice() -> None:
    initial, relaxed = a_pair(0)
    doubled = np.vstack([relaxed.positions, relaxed.positions + relaxed.cell[0]])
    cell = relaxed.cell * np.array([[2], [1], [1]])
    with pytest.raises(MatchError, match="both as primitive cells"):
        match(initial, Crystal(np.tile(NUMBERS, 2), doubled, cell))


def test_different_crystals_are_refused() -> None:
    initial, _ = a_pair(0)
    rng = np.random.default_rng(5)
    other = crystal(NUMBERS[::-1], rng.random((5, 3)), np.diag([2.0, 3.0, 12.0]))
    with pytest.raises(MatchError, match="two different crystals"):
        match(initial, other)


def test_nothing_of_the_crystals_is_changed() -> None:
    initial, relaxed = a_pair(0)
    before = [a.copy() for c in (initial, relaxed) for a in (c.numbers, c.positions, c.cell)]
    match(initial, Crystal(NUMBERS[::-1], relaxed.positions[::-1], relaxed.cell))
    after = [a for c in (initial, relaxed) for a in (c.numbers, c.positions, c.cell)]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


# -- where the given order and vectors mean something, and where they do not


def perovskite(seed: int, cell: np.ndarray, shake: float) -> Crystal:
    fractional = np.array([[0.5, 0.5, 0.5], [0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]])
    return crystal(NUMBERS, fractional + np.random.default_rng(seed).normal(scale=shake, size=(5, 3)), cell)


@pytest.mark.parametrize("axes", [[1, 2, 0], [2, 0, 1]])
def test_axes_of_a_nearly_cubic_cell_in_another_order(axes: list[int]) -> None:
    initial = perovskite(1, np.diag([4.0, 4.05, 4.1]), 0.02)
    relaxed = perovskite(2, np.diag([3.9, 4.0, 4.15]), 0.02)
    expected = match(initial, relaxed)
    swap = np.eye(3)[axes]
    other = crystal(NUMBERS, relaxed.fractional_positions @ swap.T, swap @ relaxed.cell)
    found = match(initial, other)
    lengths = [np.linalg.norm(displacements(m), axis=1).mean() for m in (found, expected)]
    assert lengths[0] < 1.7 * lengths[1]


def test_frames_of_a_relaxation_keep_their_order_however_far_atoms_go() -> None:
    initial, relaxed = a_pair(0)
    fractional = relaxed.fractional_positions.copy()
    fractional[[2, 3]] = fractional[[3, 2]] * 0.9 + fractional[[2, 3]] * 0.1  # two oxygens on their way past each other
    cell = relaxed.cell @ np.diag([1.8, 0.75, 0.75])
    found = match(initial, crystal(NUMBERS, fractional, cell), in_order=True)
    assert found.how == MATCH_KINDS[0]
    np.testing.assert_allclose(found.cell_relaxed, cell, rtol=0, atol=0.1)
    moved = fractional - initial.fractional_positions
    drift = (found.fractional_relaxed - found.fractional_initial) - moved
    np.testing.assert_allclose(drift - drift[0] - np.round(drift - drift[0]), 0, rtol=0, atol=1e-9)
    assert match(initial, crystal(NUMBERS, fractional, relaxed.cell)).how == MATCH_KINDS[1]


def test_large_strain_in_an_order_that_fits_is_believed() -> None:
    initial, relaxed = a_pair(4)
    cell = relaxed.cell @ np.diag([1.5, 0.85, 0.9])
    found = match(initial, crystal(NUMBERS, relaxed.fractional_positions, cell))
    assert found.how == MATCH_KINDS[0]
    np.testing.assert_allclose(np.linalg.det(found.cell_relaxed), np.linalg.det(cell), rtol=1e-9)


def test_a_mirror_image_is_told() -> None:
    initial, relaxed = a_pair(2)
    flip = np.diag([1.0, 1.0, -1.0])
    expected = match(initial, relaxed)
    found = match(initial, Crystal(NUMBERS, relaxed.positions @ flip, relaxed.cell @ flip))
    assert found.how == MATCH_KINDS[3]
    assert np.linalg.det(found.cell_relaxed) > 0
    lengths = [np.linalg.norm(displacements(m), axis=1) for m in (found, expected)]
    np.testing.assert_allclose(lengths[0], lengths[1], rtol=0, atol=1e-9)


def test_a_left_handed_cell_is_no_mirror_image() -> None:
    initial, relaxed = a_pair(2)
    flip = np.diag([1.0, 1.0, -1.0])
    both = [crystal(NUMBERS, c.fractional_positions @ flip, flip @ c.cell) for c in (initial, relaxed)]
    assert match(both[0], both[1]).how == MATCH_KINDS[0]
    mixed = match(initial, both[1])
    assert mixed.how == MATCH_KINDS[2]
    lengths = [np.linalg.norm(displacements(m), axis=1) for m in (mixed, match(initial, relaxed))]
    np.testing.assert_allclose(lengths[0], lengths[1], rtol=0, atol=1e-9)
