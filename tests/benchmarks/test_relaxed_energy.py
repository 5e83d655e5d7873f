"""What relaxed_energy.py counts as a choice, and as right."""

from __future__ import annotations

import numpy as np
import pytest
import relaxed_energy
import torch
from kinds import HeldOut

from tests.pairs import make_pairs


def held_out(minima: list[float], numbers: list[int]) -> HeldOut:
    """Crystals of one element each."""
    pairs = make_pairs(len(minima))
    pairs.numbers[:] = torch.tensor(numbers).repeat_interleave(pairs.counts)
    empty = np.zeros(len(minima))
    return HeldOut(pairs, np.full(len(minima), "generated_d"), np.array(minima), empty, np.ones(len(minima)))


def test_the_limit_is_the_best_other_crystal_of_the_composition():
    same = relaxed_energy.SAME / 2
    limits = relaxed_energy.best_others(held_out([-1.0, -1.0 + same, -0.8, -5.0], [3, 3, 3, 4]))
    assert limits[:3] == pytest.approx([-0.8, -0.8, -1.0])  # the first two are one crystal
    assert np.isnan(limits[3])


def test_choices_near_the_limit_and_those_that_the_interval_makes():
    truth, limits = np.array([-1.0, -1.02, -0.98, -3.0, -1.0]), np.array([-1.01, -1.01, -1.01, -1.01, np.nan])
    head = np.array([-0.9, -1.2, -1.2, -3.1, -1.0])
    rows = relaxed_energy.choice_rows(truth, limits, {"head": head, "true": truth}, np.full(5, 0.12))
    assert (rows["all"]["crystals"], rows["near"]["crystals"]) == (4, 3)
    assert rows["near"]["kept"] == pytest.approx(1 / 3)
    assert rows["near"]["right"] == pytest.approx({"head": 2 / 3, "true": 1.0})
    assert rows["near"]["interval"] == pytest.approx({"right": 1 / 3, "wrong": 1 / 3})  # of the first it cannot tell
    assert rows["all"]["interval"] == pytest.approx({"right": 2 / 4, "wrong": 1 / 4})


def test_errors_and_bounds():
    row = relaxed_energy.error_row(np.array([0.01, 0.02, 0.3]), np.array([0.02, 0.02, 0.1]))
    assert row["within the bound"] == pytest.approx(2 / 3)
    assert (row["median"], row["median bound"]) == (0.02, 0.02)
