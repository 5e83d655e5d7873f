"""What optimizers show of themselves, in a line and in notebooks."""

from __future__ import annotations

from html import unescape

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT

from deeprelax_ase import DeepRelaxOptimizer
from deeprelax_ase.uncertainty.calibration import CalibratedError
from tests.html_tables import Table
from tests.stand_in import StandInPredictor


class CountedEMT(EMT):
    """EMT that counts its calls."""

    calls = 0

    def calculate(self, *args, **kwargs):
        self.calls += 1
        super().calculate(*args, **kwargs)


def copper(*, rattle: float = 0.0) -> Atoms:
    atoms = bulk("Cu", "fcc", a=3.8, cubic=True)
    atoms.rattle(rattle, seed=1)
    return atoms


@pytest.fixture
def optimizer() -> DeepRelaxOptimizer:
    atoms = copper(rattle=0.05)
    atoms.calc = CountedEMT()
    return DeepRelaxOptimizer(atoms, predictor=StandInPredictor(), force_informed_steps=0, logfile=None)


def test_before_the_run(optimizer):
    assert repr(optimizer) == "<DeepRelaxOptimizer Cu4, 4 atoms: jump not made yet, steps 0, not run yet>"
    rows = Table(optimizer._repr_html_()).rows
    assert rows["jump"] == "not made yet"
    assert rows["finish"] == "FIRE"
    assert "energy" not in rows
    assert "model" not in rows
    assert optimizer.atoms.calc.calls == 0


def test_after_the_run(optimizer):
    assert optimizer.run(fmax=0.02, steps=200)
    calls = optimizer.atoms.calc.calls
    rows = Table(optimizer._repr_html_()).rows
    assert repr(optimizer).startswith(
        f"<DeepRelaxOptimizer Cu4, 4 atoms: jump kept, steps {optimizer.nsteps}, converged, energy "
    )
    assert optimizer.atoms.calc.calls == calls
    assert rows["status"] == "converged"
    assert rows["energy"] == f"{optimizer.atoms.get_potential_energy():.4f} eV"
    assert float(rows["fmax"].split()[0]) <= 0.02
    assert rows["jump"] == unescape(f"kept: {optimizer.decision.reason}")
    assert rows["model"] == "stand-in"
    assert rows["uncertainty"] == "0.040 Å"


def test_between_two_steps(optimizer):
    for _ in optimizer.irun(fmax=1e-6, steps=3):
        pass
    assert ", steps 3, not converged, energy" in repr(optimizer)


def test_a_rejected_jump():
    atoms = bulk("Cu", "fcc", a=3.6, cubic=True)  # the stand-in shrinks what is small enough already
    atoms.calc = EMT()
    optimizer = DeepRelaxOptimizer(atoms, predictor=StandInPredictor(), logfile=None)
    optimizer.run(fmax=0.02, steps=50)
    assert ": jump rejected, " in repr(optimizer)
    assert Table(optimizer._repr_html_()).rows["jump"].startswith("rejected: it raises the energy")


def test_atoms_that_moved_since_are_not_computed(optimizer):
    optimizer.run(fmax=0.02, steps=200)
    optimizer.atoms.rattle(0.1, seed=2)
    calls = optimizer.atoms.calc.calls
    assert "energy" not in repr(optimizer)
    assert "energy" not in Table(optimizer._repr_html_()).rows
    assert optimizer.atoms.calc.calls == calls


def test_without_a_calculator():
    optimizer = DeepRelaxOptimizer(copper(), predictor=StandInPredictor(), logfile=None)
    optimizer.run()
    assert repr(optimizer) == "<DeepRelaxOptimizer Cu4, 4 atoms: jump kept, steps 1, accepted>"


def test_calculators_that_cannot_tell_what_they_know(optimizer):
    class Broken(Calculator):
        implemented_properties = ("energy", "forces", "stress")

        def calculation_required(atoms, properties):
            raise RuntimeError("no")

    optimizer.atoms.calc = Broken()
    assert "energy" not in repr(optimizer)


def test_subclasses_go_by_their_name():
    class Mine(DeepRelaxOptimizer):
        pass

    optimizer = Mine(copper(), predictor=StandInPredictor(), finish=None, logfile=None)
    assert repr(optimizer).startswith("<Mine Cu4")
    table = Table(optimizer._repr_html_())
    assert table.cells[0] == "Mine"
    assert table.rows["finish"] == "none"


def test_reasons_with_markup_are_escaped():
    class Failing(EMT):
        def calculate(self, atoms, properties, changes):
            if atoms.get_volume() < 50.5:
                raise RuntimeError("<br>&broken")
            super().calculate(atoms, properties, changes)

    atoms = copper()
    atoms.calc = Failing()
    optimizer = DeepRelaxOptimizer(atoms, predictor=StandInPredictor(), logfile=None)
    optimizer.run(fmax=10.0, steps=1)
    for _ in optimizer.irun(fmax=1e-9, steps=1):
        pass
    assert "<br>" not in optimizer._repr_html_()
    assert "<br>&broken" in Table(optimizer._repr_html_()).rows["jump"]
    assert np.isfinite(atoms.get_potential_energy())


def test_expected_errors_stand_beside_the_prediction():
    error = CalibratedError(0.03, 0.08, 0.02, 0.05, ood=False)
    optimizer = DeepRelaxOptimizer(copper(), predictor=StandInPredictor(error=error), logfile=None)
    optimizer.run()
    rows = Table(optimizer._repr_html_()).rows
    assert rows["status"] == "accepted"
    assert rows["expected error, coordinates"] == "0.030 Å"
    assert rows["expected error, volume"] == "2.0%"
