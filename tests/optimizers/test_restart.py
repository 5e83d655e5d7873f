from __future__ import annotations

import json

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.io import read
from ase.optimize.optimize import RestartError

from deeprelax_ase.optimizers import DeepRelaxOptimizer
from deeprelax_ase.optimizers.restart import read_record


@pytest.fixture
def files(tmp_path):
    return {"restart": str(tmp_path / "relax.json"), "trajectory": str(tmp_path / "relax.traj")}


def relax(atoms: Atoms, predictor, steps: int, *, target=None, fmax=0.01, **kwargs) -> DeepRelaxOptimizer:
    if atoms.calc is None or not isinstance(atoms.calc, EMT):
        atoms.calc = EMT()
    optimizer = DeepRelaxOptimizer(target or atoms, logfile=None, predictor=predictor, **kwargs)
    optimizer.run(fmax=fmax, steps=steps)
    return optimizer


def last_frame(files) -> Atoms:
    return read(files["trajectory"])


@pytest.mark.parametrize("finish", ["bfgs", "mdmin", "lbfgs"])
@pytest.mark.parametrize("relax_cell", [True, False])
def test_restarted_relaxation_is_the_uninterrupted_one(make_atoms, predictor, files, finish, relax_cell):
    whole = make_atoms()
    options = {"finish": finish, "relax_cell": relax_cell, "fmax": 1e-9}
    relax(whole, predictor, 9, **options)
    relax(make_atoms(), predictor, 5, **options, **files)
    atoms = last_frame(files)
    second = relax(atoms, predictor, 4, append_trajectory=True, **options, **files)
    assert len(predictor.asked) == 2  # once for each of the two relaxations
    assert second.prediction is None
    np.testing.assert_allclose(atoms.positions, whole.positions, rtol=0, atol=1e-9)
    np.testing.assert_allclose(atoms.cell.array, whole.cell.array, rtol=0, atol=1e-9)
    assert len(read(files["trajectory"], index=":")) == 10
    assert atoms.info["deeprelax_model"] == "stand-in"
    assert atoms.info["deeprelax_status"] == "not converged"


def test_fire_restarts_with_its_velocities(make_atoms, predictor, files):
    relax(make_atoms(), predictor, 5, **files)
    memory = read_record(files["restart"], make_atoms()).memory
    optimizer = relax(last_frame(files), predictor, 0, append_trajectory=True, **files)
    velocities, dt = optimizer._finisher.vel, optimizer._finisher.dt
    np.testing.assert_array_equal(velocities, memory[0])
    assert np.abs(velocities).max() > 0
    assert dt == memory[1]


def test_interrupted_right_after_the_jump(make_atoms, predictor, files):
    relax(make_atoms(), predictor, 1, **files)
    atoms = last_frame(files)
    optimizer = relax(atoms, predictor, 200, append_trajectory=True, **files)
    assert optimizer.converged()
    assert len(predictor.asked) == 1


def test_from_the_unrelaxed_crystal_everything_begins_anew(make_atoms, predictor, files):
    """A script that is run twice with the same restart file starts from the same crystal: it must jump again."""
    relax(make_atoms(), predictor, 5, **files)
    atoms = make_atoms()
    atoms.positions += 1e-8  # the digits that a structure file loses
    optimizer = relax(atoms, predictor, 1, **files)
    assert len(predictor.asked) == 2
    assert optimizer.prediction is not None
    np.testing.assert_array_equal(atoms.positions, predictor.relaxed.positions)


def test_restart_without_calculator(make_atoms, predictor, files):
    first = make_atoms(calc=False)
    with DeepRelaxOptimizer(first, logfile=None, predictor=predictor, **files) as optimizer:
        optimizer.run()
    atoms = last_frame(files)
    again = DeepRelaxOptimizer(atoms, logfile=None, predictor=predictor, append_trajectory=True, **files)
    assert again.run() is True
    assert again.nsteps == 0
    assert len(predictor.asked) == 1
    assert atoms.info["deeprelax_status"] == "predicted"


@pytest.mark.parametrize("change", ["finish", "filter"])
def test_memory_in_other_coordinates_is_dropped(make_atoms, predictor, files, change):
    """Another optimizer, or a filter of the caller's that begins in another cell, cannot use what is remembered."""
    relax(make_atoms(), predictor, 4, finish="bfgs", **files)
    atoms = last_frame(files)
    atoms.calc = EMT()
    target = FrechetCellFilter(atoms) if change == "filter" else atoms
    finish = "lbfgs" if change == "finish" else "bfgs"
    optimizer = relax(atoms, predictor, 0, target=target, finish=finish, append_trajectory=True, **files)
    assert len(predictor.asked) == 1
    fresh = optimizer._finisher.pos0 if finish == "bfgs" else optimizer._finisher.r0
    assert fresh is None
    assert optimizer.run(fmax=0.01, steps=200)


def test_restart_file_is_plain_json_and_always_whole(make_atoms, predictor, files, tmp_path):
    relax(make_atoms(), predictor, 3, **files)
    with open(files["restart"]) as file:
        content = json.load(file)
    assert content["model"] == "stand-in"
    assert content["finish"] == "FIRE"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["relax.json", "relax.traj"]


@pytest.mark.parametrize("content", ["", "{", '{"vel": 1}', "[1, 2]", "null"])
def test_other_files_are_refused(make_atoms, predictor, files, content):
    with open(files["restart"], "w") as file:
        file.write(content)
    with pytest.raises(RestartError, match="Delete it"):
        DeepRelaxOptimizer(make_atoms(), predictor=predictor, **files)


def test_restart_file_of_another_crystal_is_refused(make_atoms, predictor, files):
    relax(make_atoms(), predictor, 2, **files)
    other = make_atoms()
    other.symbols[1] = "Ag"
    with pytest.raises(RestartError, match="another crystal"):
        DeepRelaxOptimizer(other, predictor=predictor, **files)


def test_nothing_is_written_without_restart(make_atoms, predictor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    relax(make_atoms(), predictor, 4)
    assert list(tmp_path.iterdir()) == []
