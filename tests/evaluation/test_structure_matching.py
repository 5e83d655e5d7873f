from __future__ import annotations

import numpy as np
import pytest

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.evaluation.structure_matching import structure_match, structure_matches


def rock_salt(length: float, shift: float = 0.0) -> Crystal:
    fractional = np.array([[0, 0, 0], [0.5, 0.5, 0.5 + shift]])
    cell = length * np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    return Crystal([12, 8], fractional @ cell, cell)


def test_same_crystals_match_whatever_their_order_and_origin() -> None:
    pytest.importorskip("pymatgen")
    rocksalt = Crystal([11, 17], [[0.0, 0, 0], [2.8, 2.8, 2.8]], (np.ones((3, 3)) - np.eye(3)) * 2.8)
    shifted = Crystal([17, 11], [[3.8, 3.8, 3.8], [1.0, 1.0, 1.0]], rocksalt.cell)
    chloride = Crystal([55, 17], [[0.0, 0, 0], [2.06, 2.06, 2.06]], np.eye(3) * 4.12)
    matches = structure_matches([rocksalt, chloride], [shifted, rocksalt])
    assert [match.same for match in matches] == [True, False]
    with pytest.raises(ValueError, match="1 predicted crystals, but 2 true ones"):
        structure_matches([rocksalt], [rocksalt, chloride])


def test_rmsd_by_hand() -> None:
    """One of two atoms moved by u: both are u / 2 off once they lie on each other."""
    pytest.importorskip("pymatgen")
    found = structure_match(rock_salt(4.2, 0.05), rock_salt(4.2))
    moved = 0.05 * np.linalg.norm(rock_salt(4.2).cell[2])
    assert found.same
    assert found.rmsd == pytest.approx(moved / 2 / (4.2**3 / 8) ** (1 / 3), rel=1e-6)
    assert structure_match(rock_salt(4.2), rock_salt(4.2)).rmsd == pytest.approx(0, abs=1e-9)


def test_rmsd_is_one_without_a_match() -> None:
    pytest.importorskip("pymatgen")
    other = Crystal([11, 17], rock_salt(4.2).positions, rock_salt(4.2).cell)
    assert structure_match(other, rock_salt(4.2)) == (False, 1.0)


def test_matches_come_in_order_from_several_processes() -> None:
    pytest.importorskip("pymatgen")
    crystals = [rock_salt(4.2, 0.01 * n) for n in range(5)]
    alone = structure_matches(crystals, [rock_salt(4.2)] * 5)
    assert structure_matches(crystals, [rock_salt(4.2)] * 5, jobs=2) == alone
    assert [match.rmsd for match in alone] == sorted(match.rmsd for match in alone)
    assert structure_matches([], []) == []
