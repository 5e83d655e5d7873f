"""Constraints in files and as text in tables: what comes back, what is told to be lost, and what is not let in."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.constraints import FixAtoms, FixCartesian, FixCom, FixedLine, FixedPlane, FixScaled, FixSymmetry, Hookean
from ase.io import read

from deeprelax_ase.errors import ConstraintError, StructureFileError
from deeprelax_ase.io.constraints import HONOURED, constraints_of, constraints_text
from deeprelax_ase.io.output import check_output
from deeprelax_ase.io.sink import open_sink

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


def test_extended_xyz_holds_what_is_along_axes_and_tells_what_is_not(tmp_path: Path) -> None:
    atoms = bulk("MgO", "rocksalt", a=4.2, cubic=True)
    across = [FixScaled([0], mask=[False, False, True]), FixedPlane([1], [0, 0, 1])]  # T T F in a POSCAR
    atoms.set_constraint([*across, FixedLine([2], [0, 1, 0]), FixCartesian([3], mask=[True, False, False])])
    leaning = bulk("MgO", "rocksalt", a=4.2)
    leaning.set_constraint([FixScaled([0], mask=[False, False, True]), FixSymmetry(leaning.copy()), FixAtoms([1])])
    with open_sink(str(tmp_path / "out.extxyz"), "extxyz") as sink:
        sink.write(atoms)
        with pytest.warns(UserWarning, match=r"no place for FixScaled, FixSymmetry .* Write \.traj"):
            sink.write(leaning)
        sink.write(leaning)  # which is told once
        leaning.set_constraint(FixCom())
        with pytest.warns(UserWarning, match="no place for FixCom along"):
            sink.write(leaning)
    first, second, *_ = read(tmp_path / "out.extxyz", index=":")
    moved = first.positions + 0.1
    first.set_positions(moved)
    held = [[0, 0, 1], [0, 0, 1], [1, 0, 1], [1, 0, 0], *[[0, 0, 0]] * 4]
    np.testing.assert_allclose(moved - first.positions, 0.1 * np.array(held), rtol=0, atol=1e-8)
    assert [type(one).__name__ for one in second.constraints] == ["FixAtoms"]


@pytest.mark.parametrize(
    ("name", "kept"),
    [("out.cif", ()), ("%s.cif", ()), ("out.xsf", ()), ("POSCAR-%03d", (FixAtoms, FixScaled))],
)
@pytest.mark.parametrize("held", [FixAtoms([0]), FixScaled([1], mask=[True, False, False]), FixCom()])
def test_constraints_that_a_format_loses_are_told(tmp_path: Path, name: str, kept: tuple, held: object) -> None:
    """Two crystals, and one warning."""
    atoms = bulk("MgO", "rocksalt", a=4.2, cubic=True)
    atoms.set_constraint(held)
    path = str(tmp_path / name)
    file_format = check_output(path, inputs=[], several=True, overwrite=False)
    with warnings.catch_warnings(record=True) as told, open_sink(path, file_format) as sink:
        warnings.simplefilter("always")
        for _ in range(2):
            sink.write(atoms)
    told = [str(one.message) for one in told if "no place" in str(one.message)]
    assert len(told) == (not isinstance(held, kept)), told
    assert all(type(held).__name__ in one and "Write .traj" in one for one in told)
