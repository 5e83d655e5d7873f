from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.evaluation.structure_matching import structure_match, structure_matches
from tests.killing import Killer

if TYPE_CHECKING:
    from pymatgen.core import Structure


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
    alone = structure_matches([rocksalt, chloride], [shifted, rocksalt], rmsd=False)
    assert [match.same for match in alone] == [True, False]
    assert np.isnan([match.rmsd for match in alone]).all()
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


@pytest.mark.slow  # the pair that ends one of two processes is matched between others
def test_matches_come_in_order_from_several_processes() -> None:
    pytest.importorskip("pymatgen")
    crystals = [rock_salt(4.2, 0.01 * n) for n in range(5)]
    alone = structure_matches(crystals, [rock_salt(4.2)] * 5)
    assert structure_matches(crystals, [rock_salt(4.2)] * 5, jobs=2) == alone
    assert [match.rmsd for match in alone] == sorted(match.rmsd for match in alone)
    assert structure_matches([], []) == []


class DiesOf(Crystal):
    """Kills the process that it is sent to."""

    def __reduce__(self) -> tuple:
        return Killer().__reduce__()


class Odd(Crystal):
    """A crystal that cannot be a structure of pymatgen's."""

    def to_structure(self) -> Structure:
        raise ValueError("it is odd")


@pytest.mark.parametrize(("kind", "jobs"), [(DiesOf, 2), (Odd, 1)])
def test_a_pair_that_pymatgen_ends_on_costs_itself(kind: type[Crystal], jobs: int) -> None:
    pytest.importorskip("pymatgen")
    salt, why = rock_salt(4.2), "was killed" if kind is DiesOf else "it is odd"
    with pytest.warns(UserWarning, match=f"pair 1 could not be matched.*{why}"):
        matches = structure_matches([salt, kind(salt.numbers, salt.positions, salt.cell), salt], [salt] * 3, jobs=jobs)
    assert [match.same for match in matches] == [True, False, True]
    assert matches[1].rmsd == 1
