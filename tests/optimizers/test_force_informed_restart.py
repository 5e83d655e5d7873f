"""Restarts amid the further jumps: each is made once, and none after the finish has begun."""

from __future__ import annotations

import pytest
from ase import Atoms
from ase.io import read

from deeprelax_ase.optimizers import DeepRelaxOptimizer
from deeprelax_ase.optimizers.restart import read_record
from tests.optimizers.force_reader import ForceReader, M3GNetCalculator, bfgs, interpolated
from tests.optimizers.helpers import assert_at, geometry

FMAX = 1e-3


@pytest.fixture
def atoms(under_m3gnet) -> Atoms:
    return under_m3gnet


@pytest.fixture
def files(tmp_path):
    return {"restart": str(tmp_path / "relax.json"), "trajectory": str(tmp_path / "relax.traj")}


def relax(atoms: Atoms, force_reader: ForceReader, steps: int, files: dict, **kwargs) -> DeepRelaxOptimizer:
    atoms.calc = M3GNetCalculator()
    with bfgs(atoms, force_reader, **kwargs, **files) as optimizer:
        optimizer.run(fmax=FMAX, steps=steps)
    return optimizer


def go_on(force_reader: ForceReader, steps: int, files: dict, **kwargs) -> tuple[Atoms, DeepRelaxOptimizer]:
    atoms = read(files["trajectory"])
    return atoms, relax(atoms, force_reader, steps, files, append_trajectory=True, **kwargs)


@pytest.mark.parametrize("done", [1, 2, 3])
def test_a_restart_goes_on_with_what_is_left(atoms, force_reader, near, minimum, files, done: int):
    """After the jump, the first and the second of three force-informed steps."""
    relax(atoms, force_reader, done, files, force_informed_steps=3)
    assert read_record(files["restart"], atoms).force_informed_steps == done - 1
    further, optimizer = go_on(force_reader, 4 - done, files, force_informed_steps=3)
    assert_at(further, interpolated(near, minimum, 0.936), atol=1e-12)
    assert optimizer.prediction is None
    assert read_record(files["restart"], atoms).force_informed_steps == 3
    _, last = go_on(force_reader, 200, files, force_informed_steps=3)
    assert last.converged()
    assert len(force_reader.seen) == 3


def test_a_relaxation_restarted_in_the_finish_is_the_uninterrupted_one(make_atoms, force_reader, files):
    whole = make_atoms()
    whole.calc = M3GNetCalculator()
    bfgs(whole, force_reader, force_informed_steps=2).run(fmax=FMAX, steps=7)
    relax(make_atoms(), force_reader, 5, files, force_informed_steps=2)
    atoms, _ = go_on(force_reader, 2, files, force_informed_steps=2)
    assert_at(atoms, geometry(whole), atol=1e-9)
    assert len(force_reader.seen) == 4  # two in each


def test_a_restart_in_the_finish_makes_none(atoms, force_reader, files):
    relax(atoms, force_reader, 3, files, force_informed_steps=0)
    assert read_record(files["restart"], atoms).memory is not None
    _, optimizer = go_on(force_reader, 200, files, force_informed_steps=5)
    assert optimizer.converged()
    assert force_reader.seen == []


@pytest.mark.parametrize("shares", [(-0.5,), (0.6, -0.5)])
@pytest.mark.parametrize("steps", [0, 2])
def test_a_restart_after_one_was_rejected_makes_none(atoms, force_reader, files, shares, steps):
    force_reader.shares = shares
    relax(atoms, force_reader, 1 + len(shares) + steps, files, force_informed_steps=5)
    _, optimizer = go_on(force_reader, 200, files, force_informed_steps=5)
    assert optimizer.converged()
    assert len(force_reader.seen) == len(shares)
