"""Constraints as text in tables: what comes back, and what is not let in."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.constraints import FixAtoms, FixCartesian, FixCom, FixedLine, FixedPlane, FixScaled, FixSymmetry, Hookean

from deeprelax_ase.errors import ConstraintError, StructureFileError
from deeprelax_ase.io.constraints import HONOURED, constraints_of, constraints_text

ATOMS = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
HELD = [
    FixAtoms([0, 3]),
    FixCartesian([1], mask=[True, False, True]),
    FixCom(),
    FixScaled([2], mask=[False, True, False]),
    FixSymmetry(ATOMS.copy()),
    FixedLine([4], [1, 1, 0]),
    FixedPlane([5, 6], [0, 0, 1]),
]


@pytest.mark.parametrize("held", HELD, ids=lambda held: type(held).__name__)
def test_they_come_back(held):
    (found,) = constraints_of(constraints_text([held]))
    moved = ATOMS.positions + np.random.default_rng(0).normal(size=ATOMS.positions.shape)
    expected = moved.copy()
    held.adjust_positions(ATOMS, expected)
    found.adjust_positions(ATOMS, moved)
    np.testing.assert_allclose(moved, expected, rtol=0, atol=1e-12)


def test_all_that_are_kept_are_tried():
    assert sorted(type(held).__name__ for held in HELD) == sorted(HONOURED)


def test_none_is_no_text():
    assert constraints_text([]) is None
    assert constraints_of(None) == constraints_of("") == []


def test_others_have_no_text():
    with pytest.raises(ConstraintError, match="Hookean"):
        constraints_text([Hookean(0, 1, rt=2.0, k=5.0)])


WRONG = [
    "[",
    "7",
    '[{"name": "Hookean", "kwargs": {"a1": 0, "a2": 1, "rt": 2, "k": 5}}]',
    '[{"kwargs": {}}]',
    '[{"name": "FixAtoms", "kwargs": {"indices": "all"}}]',
    '[{"name": "FixAtoms", "kwargs": {"eval": "1"}}]',
]


@pytest.mark.parametrize("text", WRONG)
def test_what_is_none_of_them_is_refused(text):
    with pytest.raises(StructureFileError, match="constraints cannot be read"):
        constraints_of(text)
