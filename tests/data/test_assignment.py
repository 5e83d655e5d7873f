from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeprelax_ase.data.assignment import best_order, places_by_element

NUMBERS = np.array([38, 22, 8, 8, 8, 38, 22, 8])
VECTORS = np.array([[5.0, 0.2, 0.0], [0.1, 5.5, 0.3], [0.0, -0.4, 6.0]])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_order_and_origin_are_found(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sites = np.array([[i, j, k] for i in (0, 0.5) for j in (0, 0.5) for k in (0, 0.5)])
    start = sites + rng.normal(scale=0.02, size=(8, 3))
    moved = rng.normal(scale=0.15, size=(8, 3))
    moved -= moved.mean(axis=0)
    order = rng.permutation(8)
    end = (start + moved @ np.linalg.inv(VECTORS) + rng.normal(size=3) + rng.integers(-2, 3, size=(8, 3)))[order]
    found, mean = best_order(start, end, places_by_element(NUMBERS, NUMBERS[order]), VECTORS)
    assert np.array_equal(NUMBERS[order][found], NUMBERS)
    # sites of an element may stand for each other: then no atom moves further than it did
    assert mean <= np.linalg.norm(moved, axis=1).mean() + 1e-9
    if np.array_equal(order[found], np.arange(8)):
        assert mean == pytest.approx(np.linalg.norm(moved, axis=1).mean(), abs=1e-9)


def test_one_atom_never_moves() -> None:
    order, mean = best_order(
        np.zeros((1, 3)), np.full((1, 3), 0.3), places_by_element(np.array([29]), np.array([29])), VECTORS
    )
    assert order.tolist() == [0]
    assert mean == pytest.approx(0, abs=1e-12)


def test_kinds_are_places_of_each_element() -> None:
    kinds = places_by_element(np.array([8, 22, 8]), np.array([22, 8, 8]))
    assert [(a.tolist(), b.tolist()) for a, b in kinds] == [([0, 2], [1, 2]), ([1], [0])]
