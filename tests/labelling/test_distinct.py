"""Candidates of which no two are the same, nor a source, up to as many as there are."""

from __future__ import annotations

import numpy as np

from deeprelax_ase.labelling import CandidateSettings, distinct_candidates, is_neutral
from tests.labelling.test_candidates import SOURCES

ELEMENTS = {3, 11, 12, 20, 8, 9, 17}


def test_no_two_are_the_same_and_none_is_a_source() -> None:
    settings = CandidateSettings(shares={"substituted": 1.0})
    found = list(distinct_candidates(SOURCES, 10_000, elements={3, 11, 17}, settings=settings))
    marks = {(tuple(c.crystal.numbers.tolist()), round(c.crystal.volume, 3)) for c in found}
    assert 10 < len(found) == len(marks) < 1000, "it gives up once there is nothing else"
    assert not marks & {(tuple(c.numbers.tolist()), round(c.volume, 3)) for c in SOURCES}


def test_a_longer_run_begins_like_a_shorter_one() -> None:
    short, long = (list(distinct_candidates(SOURCES, n, seed=4, elements=ELEMENTS)) for n in (10, 25))
    assert (len(short), len(long)) == (10, 25)
    for a, b in zip(short, long, strict=False):
        assert (a.kind, a.source) == (b.kind, b.source)
        np.testing.assert_array_equal(a.crystal.positions, b.crystal.positions)


def test_neutral_ones_alone() -> None:
    found = list(distinct_candidates(SOURCES, 30, elements=ELEMENTS, neutral=True))
    assert len(found) == 30
    assert all(is_neutral(c.crystal.numbers) for c in found)
    others = list(distinct_candidates(SOURCES, 30, elements=ELEMENTS))
    assert not all(is_neutral(c.crystal.numbers) for c in others)
