"""M3GNet of many crystals at once, against MatGL's calculator of one after the other."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk

from deeprelax_ase.calculators import M3GNET_VARIABLE, get_calculator
from deeprelax_ase.calculators.m3gnet_batch import m3gnet_in, m3gnet_network, m3gnet_of
from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import CalculatorError
from tests.calculators.units import M3GNET, distorted_salt, needs_m3gnet, needs_weights


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(M3GNET_VARIABLE, str(M3GNET))


@needs_m3gnet
def test_each_is_what_the_calculator_says_of_it_alone() -> None:
    crystals = [bulk("Cu", a=3.5), distorted_salt(), bulk("MgO", "rocksalt", a=4.4).repeat(2), distorted_salt()]
    calculator = get_calculator("m3gnet", dtype="float64")
    for given in (crystals, [Crystal.of(atoms) for atoms in crystals]):
        for atoms, found in zip(crystals, m3gnet_of(given), strict=True):
            atoms.calc = calculator
            assert found.energy / len(atoms) == pytest.approx(atoms.get_potential_energy() / len(atoms), abs=1e-5)
            np.testing.assert_allclose(found.forces, atoms.get_forces(), rtol=1e-5, atol=5e-5)
            np.testing.assert_allclose(found.stress, atoms.get_stress(voigt=False), rtol=1e-5, atol=1e-5)


@needs_weights
def test_what_it_cannot_tell_is_not_finite_and_spoils_nothing_else() -> None:
    unknown, overlap = distorted_salt(), distorted_salt()
    unknown.numbers[3] = 84
    overlap.positions[1] = overlap.positions[0]
    good, *bad, last = m3gnet_of([distorted_salt(), unknown, overlap, distorted_salt()])
    assert [bool(np.isfinite(one.forces).all()) for one in bad] == [False, False]
    (alone,) = m3gnet_of([distorted_salt()])
    for one in (good, last):
        np.testing.assert_allclose(one.forces, alone.forces, rtol=0, atol=1e-5)


@needs_m3gnet
def test_without_a_folder_the_weights_are_those_that_matgl_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(M3GNET_VARIABLE)
    monkeypatch.setattr(
        "deeprelax_ase.calculators.m3gnet_batch.get_calculator", lambda name: get_calculator(f"{name}:{M3GNET}")
    )
    m3gnet_in.cache_clear()
    (found,) = m3gnet_of([distorted_salt()])
    monkeypatch.setenv(M3GNET_VARIABLE, str(M3GNET))
    (expected,) = m3gnet_of([distorted_salt()])
    np.testing.assert_array_equal(found.forces, expected.forces)


def test_a_folder_without_weights(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv(M3GNET_VARIABLE, str(tmp_path))
    with pytest.raises(CalculatorError, match="Give the folder of M3GNet"):
        m3gnet_network()


def test_without_folder_and_matgl_both_ways_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise CalculatorError("MatGL's potentials need MatGL.")

    monkeypatch.delenv(M3GNET_VARIABLE)
    monkeypatch.setattr("deeprelax_ase.calculators.m3gnet_batch.get_calculator", absent)
    m3gnet_in.cache_clear()
    with pytest.raises(CalculatorError, match=rf"need MatGL\. A folder in {M3GNET_VARIABLE} is read without MatGL"):
        m3gnet_network()
