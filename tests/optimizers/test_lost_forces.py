"""Forces that are no numbers end a relaxation where they last were, instead of carrying it off."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read
from ase.units import GPa

from deeprelax_ase import AllowedStrain
from deeprelax_ase.errors import CalculatorError
from tests.optimizers.helpers import CountingEMT, assert_at, quiet

LOST = {"forces": {"forces": np.full((4, 3), np.nan)}, "stress": {"stress": np.full(6, np.nan)}}


@pytest.mark.parametrize("lost", LOST)
@pytest.mark.parametrize("finish", ["fire", "fast"])
def test_the_last_finite_geometry_is_restored(make_atoms, predictor, tmp_path, lost, finish):
    atoms = make_atoms(calc=False)
    atoms.calc = CountingEMT(at=5, then=LOST[lost])
    message = r"not finite after step 4; the atoms are back .*smaller steps"
    with (
        quiet(atoms, predictor, finish=finish, trajectory=tmp_path / "relax.traj") as optimizer,
        pytest.raises(CalculatorError, match=message),
    ):
        optimizer.run(fmax=1e-6, steps=500)
    frames = read(tmp_path / "relax.traj", index=":")
    assert len(frames) == 4
    assert_at(atoms, frames[-1])
    assert atoms.calc.calls == 5
    assert atoms.info["deeprelax_status"] == "failed"
    assert atoms.info["deeprelax_reason"].startswith("the calculator's forces are not finite")


def test_it_goes_on_with_a_calculator_that_works(make_atoms, predictor):
    atoms = make_atoms(calc=False)
    atoms.calc = CountingEMT(at=4, then=LOST["forces"])
    optimizer = quiet(atoms, predictor)
    with pytest.raises(CalculatorError):
        optimizer.run(fmax=0.05)
    assert optimizer.run(fmax=0.05)
    assert atoms.info["deeprelax_status"] == "converged"


def test_a_kept_cell_needs_no_stress(make_atoms, predictor):
    atoms = make_atoms(calc=False)
    atoms.calc = CountingEMT(at=3, then=LOST["stress"])
    assert quiet(atoms, predictor, relax_cell=False).run(fmax=0.05)


def test_the_jump_may_leave_a_start_without_forces(make_atoms, predictor):
    atoms = make_atoms(calc=False)
    atoms.calc = CountingEMT(at=1, then=LOST["forces"])
    optimizer = quiet(atoms, predictor)
    assert optimizer.run(fmax=0.05)
    assert optimizer.decision.kept


def test_no_forces_anywhere(make_atoms, predictor):
    class Broken(CountingEMT):
        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            self.results["forces"] = np.full((4, 3), np.nan)

    atoms = make_atoms(calc=False)
    atoms.calc = Broken()
    with pytest.raises(CalculatorError, match="not finite after step 1"):
        quiet(atoms, predictor).run(fmax=0.05)
    assert_at(atoms, make_atoms(calc=False))
    assert atoms.calc.calls == 2


@pytest.mark.parametrize(("finish", "pressure"), [("fast", 1e6), ("BFGS", 1e6), ("FIRE", 1e6), ("fast", 1e9)])
def test_a_cell_that_collapses_is_not_computed(predictor, finish, pressure):
    """Neighbours without an end would take all memory, or for ever."""
    atoms = bulk("Cu", cubic=True)
    atoms.calc = EMT()
    press = AllowedStrain(pressure=pressure * GPa)
    with (
        quiet(atoms, predictor, relax_cell=press, finish=finish) as optimizer,
        pytest.raises(
            CalculatorError, match=r"the cell has collapsed in step \d+ under a pressure of 1e\+0\d GPa; the atoms"
        ),
    ):
        optimizer.run(steps=500)
    assert atoms.get_volume() > 2
    assert atoms.info["deeprelax_status"] == "failed"


@pytest.mark.parametrize("finish", ["fast", "BFGS", "FIRE"])
def test_a_cell_that_bursts_ends_it(predictor, finish):
    pulled = AllowedStrain(pressure=-100 * GPa)
    atoms = bulk("Cu", cubic=True)
    atoms.calc = EMT()
    with (
        quiet(atoms, predictor, relax_cell=pulled, finish=finish) as optimizer,
        pytest.raises(CalculatorError, match=r"the cell has burst in step \d+ under a pressure of -100 GPa; the atoms"),
    ):
        optimizer.run(steps=500)
