"""Draws of alike elements."""

from __future__ import annotations

import numpy as np
import pytest

from deeprelax_ase.labelling.similarity import ANIONS, MENDELEEV, Substitutes, is_anion

EVERY = np.arange(1, 95)


def drawn(element: int, count: int = 4000, allowed: np.ndarray = EVERY, *, ionic: bool = False) -> np.ndarray:
    return Substitutes(allowed, ionic=ionic).draw(np.random.default_rng(0), np.full(count, element))


def test_the_order_holds_every_element_once():
    assert sorted(MENDELEEV[:88]) == sorted(set(MENDELEEV[:88]))
    assert len(MENDELEEV) == 94


@pytest.mark.parametrize(("element", "alike"), [(56, 38), (17, 35), (26, 44), (57, 58)])
def test_neighbours_in_the_order_are_drawn_more_often_than_far_ones(element, alike):
    counts = np.bincount(drawn(element), minlength=95)
    assert counts[alike] > 5 * np.median(counts[1:])


def test_only_allowed_elements_are_drawn():
    allowed = np.array([3, 11, 8])
    assert set(drawn(26, allowed=allowed)) <= set(allowed.tolist())


def test_anions_give_way_to_anions_and_cations_to_cations():
    assert is_anion(drawn(8, ionic=True)).all()
    assert not is_anion(drawn(22, ionic=True)).any()
    assert set(drawn(8, ionic=True)) <= set(ANIONS)


def test_an_element_stays_where_none_may_take_its_place():
    assert set(drawn(8, allowed=np.array([11, 12]), ionic=True)) == {8}


def test_draws_have_the_shape_of_what_they_replace():
    assert Substitutes(EVERY).draw(np.random.default_rng(0), np.array([[8, 22], [9, 38], [17, 56]])).shape == (3, 2)


@pytest.mark.parametrize("allowed", [[], [0], [95]])
def test_elements_without_a_place_in_the_order_are_refused(allowed):
    with pytest.raises(ValueError, match="elements from 1 to 94"):
        Substitutes(np.array(allowed, int))
