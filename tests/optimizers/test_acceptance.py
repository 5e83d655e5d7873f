"""Never worse: a jump that does not help is rejected, at the price of the one call that showed it."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.filters import Filter, FrechetCellFilter, StrainFilter, UnitCellFilter
from ase.io import read
from ase.optimize import BFGS, FIRE

from deeprelax_ase.optimizers import DeepRelaxOptimizer
from deeprelax_ase.optimizers.acceptance import EnergyForces, JumpCriteria
from tests.optimizers.helpers import CountingEMT, assert_at, quiet

FMAX = 0.05

#: What may go wrong at the second call, which is that of the place where the jump ends.
FAILURES = {
    "no energy": {"energy": np.nan, "free_energy": np.nan},
    "no forces": {"forces": np.full((4, 3), np.nan)},
    "infinite": {"energy": -np.inf, "free_energy": -np.inf},
    "crushed": {"energy": -1e6, "free_energy": -1e6, "forces": np.full((4, 3), 1e3)},
    "raises": RuntimeError("no self-consistency"),
}
REASONS = {
    "no energy": "not finite",
    "no forces": "not finite",
    "infinite": "not finite",
    "crushed": "forces too large",
    "raises": r"the calculator fails after it \(RuntimeError: no self-consistency\)",
    "uphill": r"raises the energy: energy \+\d",
}


@pytest.fixture
def uphill(near, stand_in):
    """Predicts a crystal whose atoms are 0.4 Å off and whose cell is 10 % too long."""
    rng = np.random.default_rng(5)
    return stand_in(near.with_geometry(1.1 * near.positions + 0.4 * rng.normal(size=(4, 3)), 1.1 * near.cell))


@pytest.fixture
def start(make_atoms) -> Atoms:
    return make_atoms(calc=False)


def itself(atoms: Atoms) -> Atoms:
    return atoms


@pytest.mark.parametrize("cls", [FIRE, BFGS])
@pytest.mark.parametrize(
    ("wrap", "kwargs", "plain_wrap"),
    [
        (itself, {}, FrechetCellFilter),
        (itself, {"relax_cell": False}, itself),
        (UnitCellFilter, {}, UnitCellFilter),
        (lambda atoms: Filter(atoms, indices=[1, 2]), {}, lambda atoms: Filter(atoms, indices=[1, 2])),
    ],
    ids=["cell", "positions", "UnitCellFilter", "Filter"],
)
def test_a_jump_rejected_costs_one_call_and_changes_nothing(start, uphill, tmp_path, cls, wrap, kwargs, plain_wrap):
    """All that the finish does is what it does from the start, but for EMT's rounding, which depends on its past."""
    steps = 8
    other = start.copy()
    other.calc = CountingEMT()
    with cls(plain_wrap(other), logfile=None, trajectory=str(tmp_path / "plain.traj")) as plain:
        plain.run(fmax=FMAX, steps=steps)
    start.calc = calculator = CountingEMT()
    with quiet(wrap(start), uphill, finish=cls, trajectory=tmp_path / "ours.traj", **kwargs) as optimizer:
        optimizer.run(fmax=FMAX, steps=steps + 1)
    assert optimizer.decision.outcome == "rejected"
    assert calculator.calls == other.calc.calls + 1
    assert start.calc is calculator
    expected = read(tmp_path / "plain.traj", index=":")
    frames = read(tmp_path / "ours.traj", index=":")
    for frame, there in zip(frames, [expected[0], *expected], strict=True):
        assert_at(frame, there, atol=1e-12)
        assert frame.get_potential_energy() == pytest.approx(there.get_potential_energy(), abs=1e-12)
        np.testing.assert_allclose(frame.get_forces(), there.get_forces(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("relax_cell", [True, False])
def test_failures_after_the_jump_are_overcome(start, predictor, failure, relax_cell):
    before = start.copy()
    start.calc = calculator = CountingEMT(at=2, then=FAILURES[failure])
    optimizer = quiet(start, predictor, relax_cell=relax_cell, finish="fast")
    assert not optimizer.run(fmax=FMAX, steps=1)
    assert_at(start, before)
    assert optimizer.decision.outcome == "rejected"
    assert not optimizer.decision.kept
    assert start.info["deeprelax_jump"] == "rejected"
    assert start.info["deeprelax_status"] == "not converged"
    assert calculator.calls == 2
    assert optimizer.run(fmax=FMAX)
    assert start.info["deeprelax_status"] == "converged"


def test_strain_filter_is_rejected_with_its_count(start, uphill):
    before = start.copy()
    start.calc = CountingEMT()
    target = StrainFilter(start)
    target.set_positions(np.array([[0.01, 0, 0], [0, 0, 0.02]]))
    strain, there = target.strain.copy(), start.copy()
    optimizer = quiet(target, uphill)
    optimizer.run(fmax=1e-6, steps=1)
    assert optimizer.decision.outcome == "rejected"
    assert_at(start, there)
    np.testing.assert_array_equal(target.strain, strain)
    target.set_positions(np.zeros((2, 3)))
    assert_at(start, before, atol=1e-12)


@pytest.mark.parametrize("failure", REASONS)
def test_the_reason_is_told(start, predictor, uphill, failure):
    start.calc = CountingEMT(at=2, then=FAILURES.get(failure))
    log = io.StringIO()
    optimizer = DeepRelaxOptimizer(start, logfile=log, predictor=uphill if failure == "uphill" else predictor)
    optimizer.run(fmax=FMAX, steps=2)
    assert re.search(REASONS[failure], optimizer.decision.reason)
    assert start.info["deeprelax_jump_reason"] == optimizer.decision.reason
    (line,) = [line for line in log.getvalue().splitlines() if "jump of" in line]
    assert line.startswith("DeepRelaxOptimizer:    1 ")
    assert f"jump of stand-in rejected: {optimizer.decision.reason}; uncertainty 0.020 Å" in line


def test_a_jump_that_is_kept_is_told_too(start, predictor):
    start.calc = CountingEMT()
    log = io.StringIO()
    optimizer = DeepRelaxOptimizer(start, logfile=log, predictor=predictor)
    assert optimizer.decision is None
    assert optimizer.run(fmax=FMAX)
    assert optimizer.decision.kept
    assert start.info["deeprelax_jump"] == "kept"
    assert "jump of stand-in kept: energy -0.1" in log.getvalue()
    assert start.calc.calls == optimizer.nsteps + 1


@pytest.mark.parametrize("then", [KeyboardInterrupt(), SystemExit(1)])
def test_interrupted_where_the_jump_ends_the_atoms_are_at_the_start(start, predictor, then, tmp_path):
    before = start.copy()
    start.calc = calculator = CountingEMT(at=2, then=then)
    optimizer = quiet(start, predictor, trajectory=tmp_path / "relax.traj")
    with pytest.raises(type(then)):
        optimizer.run(fmax=FMAX)
    assert_at(start, before)
    assert start.calc is calculator
    assert optimizer.decision is None
    assert len(read(tmp_path / "relax.traj", index=":")) == 1
    assert start.get_potential_energy() > 0
    assert optimizer.run(fmax=FMAX)
    assert optimizer.decision.kept


@pytest.mark.parametrize("good", [True, False])
@pytest.mark.parametrize("steps", [0, 1, 2, 500])
def test_the_calculator_is_the_callers_after_every_run(start, predictor, uphill, good, steps):
    start.calc = calculator = CountingEMT()
    optimizer = quiet(start, predictor if good else uphill, relax_cell=False)
    optimizer.run(fmax=FMAX, steps=steps)
    assert start.calc is calculator
    optimizer.run(fmax=FMAX, steps=2)
    assert start.calc is calculator


@pytest.mark.parametrize("finish", ["fire", None])
def test_the_calculator_is_the_callers_after_a_run_that_is_left(start, uphill, finish):
    start.calc = calculator = CountingEMT()
    run = quiet(start, uphill, finish=finish).irun(fmax=FMAX)
    next(run)
    next(run)
    run.close()
    assert start.calc is calculator


@pytest.mark.parametrize("at", [3, 4])
def test_the_calculator_is_the_callers_after_an_error_in_the_finish(start, uphill, at):
    start.calc = calculator = CountingEMT(at=at, then=RuntimeError("disk full"))
    with pytest.raises(RuntimeError, match="disk full"):
        quiet(start, uphill).run(fmax=FMAX)
    assert start.calc is calculator


def test_the_jump_alone_is_rejected_too(start, uphill):
    before = start.copy()
    start.calc = CountingEMT()
    assert not quiet(start, uphill, finish=None).run(fmax=FMAX)
    assert_at(start, before)
    assert start.calc.calls == 2


def test_a_start_that_cannot_be_computed_is_the_callers_affair(start, predictor):
    start.calc = CountingEMT(at=1, then=RuntimeError("no self-consistency"))
    with pytest.raises(RuntimeError, match="no self-consistency"):
        quiet(start, predictor).run(fmax=FMAX)
    assert predictor.asked == []


# Criteria


def rise(start: Atoms, crystal) -> float:
    """eV/atom, how much higher EMT finds ``crystal``."""
    energies = []
    for atoms in (start.copy(), crystal.to_atoms()):
        atoms.calc = EMT()
        energies.append(atoms.get_potential_energy())
    return (energies[1] - energies[0]) / 4


@pytest.mark.parametrize(("share", "outcome"), [(0.99, "rejected"), (1.01, "kept"), (np.inf, "kept")])
def test_the_energy_may_be_let_rise(start, uphill, share, outcome):
    limit = rise(start, uphill.relaxed)
    assert limit > 0.1
    start.calc = CountingEMT()
    optimizer = quiet(start, uphill, criteria=JumpCriteria(energy_rise=share * limit))
    optimizer.run(fmax=FMAX, steps=1)
    assert optimizer.decision.outcome == outcome


@pytest.mark.parametrize(
    ("before", "after", "outcome", "reason"),
    [
        (EnergyForces(1.0, 1.0), EnergyForces(1.0, 1.0), "kept", "+0.0000"),
        (EnergyForces(1.0, 1.0), EnergyForces(0.8, 5.0), "kept", "-0.1000 eV/atom, fmax 1.000 -> 5.000"),
        (EnergyForces(1.0, 1.0), EnergyForces(1.1, 0.0), "rejected", "raises the energy"),
        (EnergyForces(1.0, 1.0), EnergyForces(0.0, 51.0), "rejected", "too large"),
        (EnergyForces(1.0, 60.0), EnergyForces(0.0, 51.0), "kept", "60.000 -> 51.000"),
        (EnergyForces(1.0, 60.0), EnergyForces(0.0, 61.0), "rejected", "too large"),
        (EnergyForces(1.0, 1.0), EnergyForces(np.nan, 0.0), "rejected", "not finite"),
        (EnergyForces(1.0, 1.0), EnergyForces(-np.inf, 0.0), "rejected", "not finite"),
        (EnergyForces(1.0, 1.0), EnergyForces(0.0, np.inf), "rejected", "not finite"),
    ],
)
def test_what_the_criteria_say(before, after, outcome, reason):
    decision = JumpCriteria().judge(before, after, 2)
    assert decision.outcome == outcome
    assert reason in decision.reason


@pytest.mark.parametrize("limit", [{"energy_rise": -0.1}, {"energy_rise": np.nan}, {"fmax": 0}, {"fmax": np.nan}])
def test_criteria_that_make_no_sense_are_refused(limit):
    with pytest.raises(ValueError, match="energy_rise >= 0 and fmax > 0"):
        JumpCriteria(**limit)
