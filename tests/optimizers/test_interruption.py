"""Ctrl-C or a crash while the finish waits for forces: no step that was logged is lost, and a restart goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.io import read, write

from deeprelax_ase.optimizers.restart import read_record
from tests.optimizers.helpers import CountingEMT, assert_at, quiet

ROOT = Path(__file__).parents[2]
STEPS = 8

#: Dies at its call of that number: the frames of the calls before it have been written.
CALL = 6

SCRIPT = """
import signal, sys, time
from pathlib import Path
from ase.calculators.emt import EMT
from ase.io import read
from deeprelax_ase.optimizers import DeepRelaxOptimizer
from deeprelax_ase.crystal import Crystal
from tests.optimizers.conftest import StandIn

signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the shell that runs the tests ignores

class Slow(EMT):
    calls = 0

    def calculate(self, *args, **kwargs):
        self.calls += 1
        if self.calls == {call}:
            Path("waiting").touch()
            time.sleep(60)
        super().calculate(*args, **kwargs)

atoms = read("start.traj")
atoms.calc = Slow()
DeepRelaxOptimizer(
    atoms, predictor=StandIn(Crystal.from_atoms(read("predicted.traj"))), finish="bfgs",
    restart="relax.json", trajectory="relax.traj", logfile="relax.log",
).run(fmax=1e-9, steps={steps})
"""


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    return {"restart": tmp_path / "relax.json", "trajectory": tmp_path / "relax.traj"}


def uninterrupted(start: Atoms, predictor, path: Path, finish: str = "bfgs", **kwargs) -> list[Atoms]:
    """Frames of the whole relaxation."""
    start.calc = EMT()
    with quiet(start, predictor, finish=finish, trajectory=path, **kwargs) as optimizer:
        optimizer.run(fmax=1e-9, steps=STEPS)
    return read(path, index=":")


def assert_goes_on(files: dict[str, Path], predictor, whole: list[Atoms], finish: str = "bfgs", **kwargs) -> None:
    """From the last frame that there is, to frames that are those of the ``whole``."""
    atoms = read(files["trajectory"])
    done = len(read(files["trajectory"], index=":"))
    asked = len(predictor.asked)
    atoms.calc = EMT()
    with quiet(atoms, predictor, finish=finish, append_trajectory=True, **files, **kwargs) as optimizer:
        optimizer.run(fmax=1e-9, steps=len(whole) - done)
    frames = read(files["trajectory"], index=":")
    assert len(frames) == len(whole)
    for frame, expected in zip(frames, whole, strict=True):
        assert_at(frame, expected, atol=1e-9)
    assert len(predictor.asked) == asked


@pytest.mark.parametrize("end", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_process_that_is_ended(make_atoms, predictor, files, tmp_path, end):
    write(tmp_path / "start.traj", make_atoms(calc=False))
    write(tmp_path / "predicted.traj", predictor.relaxed.to_atoms())
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(call=CALL, steps=STEPS)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for _ in range(1200):
            if (tmp_path / "waiting").exists() or process.poll() is not None:
                break
            time.sleep(0.05)
        process.send_signal(end)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -end, error
    assert end is signal.SIGKILL or "KeyboardInterrupt" in error
    lines = [line.split() for line in (tmp_path / "relax.log").read_text().splitlines() if "jump of" not in line]
    frames = read(files["trajectory"], index=":")
    assert len(lines) - 1 == len(frames) == CALL - 1
    for (_, step, _, energy, _), frame in zip(lines[1:], frames, strict=True):
        assert frame.get_potential_energy() == pytest.approx(float(energy), abs=1e-6), step
    whole = uninterrupted(make_atoms(), predictor, tmp_path / "whole.traj")
    assert_goes_on(files, predictor, whole)


@pytest.mark.parametrize(
    ("finish", "relax_cell", "then"),
    [
        ("bfgs", False, KeyboardInterrupt()),
        ("bfgs", True, RuntimeError("node failure")),
        ("lbfgs", True, KeyboardInterrupt()),
        ("mdmin", False, KeyboardInterrupt()),
        ("fast", True, KeyboardInterrupt()),
    ],
)
def test_a_finish_that_is_interrupted(make_atoms, predictor, files, tmp_path, finish, relax_cell, then):
    """The memory in the restart file is that of the last frame: where the forces are known."""
    options = {"finish": finish, "relax_cell": relax_cell}
    whole = uninterrupted(make_atoms(), predictor, tmp_path / "whole.traj", **options)
    atoms = make_atoms(calc=False)
    atoms.calc = CountingEMT(at=CALL, then=then)
    with pytest.raises(type(then)), quiet(atoms, predictor, **options, **files) as optimizer:
        optimizer.run(fmax=1e-9, steps=STEPS)
    assert len(read(files["trajectory"], index=":")) == CALL - 1
    assert_goes_on(files, predictor, whole, **options)


@pytest.mark.parametrize("call", [3, 4, 6])
def test_after_a_jump_that_was_rejected(make_atoms, near, stand_in, files, tmp_path, call):
    """Whether its first steps were made or not, it is not tried again."""
    uphill = stand_in(near.with_geometry(1.1 * near.positions, 1.1 * near.cell))
    whole = uninterrupted(make_atoms(), uphill, tmp_path / "whole.traj")
    atoms = make_atoms(calc=False)
    atoms.calc = CountingEMT(at=call, then=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt), quiet(atoms, uphill, finish="bfgs", **files) as optimizer:
        optimizer.run(fmax=1e-9, steps=STEPS)
    assert read_record(files["restart"], atoms).decision.outcome == "rejected"
    assert_goes_on(files, uphill, whole)


def test_where_the_jump_ends_it_begins_anew(make_atoms, predictor, files, tmp_path):
    whole = uninterrupted(make_atoms(), predictor, tmp_path / "whole.traj")
    atoms = make_atoms(calc=False)
    atoms.calc = CountingEMT(at=2, then=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt), quiet(atoms, predictor, finish="bfgs", **files) as optimizer:
        optimizer.run(fmax=1e-9, steps=STEPS)
    assert not files["restart"].exists()
    again = read(files["trajectory"])
    again.calc = EMT()
    with quiet(again, predictor, finish="bfgs", **files) as optimizer:
        optimizer.run(fmax=1e-9, steps=STEPS)
    for frame, expected in zip(read(files["trajectory"], index=":"), whole, strict=True):
        assert_at(frame, expected, atol=1e-9)


def test_the_same_optimizer_goes_on_after_ctrl_c(make_atoms, predictor, tmp_path):
    """In a notebook: the step that was waiting for its forces is not lost."""
    whole = uninterrupted(make_atoms(), predictor, tmp_path / "whole.traj")
    atoms = make_atoms(calc=False)
    atoms.calc = CountingEMT(at=CALL, then=KeyboardInterrupt())
    optimizer = quiet(atoms, predictor, finish="bfgs")
    with pytest.raises(KeyboardInterrupt):
        optimizer.run(fmax=1e-9, steps=STEPS)
    optimizer.run(fmax=1e-9, steps=STEPS - optimizer.nsteps)
    np.testing.assert_allclose(atoms.positions, whole[-1].positions, rtol=0, atol=1e-9)
