"""What every ASE optimizer does, asked of ASE's own and of ours, with fixed and with moving cell."""

from __future__ import annotations

import io
import json
from functools import partial
from pathlib import Path

import ase
import numpy as np
import pytest
from ase.filters import FrechetCellFilter
from ase.io import Trajectory
from ase.optimize import BFGS, FIRE
from ase.optimize.optimize import Optimizer
from packaging.version import Version

from deeprelax_ase.optimizers import DeepRelaxOptimizer, DeepRelaxPositions

FMAX = 0.2
ase_version = Version(ase.__version__)


def is_converged(optimizer: Optimizer, forces: np.ndarray | None = None) -> bool:
    """What ``converged()`` and ``converged(forces)`` say; in ASE 3.26 and 3.27 its own want a flat gradient instead."""
    if isinstance(optimizer, DeepRelaxOptimizer) or not Version("3.26") <= ase_version < Version("3.28"):
        return optimizer.converged() if forces is None else optimizer.converged(forces)
    return optimizer.converged(optimizer.optimizable.get_gradient() if forces is None else -forces.ravel())


#: What is asked of ASE's own says that the tests ask for what ASE does.
THEIRS = [pytest.param(FIRE, marks=pytest.mark.slow), BFGS]


@pytest.fixture(params=[*THEIRS, DeepRelaxOptimizer, DeepRelaxPositions], ids=lambda cls: cls.__name__)
def make(request, predictor):
    if issubclass(request.param, DeepRelaxOptimizer):
        return partial(request.param, predictor=predictor)
    return request.param


@pytest.fixture(params=["bare", "filter"])
def start(request, make_atoms):
    """The atoms, and what is handed to the optimizer."""
    atoms = make_atoms()
    return atoms, (FrechetCellFilter(atoms) if request.param == "filter" else atoms)


def test_runs_with_its_defaults(make, start):
    atoms, target = start
    optimizer = make(target)
    assert isinstance(optimizer, Optimizer)
    assert optimizer.run()
    assert np.linalg.norm(atoms.get_forces(), axis=1).max() < 1.1 * FMAX
    if target is not atoms:
        assert np.abs(atoms.get_stress() * atoms.get_volume()).max() < 1.5 * FMAX * len(atoms)


def test_run_says_whether_it_converged(make, start):
    _, target = start
    optimizer = make(target, logfile=None)
    assert optimizer.run(fmax=FMAX, steps=2) is not True
    assert optimizer.nsteps == optimizer.get_number_of_steps() == 2
    assert not is_converged(optimizer)
    assert optimizer.run(fmax=FMAX, steps=500)
    assert is_converged(optimizer)
    assert 2 < optimizer.nsteps < 502


def test_converged_takes_forces(make, start):
    _, target = start
    optimizer = make(target, logfile=None)
    optimizer.run(fmax=FMAX, steps=0)
    assert is_converged(optimizer, np.full((4, 3), 0.9 * FMAX / np.sqrt(3)))
    assert not is_converged(optimizer, np.full((4, 3), 1.1 * FMAX / np.sqrt(3)))


def test_irun_yields_before_the_first_step_and_after_each(make, start):
    _, target = start
    optimizer = make(target, logfile=None)
    steps, flags = zip(*[(optimizer.nsteps, flag) for flag in optimizer.irun(fmax=FMAX, steps=500)], strict=True)
    assert steps == tuple(range(optimizer.nsteps + 1))
    assert flags[-1]
    assert not any(flags[:-1])


def test_no_steps_only_evaluates(make, start):
    atoms, target = start
    before = atoms.copy()
    optimizer = make(target, logfile=None)
    assert not optimizer.run(fmax=FMAX, steps=0)
    assert optimizer.nsteps == 0
    assert atoms == before
    assert atoms.calc.results["energy"] > 0


def test_converged_start_stays_where_it_is(make, start, minimum):
    atoms, target = start
    atoms.set_cell(minimum.cell)
    atoms.set_positions(minimum.positions)
    optimizer = make(target, logfile=None)
    assert optimizer.run(fmax=FMAX)
    assert optimizer.nsteps == 0
    np.testing.assert_array_equal(atoms.positions, minimum.positions)
    np.testing.assert_array_equal(atoms.cell.array, minimum.cell)


@pytest.mark.parametrize("kind", [str, pytest.param(Path, marks=pytest.mark.slow), Trajectory])
def test_trajectory_holds_every_step(make, start, tmp_path, kind):
    atoms, target = start
    path = tmp_path / "relax.traj"
    if kind is Path and ase_version < Version("3.26") and make in (FIRE, BFGS):
        pytest.skip("this ASE takes text, not paths; ours takes both")
    trajectory = Trajectory(path, "w", atoms) if kind is Trajectory else kind(path)
    before = atoms.copy()
    with make(target, logfile=None, trajectory=trajectory) as optimizer:
        optimizer.run(fmax=FMAX)
    if kind is Trajectory:
        trajectory.close()
    with Trajectory(path) as frames:
        assert len(frames) == optimizer.nsteps + 1
        np.testing.assert_array_equal(frames[0].positions, before.positions)
        np.testing.assert_array_equal(frames[-1].positions, atoms.positions)
        np.testing.assert_array_equal(frames[-1].cell.array, atoms.cell.array)
        energies = [frame.get_potential_energy() for frame in frames]
        assert energies[-1] == pytest.approx(atoms.get_potential_energy(), abs=1e-12)
        assert energies[-1] < energies[0]
        assert frames.description["optimizer"] == type(optimizer).__name__


@pytest.mark.parametrize("append", [False, True])
def test_append_trajectory(make, make_atoms, tmp_path, append):
    if ase_version < Version("3.24") and make is FIRE:
        pytest.skip("this ASE's FIRE does not pass the option on")
    path = str(tmp_path / "relax.traj")
    lengths = []
    for _ in range(2):
        optimizer = make(make_atoms(), logfile=None, trajectory=path, append_trajectory=append)
        optimizer.run(fmax=FMAX, steps=2)
        with Trajectory(path) as frames:
            lengths.append(len(frames))
    assert lengths == ([3, 5] if append else [3, 3])  # ASE writes no frame 0 into a trajectory that has frames


@pytest.mark.parametrize("kind", ["none", "terminal", "path", pytest.param("str", marks=pytest.mark.slow), "file"])
def test_log(make, start, tmp_path, capsys, kind):
    _, target = start
    path = tmp_path / "relax.log"
    stream = io.StringIO()
    logfile = {"none": None, "terminal": "-", "path": path, "str": str(path), "file": stream}[kind]
    with make(target, logfile=logfile) as optimizer:
        optimizer.run(fmax=FMAX)
    terminal = capsys.readouterr().out
    text = {"none": "", "terminal": terminal, "file": stream.getvalue()}.get(kind)
    lines = (path.read_text() if text is None else text).splitlines()
    jumps = [line for line in lines if "jump of" in line]  # which has a line of its own
    assert len(jumps) == (isinstance(optimizer, DeepRelaxOptimizer) and kind != "none")
    lines = [line for line in lines if line not in jumps]
    assert (terminal == "") == (kind != "terminal")
    if kind == "none":
        return
    assert lines[0].split() == ["Step", "Time", "Energy", "fmax"]
    rows = [line.split() for line in lines[1:]]
    assert [row[0] for row in rows] == [f"{type(optimizer).__name__}:"] * (optimizer.nsteps + 1)
    assert [int(row[1]) for row in rows] == list(range(optimizer.nsteps + 1))
    assert float(rows[-1][4]) < FMAX <= float(rows[-2][4])


def test_observers_are_called_at_their_interval(make, start):
    _, target = start
    optimizer = make(target, logfile=None)
    seen, every_second, once = [], [], []
    optimizer.attach(lambda: seen.append(optimizer.nsteps))
    optimizer.attach(lambda word: every_second.append((word, optimizer.nsteps)), interval=2, word="step")
    optimizer.insert_observer(lambda: once.append(optimizer.nsteps), interval=-1)
    optimizer.run(fmax=FMAX)
    assert seen == list(range(optimizer.nsteps + 1))
    assert every_second == [("step", n) for n in range(0, optimizer.nsteps + 1, 2)]
    assert once == [1]


def test_steps_by_hand(make, start):
    atoms, target = start
    optimizer = make(target, logfile=None)
    energies = []
    for _ in range(3):
        energies.append(atoms.get_potential_energy())
        optimizer.step()
    assert energies[0] > energies[1] > energies[2] > atoms.get_potential_energy()


def test_todict_is_plain_data(make, start):
    _, target = start
    optimizer = make(target, logfile=None)
    optimizer.run(fmax=FMAX, steps=1)
    description = json.loads(json.dumps(optimizer.todict()))
    assert description["type"] == "optimization"
    assert description["optimizer"] == type(optimizer).__name__
    assert description["fmax"] == FMAX
    assert description["max_steps"] == 1


def test_unknown_options_are_refused(make, make_atoms):
    with pytest.raises(TypeError, match="nonsense"):
        make(make_atoms(), nonsense=1)
