"""The image dependent pair potential that paths are relaxed in."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from deeprelax_ase.geometry.idpp import PairPotential


@pytest.fixture
def potential(rng) -> PairPotential:
    pairs = np.array([[0, 1], [0, 1], [1, 2]])
    shifts = np.array([[0.0, 0, 0], [-4.0, 0, 0], [0, 0, 0]])
    return PairPotential(pairs, shifts, np.eye(3) + 0.1 * rng.normal(size=(3, 3)), np.array([1.8, 2.6, 2.0]))


def test_forces_are_its_slope(potential, rng):
    atoms = Atoms("X3", positions=[[0, 0, 0], [2, 0.3, 0.1], [2.5, 1.9, -0.4]])
    forces, step = potential.get_forces(atoms), 1e-5
    for i, a in np.ndindex(3, 3):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[i, a] += sign * step
            energies.append(potential.get_potential_energy(moved))
        assert forces[i, a] == pytest.approx((energies[1] - energies[0]) / (2 * step), abs=1e-8)
    assert np.abs(forces).max() > 1e-2


def test_is_the_papers():
    """Two atoms 2 Å apart that should be 3 Å apart: (3 - 2)^2 / 2^4."""
    potential = PairPotential(np.array([[0, 1]]), np.zeros((1, 3)), np.eye(3), np.array([3.0]))
    assert potential.get_potential_energy(Atoms("X2", positions=[[0, 0, 0], [0, 2, 0]])) == pytest.approx(1 / 16)
