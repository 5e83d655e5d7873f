"""Atoms that nothing can be finished with: the jump is all."""

from __future__ import annotations

import io

import numpy as np
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import Trajectory

from deeprelax_ase.optimizers import DeepRelaxOptimizer
from tests.optimizers.helpers import quiet

FMAX = 0.05


def test_without_calculator_the_jump_is_all(make_atoms, predictor, near):
    atoms = make_atoms(calc=False)
    stream = io.StringIO()
    optimizer = DeepRelaxOptimizer(atoms, logfile=stream, predictor=predictor)
    assert optimizer.run(fmax=FMAX, steps=100) is True
    assert optimizer.nsteps == 1
    assert optimizer.converged()
    np.testing.assert_array_equal(atoms.positions, near.positions)
    np.testing.assert_array_equal(atoms.cell.array, near.cell)
    assert optimizer.decision.kept
    assert atoms.info["deeprelax_status"] == "accepted"
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("DeepRelaxOptimizer:    1 ")
    assert "jump of stand-in kept: no calculator to check it, no finish; uncertainty 0.020 Å" in line


def test_without_calculator_a_second_run_changes_nothing(make_atoms, predictor):
    atoms = make_atoms(calc=False)
    optimizer = quiet(atoms, predictor)
    optimizer.run()
    after = atoms.copy()
    assert optimizer.run() is True
    assert optimizer.nsteps == 1
    assert atoms == after
    assert len(predictor.asked) == 1


def test_without_calculator_no_steps_change_nothing(make_atoms, predictor):
    atoms = make_atoms(calc=False)
    assert quiet(atoms, predictor).run(steps=0) is False
    assert atoms == make_atoms(calc=False)
    assert atoms.info == {}


def test_without_calculator_irun_trajectory_and_observers(make_atoms, predictor, near, tmp_path):
    atoms = make_atoms(calc=False)
    path = tmp_path / "jump.traj"
    seen = []
    with quiet(atoms, predictor, trajectory=path) as optimizer:
        optimizer.attach(lambda: seen.append(optimizer.nsteps))
        assert list(optimizer.irun()) == [False, True]
    assert seen == [0, 1]
    with Trajectory(path) as frames:
        assert len(frames) == 2
        np.testing.assert_array_equal(frames[0].positions, make_atoms().positions)
        np.testing.assert_array_equal(frames[1].positions, near.positions)
        assert frames[1].info["deeprelax_status"] == "accepted"


def test_run_says_when_the_geometry_solver_failed(make_atoms, near, stand_in):
    stream = io.StringIO()
    predictor = stand_in(near, solver_converged=False)
    optimizer = DeepRelaxOptimizer(make_atoms(calc=False), logfile=stream, predictor=predictor, on_uncertain="skip")
    assert optimizer.run() is False
    assert "did not come to rest" in stream.getvalue()


def test_calculator_may_come_after_the_jump(make_atoms, predictor):
    atoms = make_atoms(calc=False)
    optimizer = quiet(atoms, predictor)
    optimizer.run()
    atoms.calc = EMT()
    assert optimizer.run(fmax=FMAX)
    assert optimizer.nsteps > 1
    assert len(predictor.asked) == 1
    assert atoms.info["deeprelax_status"] == "converged"


def test_stored_results_are_no_calculator(make_atoms, predictor, near, tmp_path):
    """Atoms read from a file carry results for their own geometry; nothing can be finished with these."""
    atoms = make_atoms()
    stored = SinglePointCalculator(atoms, energy=1.0, forces=np.ones((4, 3)), stress=np.ones(6))
    atoms.calc = stored
    path = tmp_path / "jump.traj"
    assert quiet(atoms, predictor, trajectory=path).run(fmax=FMAX)
    np.testing.assert_array_equal(atoms.positions, near.positions)
    assert atoms.info["deeprelax_status"] == "accepted"
    assert atoms.calc is stored
    with Trajectory(path) as frames:
        assert frames[0].get_potential_energy() == 1.0
        assert frames[1].calc.results == {}  # the stored energy is not passed off as that of the prediction
