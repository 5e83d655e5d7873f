"""The jump, and the finish under a real DFT code: GPAW with plane waves."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

from deeprelax_ase import DeepRelaxOptimizer

pytestmark = [
    pytest.mark.skipif(find_spec("gpaw") is None, reason="GPAW is not installed"),
    # where the grid lacks the symmetry of the crystal GPAW takes another one
    pytest.mark.filterwarnings("ignore:(Initial realspace|Using symmetrized) grid:UserWarning"),
]

FMAX, STEPS = 0.05, 40


class CountedGPAW:
    """GPAW as users attach it; ``calls`` is how often it became self-consistent."""

    def __init__(self, ecut: float, mesh: int) -> None:
        from gpaw import GPAW

        self.calculator = GPAW(
            mode={"name": "pw", "ecut": ecut}, xc="PBE", kpts={"size": (mesh,) * 3, "gamma": True}, txt=None
        )
        self.calculator.hooks["converged"] = self._count
        self.calls = 0

    def _count(self) -> None:
        self.calls += 1


def attach(atoms: Atoms, **options: Any) -> CountedGPAW:
    """Attach GPAW to ``atoms``."""
    counted = CountedGPAW(**options)
    atoms.calc = counted.calculator
    return counted


def silicon() -> Atoms:
    """Strained by 3 %, and one of the two atoms 0.1 Å out of place."""
    atoms = bulk("Si", a=1.03 * 5.43)
    atoms.positions[1] += [0.1, 0.0, 0.0]
    return atoms


def plain(atoms: Atoms) -> bool:
    return bool(BFGS(FrechetCellFilter(atoms), logfile=None, alpha=30).run(fmax=FMAX, steps=STEPS))


def with_jump(atoms: Atoms) -> bool:
    return DeepRelaxOptimizer(atoms, finish="bfgs", finish_kwargs={"alpha": 30}, logfile=None, device="cpu").run(
        fmax=FMAX, steps=STEPS
    )


def compare(make: Callable[[], Atoms], **options: Any) -> tuple[int, int]:
    """DFT calls without and with the jump, both of which must end in the same minimum."""
    ends, calls = [], []
    for relax in (plain, with_jump):
        atoms = make()
        counted = attach(atoms, **options)
        unrelaxed = atoms.get_potential_energy()
        assert relax(atoms)
        assert atoms.get_potential_energy() < unrelaxed
        gradient = FrechetCellFilter(atoms).get_forces()
        assert np.linalg.norm(gradient, axis=1).max() <= 1.1 * FMAX  # strained otherwise than in the relaxation
        ends.append(atoms)
        calls.append(counted.calls)
    without, jumped = ends
    assert jumped.info["deeprelax_status"] == "converged"
    energies = [atoms.get_potential_energy() / len(atoms) for atoms in ends]
    assert energies[1] == pytest.approx(energies[0], abs=5e-3)
    assert jumped.get_volume() == pytest.approx(without.get_volume(), rel=0.02)
    return calls[0], calls[1]


@pytest.mark.slow
def test_silicon():
    without, jumped = compare(silicon, ecut=250, mesh=3)
    assert jumped <= without


def test_the_jump_is_a_step_among_the_dft_steps():
    atoms = silicon()
    counted = attach(atoms, ecut=200, mesh=2)
    with DeepRelaxOptimizer(atoms, finish="bfgs", logfile=None, device="cpu") as optimizer:
        optimizer.run(fmax=FMAX, steps=1)
    assert optimizer.nsteps == 1
    assert counted.calls == 2  # where it started, and where it landed
    assert optimizer.prediction is not None
    assert atoms.info["deeprelax_model"] == optimizer.prediction.model


# Oxides: minutes


def magnesia() -> Atoms:
    """In the cell of MnO."""
    return bulk("MgO", "rocksalt", a=4.445)


def bromellite() -> Atoms:
    """BeO stretched by 5 and 3 %, with the height of the oxygen off by 0.1 Å."""
    return bulk("BeO", "wurtzite", a=1.05 * 2.698, c=1.03 * 4.377, u=0.40)


@pytest.mark.slow
@pytest.mark.parametrize("make", [magnesia, bromellite])
def test_oxides(make):
    without, jumped = compare(make, ecut=700, mesh=3)
    assert jumped <= without
