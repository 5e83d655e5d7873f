"""M3GNet's network, from a folder or as MatGL finds it, against MatGL's calculator of one crystal after the other."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from deeprelax_ase.calculators import M3GNET_VARIABLE, M3GNetPotential, get_calculator
from deeprelax_ase.calculators.batched import Evaluated
from deeprelax_ase.calculators.registry import m3gnet_in, m3gnet_network
from deeprelax_ase.errors import CalculatorError
from tests.calculators.batches import tensors_of
from tests.calculators.units import M3GNET, distorted_salt, needs_m3gnet, needs_weights


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(M3GNET_VARIABLE, str(M3GNET))


def evaluated(*crystals: Atoms) -> Evaluated:
    return M3GNetPotential(m3gnet_network(), device="cpu")(*tensors_of(crystals))


@needs_m3gnet
def test_each_is_what_the_calculator_says_of_it_alone() -> None:
    crystals = [bulk("Cu", a=3.5), distorted_salt(), bulk("MgO", "rocksalt", a=4.4).repeat(2), distorted_salt()]
    calculator, found = get_calculator("m3gnet", dtype="float64"), evaluated(*crystals)
    forces = found.forces.split([len(atoms) for atoms in crystals])
    for n, atoms in enumerate(crystals):
        atoms.calc = calculator
        assert float(found.energies[n]) / len(atoms) == pytest.approx(
            atoms.get_potential_energy() / len(atoms), abs=1e-5
        )
        np.testing.assert_allclose(forces[n], atoms.get_forces(), rtol=1e-5, atol=5e-5)
        np.testing.assert_allclose(found.stresses[n], atoms.get_stress(voigt=False), rtol=1e-5, atol=1e-5)


@needs_weights
def test_what_it_cannot_tell_spoils_nothing_else() -> None:
    unknown, overlap = distorted_salt(), distorted_salt()
    unknown.numbers[3] = 84
    overlap.positions[1] = overlap.positions[0]
    found, size = evaluated(distorted_salt(), unknown, overlap, distorted_salt()), len(unknown)
    assert sorted(found.errors) == [1, 2]
    alone = evaluated(distorted_salt())
    for forces in (found.forces[:size], found.forces[-size:]):
        np.testing.assert_allclose(forces, alone.forces, rtol=0, atol=1e-5)


@needs_m3gnet
def test_without_a_folder_the_weights_are_those_that_matgl_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(M3GNET_VARIABLE)
    monkeypatch.setattr(
        "deeprelax_ase.calculators.registry.get_calculator", lambda name: get_calculator(f"{name}:{M3GNET}")
    )
    m3gnet_in.cache_clear()
    found = evaluated(distorted_salt())
    monkeypatch.setenv(M3GNET_VARIABLE, str(M3GNET))
    expected = evaluated(distorted_salt())
    np.testing.assert_array_equal(found.forces, expected.forces)


def test_a_folder_without_weights(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv(M3GNET_VARIABLE, str(tmp_path))
    with pytest.raises(CalculatorError, match="Give the folder of M3GNet"):
        m3gnet_network()


def test_without_folder_and_matgl_both_ways_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise CalculatorError("MatGL's potentials need MatGL.")

    monkeypatch.delenv(M3GNET_VARIABLE)
    monkeypatch.setattr("deeprelax_ase.calculators.registry.get_calculator", absent)
    m3gnet_in.cache_clear()
    with pytest.raises(CalculatorError, match=rf"need MatGL\. A folder in {M3GNET_VARIABLE} is read without MatGL"):
        m3gnet_network()
