"""Oxidation states that add up to nothing: what pymatgen guesses, in a moment."""

from __future__ import annotations

import time

import pytest
from ase.formula import Formula
from ase.symbols import symbols2numbers

from deeprelax_ase.labelling import is_neutral

pymatgen = pytest.importorskip("pymatgen.core")


@pytest.mark.parametrize(
    ("formula", "neutral"),
    [
        *((text, True) for text in ("NaCl", "SrTiO3", "Fe3O4", "LiFePO4", "Mn2O3", "MoS2", "CsSnI3", "YBa2Cu3O7")),
        *((text, False) for text in ("Na2Cl", "Ni3Al", "CuAu", "Mg7O8", "SrTiO3F", "ArCl")),
    ],
)
def test_it_says_what_pymatgen_guesses(formula: str, neutral: bool) -> None:
    assert bool(pymatgen.Composition(formula).oxi_state_guesses()) == neutral
    assert is_neutral(symbols2numbers(str(Formula(formula)))) == neutral


def test_an_element_alone_is_neutral() -> None:
    assert is_neutral([26] * 4)


def test_many_atoms_with_many_states_take_no_time() -> None:
    start = time.perf_counter()
    assert is_neutral([25] * 15 + [26] * 9 + [8] * 36)
    assert time.perf_counter() - start < 1
