"""Choice of what is labelled: by value, and far from each other."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ase.build import bulk

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.learning import choose, cover, value_of
from deeprelax_ase.learning.choice import description, expected_error

METALS = ("Cu", "Ag", "Au", "Ni", "Pd", "Pt")


def metal(name: str, a: float = 4.0) -> Crystal:
    return Crystal.of(bulk(name, "fcc", a=a))


def prediction(error: float | None, novelty: float | None = 0.0, total: float = 0.0) -> Any:
    known = None if error is None else SimpleNamespace(coordinates=error, volume=None, novelty=novelty)
    return SimpleNamespace(error=known, uncertainty=SimpleNamespace(total=total), relaxed=metal("Cu"))


def test_values_rank_by_what_is_asked_for() -> None:
    rng = np.random.default_rng(0)
    predictions = [prediction(0.1, 3.0), prediction(0.3, 1.0), prediction(0.2, 2.0)]
    assert np.argsort(value_of(predictions, "error", rng)).tolist() == [0, 2, 1]
    assert np.argsort(value_of(predictions, "novelty", rng)).tolist() == [1, 2, 0]
    both = value_of(predictions, "both", rng)
    assert both == pytest.approx([2 / 3] * 3)
    chance = [value_of(predictions, "random", np.random.default_rng(seed)).tolist() for seed in (1, 1, 2)]
    assert chance[0] == chance[1] != chance[2]


def test_uncertainty_stands_for_errors_that_are_not_calibrated() -> None:
    assert expected_error(prediction(None, total=0.7)) == 0.7
    assert expected_error(prediction(0.2)) == pytest.approx(0.2)
    volume = prediction(0.2)
    volume.error.volume = 0.03
    assert expected_error(volume) == pytest.approx(0.2 + 0.01 * np.cbrt(16.0))


def test_those_of_the_highest_value_alone() -> None:
    crystals = [metal(name) for name in METALS]
    values = np.array([0.1, 0.6, 0.3, 0.5, 0.2, 0.4])
    assert choose(values, crystals, [], 2, spread=1) == [1, 3]
    assert choose(values, crystals, [], 9, spread=4) == [1, 3, 5, 2, 4, 0]
    assert choose(values[:0], [], [], 3) == []


def test_they_are_far_from_each_other_and_from_what_is_known() -> None:
    crystals = [metal("Cu"), metal("Cu", 4.01), metal("Cu", 4.02), metal("Pt"), metal("Al")]
    values = np.array([0.9, 0.8, 0.7, 0.2, 0.1])
    assert choose(values, crystals, [], 3, spread=4) == [0, 4, 3]
    assert set(choose(values, crystals, [metal("Cu")], 2, spread=4)) == {3, 4}
    assert 3 not in choose(values, crystals, [], 2, spread=1)


def test_alike_elements_are_near() -> None:
    def apart(one: str, other: str) -> float:
        return float(np.abs(description(metal(one)) - description(metal(other))).sum())

    assert apart("Cu", "Cu") == 0
    assert apart("Cu", "Ag") < apart("Cu", "Na") < apart("Cu", "Cl") + apart("Cl", "Na")


def test_a_cover_takes_crystals_among_many_of_their_like_before_a_lone_one() -> None:
    crystals = [metal("Cu", 4.0 + 0.01 * n) for n in range(5)] + [metal("Al", 4.5)]
    assert cover(np.ones(6), crystals, [], 1) == [2]
    heavy = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 9.0])
    assert cover(heavy, crystals, [], 1) == [5]
    assert cover(heavy, crystals, [metal("Al", 4.5)], 1) == [2]


def test_a_cover_takes_each_once_and_no_more_than_there_are() -> None:
    crystals = [metal(name) for name in METALS]
    taken = cover(np.ones(6), crystals, [], 4)
    assert len(set(taken)) == 4
    assert cover(np.zeros(6), crystals, [], 4) == [0, 1, 2, 3]
    assert cover(np.ones(6), crystals, [], 9) == [0, 1, 2, 3, 4, 5]
    assert cover(np.ones(0), [], [], 3) == []
