"""Further jumps with the forces known, by a stand-in that knows the way to the minimum and is told how far to go."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.filters import Filter, FrechetCellFilter
from ase.io import Trajectory, read

from deeprelax_ase.errors import IsolatedAtomError, ModelError
from deeprelax_ase.models.registry import DEFAULT_MODEL
from deeprelax_ase.optimizers import DeepRelaxOptimizer, DeepRelaxPositions
from deeprelax_ase.prediction.status import ERROR_KEYS
from deeprelax_ase.uncertainty.calibration import CalibratedError
from tests.optimizers.force_reader import ForceReader, M3GNetCalculator, bfgs, interpolated
from tests.optimizers.helpers import assert_at, carried, deformation, geometry, quiet

FMAX = 1e-3


@pytest.fixture
def atoms(under_m3gnet) -> Atoms:
    return under_m3gnet


# The jumps themselves


def test_they_know_the_forces_where_they_start(atoms, force_reader, near, minimum):
    optimizer = bfgs(atoms, force_reader, force_informed_steps=2)
    geometries, energies = [], []
    for _ in range(3):
        optimizer.run(fmax=FMAX, steps=1)
        geometries.append(geometry(atoms))
        energies.append(atoms.get_potential_energy())
    assert energies[0] > energies[1] > energies[2]
    assert_at(near.to_atoms(), geometries[0])
    for share, place in ((0.6, geometries[1]), (0.84, geometries[2])):
        for actual, expected in zip(place, interpolated(near, minimum, share), strict=True):
            np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)
    for (forces, stress, start), place in zip(force_reader.seen, geometries, strict=False):
        there = start.to_atoms()
        assert_at(there, place)
        there.calc = EMT()
        np.testing.assert_allclose(forces, there.get_forces(), rtol=0, atol=1e-12)
        np.testing.assert_allclose(stress, there.get_stress(voigt=False), rtol=0, atol=1e-12)
        assert np.abs(forces).max() > 1e-3
        assert stress.shape == (3, 3)


@pytest.mark.parametrize("shares", [(-0.5,), (0.6, -0.5)], ids=["the first", "the second"])
def test_one_that_raises_the_energy_is_rejected_and_no_other_follows(atoms, force_reader, near, minimum, shares):
    force_reader.shares = shares
    optimizer = bfgs(atoms, force_reader, force_informed_steps=5)
    optimizer.run(fmax=FMAX, steps=1 + len(shares))
    assert_at(atoms, interpolated(near, minimum, 0.6) if len(shares) > 1 else geometry(near), atol=1e-12)
    calls = atoms.calc.calls
    assert calls == optimizer.nsteps + 1  # the one that was rejected among them
    assert optimizer.run(fmax=FMAX)
    assert len(force_reader.seen) == len(shares)
    assert optimizer.decision.kept  # the jump itself is


@pytest.mark.parametrize("end", [{"energy": np.nan, "free_energy": np.nan}, RuntimeError("no self-consistency")])
def test_one_that_leads_to_no_energy_is_rejected(atoms, force_reader, near, end):
    atoms.calc = M3GNetCalculator(at=3, then=end)
    optimizer = bfgs(atoms, force_reader, force_informed_steps=2)
    optimizer.run(fmax=FMAX, steps=2)
    assert_at(atoms, geometry(near))
    assert optimizer.run(fmax=FMAX)
    assert len(force_reader.seen) == 1


def test_one_that_is_interrupted_leaves_the_atoms_where_the_log_ends(atoms, force_reader, near):
    atoms.calc = calculator = M3GNetCalculator(at=3, then=KeyboardInterrupt())
    optimizer = bfgs(atoms, force_reader, force_informed_steps=2)
    with pytest.raises(KeyboardInterrupt):
        optimizer.run(fmax=FMAX)
    assert_at(atoms, geometry(near))
    assert atoms.calc is calculator
    assert optimizer.run(fmax=FMAX)
    assert len(force_reader.seen) == 3  # the interrupted one, and two


def test_one_that_changes_nothing_is_kept(atoms, force_reader):
    force_reader.shares = (0.0, 0.5)
    assert bfgs(atoms, force_reader, force_informed_steps=2).run(fmax=FMAX)
    assert len(force_reader.seen) == 2


def test_where_the_network_cannot_follow_the_finish_goes_on(atoms, force_reader, near, monkeypatch):
    def refuse(*_, **__):
        raise IsolatedAtomError("too far apart")

    monkeypatch.setattr(force_reader, "predict_with_forces", refuse)
    plain, plainly = atoms.copy(), replace(force_reader)
    plain.calc = M3GNetCalculator()
    bfgs(plain, plainly, force_informed_steps=0).run(fmax=FMAX, steps=5)
    optimizer = bfgs(atoms, force_reader, force_informed_steps=2)
    optimizer.run(fmax=FMAX, steps=5)
    assert_at(atoms, geometry(plain), atol=1e-12)
    assert atoms.calc.calls == plain.calc.calls == 6


def test_filters_restrict_them(atoms, force_reader):
    before = atoms.copy()
    target = FrechetCellFilter(atoms, mask=[1, 1, 0, 0, 0, 0])
    bfgs(target, force_reader, force_informed_steps=2).run(fmax=FMAX, steps=3)
    assert len(force_reader.seen) == 2
    change = deformation(before, atoms)
    np.testing.assert_allclose(change, np.diag([change[0, 0], change[1, 1], 1]), rtol=0, atol=1e-12)


def test_constraints_restrict_them(atoms, force_reader):
    before = atoms.copy()
    atoms.set_constraint(FixAtoms([1]))
    bfgs(atoms, force_reader, force_informed_steps=2).run(fmax=FMAX, steps=3)
    assert len(force_reader.seen) == 2
    np.testing.assert_allclose(atoms.positions[1], carried(before, atoms)[1], rtol=0, atol=1e-12)


# In the optimizer


def test_they_follow_the_jump(atoms, force_reader, near, minimum, tmp_path):
    path = tmp_path / "relax.traj"
    with bfgs(atoms, force_reader, force_informed_steps=2, trajectory=path) as optimizer:
        assert not optimizer.run(fmax=FMAX, steps=3)
    with Trajectory(path) as frames:
        assert len(frames) == 4
        assert_at(frames[1], geometry(near))
        for frame, share in ((frames[2], 0.6), (frames[3], 0.84)):
            assert_at(frame, interpolated(near, minimum, share), atol=1e-12)
        status = [frame.info.get("deeprelax_status") for frame in frames]
        assert status == [None, "accepted", "not converged", "not converged"]
    assert len(force_reader.seen) == 2
    np.testing.assert_array_equal(optimizer.prediction.relaxed.positions, near.positions)  # the jump's own


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_there_are_at_most_so_many(atoms, force_reader, count: int):
    optimizer = bfgs(atoms, force_reader, force_informed_steps=count)
    assert optimizer.run(fmax=FMAX)
    assert len(force_reader.seen) == count
    assert optimizer.nsteps > count + 1
    assert atoms.calc.calls == optimizer.nsteps + 1  # no energy is computed twice


def test_they_save_steps(make_atoms, force_reader):
    steps = []
    for count in (0, 2):
        optimizer = bfgs(make_atoms(), force_reader, force_informed_steps=count)
        assert optimizer.run(fmax=0.02)
        steps.append(optimizer.nsteps)
    assert steps[1] < steps[0]


def test_the_finish_goes_on_from_where_one_was_rejected(make_atoms, force_reader, near, tmp_path):
    """As if there had been none: the finish has seen nothing of it."""
    force_reader.shares = (-0.5, 0.6)
    path, ways = tmp_path / "relax.traj", []
    for count in (0, 3):
        atoms = make_atoms()
        with bfgs(atoms, force_reader, force_informed_steps=count, trajectory=path) as optimizer:
            optimizer.run(fmax=FMAX, steps=5 if count else 4)
        ways.append(read(path, index=":"))
    plain, informed = ways
    assert len(force_reader.seen) == 1
    assert_at(informed[1], geometry(near))
    assert_at(informed[2], geometry(near))
    assert informed[2].get_potential_energy() == informed[1].get_potential_energy()
    for k in range(1, 5):
        assert_at(informed[k + 1], geometry(plain[k]), atol=1e-12)


@pytest.mark.parametrize("wrap", [lambda atoms: atoms, FrechetCellFilter], ids=["bare", "filter"])
def test_bare_atoms_and_cell_filters_take_them(atoms, force_reader, near, minimum, wrap):
    assert bfgs(wrap(atoms), force_reader, force_informed_steps=1).run(fmax=FMAX, steps=2) is False
    assert_at(atoms, interpolated(near, minimum, 0.6), atol=1e-12)


def test_a_second_run_goes_on_with_them(atoms, force_reader, near, minimum):
    optimizer = bfgs(atoms, force_reader, force_informed_steps=3)
    for steps, share in ((2, 0.6), (1, 0.84), (1, 0.936)):
        optimizer.run(fmax=FMAX, steps=steps)
        assert_at(atoms, interpolated(near, minimum, share), atol=1e-12)
    assert optimizer.run(fmax=FMAX)
    assert len(force_reader.seen) == 3


@pytest.mark.parametrize("shares", [(1.0,), (0.6, 1.0)])
def test_none_follows_once_converged(atoms, force_reader, minimum, shares):
    force_reader.shares = shares
    optimizer = bfgs(atoms, force_reader, force_informed_steps=5)
    assert optimizer.run(fmax=FMAX)
    assert optimizer.nsteps == 1 + len(shares)
    assert len(force_reader.seen) == len(shares)
    assert_at(atoms, geometry(minimum), atol=1e-12)
    assert atoms.info["deeprelax_status"] == "converged"


def test_none_follows_a_jump_into_the_minimum(atoms, stand_in, minimum):
    force_reader = ForceReader(stand_in(minimum), minimum)
    assert bfgs(atoms, force_reader, force_informed_steps=5).run(fmax=FMAX)
    assert force_reader.seen == []


def test_calibrated_errors_leave_with_the_first_of_them(atoms, force_reader, stand_in, near):
    error = CalibratedError(0.01, 0.02, 0.01, 0.02, ood=False, novelty=0.4, odds_worse=0.02)
    force_reader.jump = stand_in(near, error=error)
    optimizer = bfgs(atoms, force_reader, force_informed_steps=1)
    optimizer.run(fmax=FMAX, steps=1)
    assert set(ERROR_KEYS) <= set(atoms.info)
    optimizer.run(fmax=FMAX, steps=1)
    assert len(force_reader.seen) == 1
    assert not set(ERROR_KEYS) & set(atoms.info)
    assert atoms.info["deeprelax_status"] == "not converged"


# Where there are none


@pytest.mark.parametrize(
    ("make", "kwargs"),
    [
        (lambda atoms: atoms, {"relax_cell": False}),
        (lambda atoms: Filter(atoms, indices=range(4)), {}),
        (lambda atoms: atoms, {"cls": DeepRelaxPositions}),
    ],
    ids=["relax_cell=False", "Filter", "DeepRelaxPositions"],
)
def test_they_need_a_cell_that_may_move(atoms, force_reader, make, kwargs):
    with pytest.raises(
        ValueError, match=r"force_informed_steps=2 need a crystal whose cell may move.* together, and a finish"
    ):
        bfgs(make(atoms), force_reader, force_informed_steps=2, **kwargs)
    for count in (None, 0):
        quiet(make(atoms), force_reader, force_informed_steps=count, finish="fire", **kwargs).run(fmax=FMAX, steps=4)
    assert force_reader.seen == []


def test_they_need_a_finish_that_takes_over(atoms, force_reader):
    with pytest.raises(ValueError, match=r"force_informed_steps=1 need .* a finish"):
        DeepRelaxOptimizer(atoms, logfile=None, predictor=force_reader, force_informed_steps=1, finish=None)


@pytest.mark.parametrize("count", [-1, 1.5])
def test_so_many_there_cannot_be(atoms, force_reader, count):
    with pytest.raises(ValueError, match="must be a whole number"):
        bfgs(atoms, force_reader, force_informed_steps=count)


def test_a_model_that_cannot_read_forces_is_refused_before_the_jump(atoms, force_reader, near):
    force_reader.reads_forces = False
    with pytest.raises(ModelError, match="leave force_informed_steps=2 out"):
        bfgs(atoms, force_reader, force_informed_steps=2).run(fmax=FMAX)
    assert force_reader.seen == []


@pytest.mark.parametrize(
    ("finish", "count"), [("fire", 2), ("FIRE2", 2), ("mdmin", 2), ("bfgs", 0), ("lbfgs", 0), ("fast", 0)]
)
def test_by_default_they_help_finishes_that_learn_no_curvature(atoms, force_reader, finish, count):
    optimizer = quiet(atoms, force_reader, finish=finish)
    optimizer.run(fmax=FMAX, steps=4)
    assert len(force_reader.seen) == count


@pytest.mark.parametrize(
    "changes",
    [{"reads_forces": False}, {"model_name": DEFAULT_MODEL}, {"model_name": "my own"}],
    ids=["not learnt", "another level", "a model of the caller's"],
)
def test_by_default_there_are_none_of_a_model_that_cannot_read_the_forces(atoms, force_reader, changes):
    quiet(atoms, replace(force_reader, **changes), finish="fire").run(fmax=FMAX, steps=4)
    assert force_reader.seen == []


def test_by_default_there_are_none_under_another_calculator(make_atoms, force_reader):
    quiet(make_atoms(), force_reader, finish="fire").run(fmax=FMAX, steps=4)
    assert force_reader.seen == []
    quiet(make_atoms(), force_reader, finish="fire", force_informed_steps=1).run(fmax=FMAX, steps=4)  # unless asked for
    assert len(force_reader.seen) == 1


def test_without_a_calculator_there_are_none(make_atoms, force_reader, near):
    atoms = make_atoms(calc=False)
    assert bfgs(atoms, force_reader, force_informed_steps=2).run(fmax=FMAX)
    assert_at(atoms, geometry(near))
    assert force_reader.seen == []
