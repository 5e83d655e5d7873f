"""Relaxations that left the basin that they began in are told, each by its reason."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.data.checks import AT_REST
from deeprelax_ase.labelling.relaxer import Relaxation
from deeprelax_ase.labelling.rows import OTHER_MAPPING, objections


def relaxation(initial: Atoms, positions: np.ndarray | None = None, cell: np.ndarray | None = None) -> Relaxation:
    end = initial.copy()
    if cell is not None:
        end.set_cell(cell, scale_atoms=True)
    if positions is not None:
        end.positions = positions
    zeros = np.zeros((len(initial), 3))
    return Relaxation(Crystal.of(initial), Crystal.of(end), 0, 0, zeros, np.zeros((3, 3)), True, False, 0, 1, 1)


@pytest.fixture
def salt() -> Atoms:
    return bulk("NaCl", "rocksalt", a=5.6, cubic=True)


def test_an_ordinary_one_is_not_objected_to(salt: Atoms) -> None:
    moved = salt.positions + np.random.default_rng(0).normal(0, 0.1, salt.positions.shape)
    assert objections([relaxation(salt, moved), relaxation(salt, cell=salt.cell.array * 1.05)]) == [None, None]
    assert objections([]) == []


def test_reasons_are_those_of_the_check_of_pairs(salt: Atoms) -> None:
    near, large = salt.positions.copy(), salt * (2, 2, 1)
    near[0] = near[1] + [0.3, 0, 0]
    swapped = large.positions.copy()
    swapped[[0, 2]] = swapped[[2, 0]]
    told = objections(
        [
            relaxation(salt),
            relaxation(salt, cell=salt.cell.array * 1.3),
            relaxation(salt, near),
            relaxation(large, swapped),
        ]
    )
    assert told[0] == AT_REST
    assert told[1] is not None
    assert told[1].startswith("|ln V ratio| above")
    assert told[2] == "overlapping atoms, relaxed"
    assert told[3] is not None
    assert "swapped" in told[3]


def test_another_mapping_that_fits_better_is_told() -> None:
    """Three atoms cycle through their places: no two of them swap."""
    start = bulk("Cu", "fcc", a=4.0, cubic=True) * (2, 2, 1)
    start.numbers[0] = 79
    end = start.positions.copy()
    end[[1, 2, 3]] = end[[2, 3, 1]] + 0.05
    assert objections([relaxation(start, end)]) == [OTHER_MAPPING]
