"""Calculators in the units of ASE."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.stress import full_3x3_to_voigt_6_stress

from deeprelax_ase.calculators import M3GNET_POTENTIAL
from deeprelax_ase.graph.matgl_import import runs_on_dgl

M3GNET = Path(os.environ.get("DEEPRELAX_SHARED", Path(__file__).parents[3] / "shared")) / "models" / M3GNET_POTENTIAL
needs_matgl = pytest.mark.skipif(find_spec("matgl") is None, reason="MatGL is not installed")
needs_dgl = pytest.mark.skipif(not runs_on_dgl(), reason="the installed MatGL does not run on DGL")
needs_newer = pytest.mark.skipif(
    find_spec("matgl") is None or runs_on_dgl(), reason="needs MatGL 3 or later, which does not run on DGL"
)
needs_weights = pytest.mark.skipif(not M3GNET.is_dir(), reason="needs M3GNet in the data folder beside the repository")
needs_m3gnet = pytest.mark.skipif(
    not runs_on_dgl() or not M3GNET.is_dir(),
    reason="needs MatGL on DGL, and M3GNet in the data folder beside the repository",
)


def distorted_salt() -> Atoms:
    rng = np.random.default_rng(5)
    atoms = bulk("NaCl", "rocksalt", a=5.8, cubic=True)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.02 * rng.normal(size=(3, 3))), scale_atoms=True)
    atoms.positions += 0.15 * rng.normal(size=atoms.positions.shape)
    return atoms


def assert_units_of_ase(calculator, *, step: float = 4e-3, rel: float = 0.02, forces_above: float = 0.1) -> None:
    """Forces and stress are the derivatives of the energy, in eV/Å and eV/Å³ and in ASE's sign and order.

    A step of less than 4e-3 Å drowns in rounding where the energy is computed in float32.
    """
    atoms = distorted_salt()
    atoms.calc = calculator
    rng = np.random.default_rng(6)
    direction = rng.normal(size=(8, 3))
    strain = rng.normal(size=(3, 3))
    strain = 0.5 * (strain + strain.T)
    forces, stress, volume = atoms.get_forces(), atoms.get_stress(voigt=False), atoms.get_volume()

    def energy(displacement: float, deformation: float) -> float:
        moved = atoms.copy()
        moved.positions += displacement * direction
        moved.set_cell(moved.cell.array @ (np.eye(3) + deformation * strain), scale_atoms=True)
        moved.calc = calculator
        return float(moved.get_potential_energy())

    h = step
    assert np.abs(forces).max() > forces_above
    assert (energy(h, 0) - energy(-h, 0)) / (2 * h) == pytest.approx(-np.sum(forces * direction), rel=rel)
    assert np.abs(stress).max() > 0.01 * forces_above
    assert (energy(0, h) - energy(0, -h)) / (2 * h) == pytest.approx(volume * np.sum(stress * strain), rel=rel)
    np.testing.assert_array_equal(atoms.get_stress(), full_3x3_to_voigt_6_stress(stress))
