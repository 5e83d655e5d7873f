from __future__ import annotations

import json

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter, UnitCellFilter
from ase.io import read
from ase.optimize import BFGS, FIRE, LBFGS
from ase.optimize.optimize import RestartError

from deeprelax_ase.optimizers import DeepRelaxOptimizer
from deeprelax_ase.uncertainty.calibration import CalibratedError
from tests.optimizers.helpers import assert_at, quiet, watched


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


@pytest.mark.parametrize(
    "finish", ["bfgs", *(pytest.param(f, marks=pytest.mark.slow) for f in ("mdmin", "lbfgs")), "fast"]
)
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
    finish, made = watched(FIRE)
    relax(make_atoms(), predictor, 5, finish=finish, **files)
    relax(last_frame(files), predictor, 0, finish=finish, append_trajectory=True, **files)
    first, second = (fire.vel if hasattr(fire, "vel") else fire.v for fire in made)  # v before ASE 3.27
    np.testing.assert_array_equal(first, second)
    assert np.abs(second).max() > 0
    assert made[0].dt == made[1].dt


def test_interrupted_right_after_the_jump(make_atoms, predictor, files):
    relax(make_atoms(), predictor, 1, **files)
    atoms = last_frame(files)
    optimizer = relax(atoms, predictor, 200, finish="bfgs", fmax=0.05, append_trajectory=True, **files)
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


def test_a_jump_that_was_rejected_is_not_repeated(make_atoms, near, stand_in, files):
    uphill = stand_in(near.with_geometry(1.1 * near.positions, 1.1 * near.cell))
    first = relax(make_atoms(), uphill, 1, **files)
    assert first.decision.outcome == "rejected"
    atoms = last_frame(files)
    assert_at(atoms, make_atoms())
    second = relax(atoms, uphill, 3, append_trajectory=True, **files)
    assert second.decision == first.decision
    assert len(uphill.asked) == 1
    assert atoms.info["deeprelax_jump"] == "rejected"
    assert len(read(files["trajectory"], index=":")) == 5


def test_a_skipped_jump_is_not_repeated(make_atoms, near, stand_in, files):
    error = CalibratedError(coordinates=0.3, coordinates_bound=0.6, volume=0.1, volume_bound=0.2, ood=True)
    predictor = stand_in(near, error=error)
    with quiet(make_atoms(calc=False), predictor, on_uncertain="skip", **files) as optimizer:
        assert optimizer.run() is False
    atoms = last_frame(files)
    again = quiet(atoms, predictor, on_uncertain="skip", append_trajectory=True, **files)
    assert again.run() is False
    assert len(predictor.asked) == 1
    assert (again.decision, again.judgement) == (optimizer.decision, optimizer.judgement)
    assert atoms.info["deeprelax_status"] == "uncertain"


def test_constraints_and_filters_go_on(make_atoms, predictor, files):
    """With a filter that begins in the unrelaxed cell, as the first one did."""
    start = make_atoms()

    def part(atoms: Atoms, steps: int, **kwargs) -> DeepRelaxOptimizer:
        target = FrechetCellFilter(start.copy(), mask=[1, 1, 0, 0, 0, 0])
        target.atoms.set_constraint(FixAtoms([1]))
        target.atoms.calc = EMT()
        target.atoms.set_cell(atoms.cell)
        target.atoms.set_positions(atoms.positions, apply_constraint=False)
        with quiet(target, predictor, finish="bfgs", **kwargs) as optimizer:
            optimizer.run(fmax=1e-9, steps=steps)
        return target.atoms

    whole = part(start, 7)
    part(start, 4, **files)
    asked = len(predictor.asked)
    rest = part(last_frame(files), 3, append_trajectory=True, **files)
    assert_at(rest, whole, atol=1e-9)
    assert len(predictor.asked) == asked


def test_restart_without_calculator(make_atoms, predictor, files):
    first = make_atoms(calc=False)
    with DeepRelaxOptimizer(first, logfile=None, predictor=predictor, **files) as optimizer:
        optimizer.run()
    atoms = last_frame(files)
    again = DeepRelaxOptimizer(atoms, logfile=None, predictor=predictor, append_trajectory=True, **files)
    assert again.run() is True
    assert again.nsteps == 0
    assert len(predictor.asked) == 1
    assert atoms.info["deeprelax_status"] == "accepted"


@pytest.mark.parametrize("change", ["finish", "filter"])
def test_memory_in_other_coordinates_is_dropped(make_atoms, predictor, files, change):
    """Another optimizer, or a filter of the caller's that began in another cell, cannot use what is remembered."""
    relax(make_atoms(), predictor, 4, finish="bfgs", **files)
    atoms = last_frame(files)
    atoms.calc = EMT()
    target = atoms
    if change == "filter":
        target = FrechetCellFilter(atoms)
        target.orig_cell = 1.01 * atoms.cell.array
    finish, made = watched(LBFGS if change == "finish" else BFGS)
    optimizer = relax(atoms, predictor, 0, target=target, finish=finish, append_trajectory=True, **files)
    assert len(predictor.asked) == 1
    assert (made[0].r0 if change == "finish" else made[0].pos0) is None
    assert optimizer.run(fmax=0.05, steps=200)


@pytest.mark.parametrize("make_filter", [FrechetCellFilter, UnitCellFilter])
def test_a_filter_around_the_last_frame_goes_on(make_atoms, predictor, files, make_filter):
    """As libraries restart that make their own filter: it measures its strain from the first cell again."""
    options = {"finish": "bfgs", "fmax": 1e-9}
    whole = make_atoms()
    relax(whole, predictor, 7, target=make_filter(whole), **options)
    first = make_atoms()
    relax(first, predictor, 4, target=make_filter(first), **options, **files)
    atoms = last_frame(files)
    relax(atoms, predictor, 3, target=make_filter(atoms), append_trajectory=True, **options, **files)
    assert_at(atoms, whole, atol=1e-9)


def test_restart_file_is_plain_json_and_always_whole(make_atoms, predictor, files, tmp_path):
    relax(make_atoms(), predictor, 3, **files)
    with open(files["restart"]) as file:
        content = json.load(file)
    assert content["model"] == "stand-in"
    assert content["memory"][0] == "FIRE"
    assert content["decision"][0] == "kept"
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
