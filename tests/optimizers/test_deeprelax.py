from __future__ import annotations

import io
from typing import ClassVar

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.io import Trajectory
from ase.optimize import FIRE

from deeprelax_ase.errors import (
    CalculatorError,
    ConstraintError,
    DisorderedStructureError,
    EmptyStructureError,
    MissingCellError,
    NonFiniteError,
    PartialPeriodicityError,
    SingularCellError,
)
from deeprelax_ase.optimizers import DeepRelaxOptimizer, DeepRelaxPositions

FMAX = 0.05


class CountingEMT(EMT):
    calls = 0

    def calculate(self, *args, **kwargs):
        self.calls += 1
        super().calculate(*args, **kwargs)


def quiet(atoms, predictor, cls=DeepRelaxOptimizer, **kwargs):
    return cls(atoms, logfile=None, predictor=predictor, **kwargs)


# The jump and the finish


def test_a_good_jump_saves_steps(make_atoms, predictor):
    plain = FIRE(FrechetCellFilter(make_atoms()), logfile=None)
    assert plain.run(fmax=FMAX)
    optimizer = quiet(make_atoms(), predictor)
    assert optimizer.run(fmax=FMAX)
    assert optimizer.nsteps < plain.nsteps / 2


def test_first_step_is_the_jump(make_atoms, predictor, near):
    atoms = make_atoms()
    optimizer = quiet(atoms, predictor)
    assert optimizer.prediction is None
    assert not optimizer.run(fmax=FMAX, steps=1)
    np.testing.assert_array_equal(atoms.positions, near.positions)
    np.testing.assert_array_equal(atoms.cell.array, near.cell)
    assert optimizer.prediction.relaxed is near
    assert optimizer.prediction.timings == {"network": 0.1}
    np.testing.assert_array_equal(optimizer.prediction.initial.positions, make_atoms().positions)


def test_finish_ends_in_the_minimum_of_the_calculator(make_atoms, predictor, minimum):
    atoms = make_atoms()
    assert quiet(atoms, predictor, finish="bfgs").run(fmax=1e-5)
    assert atoms.get_volume() == pytest.approx(minimum.volume, rel=1e-6)
    lowest = minimum.to_atoms()
    lowest.calc = EMT()
    assert atoms.get_potential_energy() == pytest.approx(lowest.get_potential_energy(), abs=1e-8)


def test_finish_is_the_plain_optimizer_from_the_prediction(make_atoms, predictor, near):
    atoms = make_atoms()
    target = FrechetCellFilter(atoms)
    quiet(target, predictor).run(fmax=FMAX, steps=4)

    other = make_atoms()
    followed = FrechetCellFilter(other)  # it measures its deformation from the unrelaxed cell
    other.set_cell(near.cell)
    other.set_positions(near.positions)
    FIRE(followed, logfile=None).run(fmax=FMAX, steps=3)
    np.testing.assert_allclose(atoms.positions, other.positions, rtol=0, atol=1e-12)
    np.testing.assert_allclose(atoms.cell.array, other.cell.array, rtol=0, atol=1e-12)


def test_cell_filter_follows_a_cell_set_from_outside(make_atoms, near):
    """The jump writes to the atoms beneath the filter; the filter must then see these and give the true gradient."""
    atoms = make_atoms()
    optimizable = FrechetCellFilter(atoms).__ase_optimizable__()
    atoms.set_cell(near.cell)
    atoms.set_positions(near.positions)
    x, gradient = optimizable.get_x(), optimizable.get_gradient()
    direction = np.random.default_rng(0).normal(size=x.shape)
    energies = []
    for shift in (1e-4, -1e-4):
        optimizable.set_x(x + shift * direction)
        energies.append(optimizable.get_value())
    assert (energies[0] - energies[1]) / 2e-4 == pytest.approx(gradient @ direction, rel=1e-5)
    optimizable.set_x(x)
    np.testing.assert_allclose(atoms.cell.array, near.cell, rtol=0, atol=1e-12)
    np.testing.assert_allclose(atoms.positions, near.positions, rtol=0, atol=1e-12)


def test_bare_atoms_and_cell_filter_are_the_same(make_atoms, predictor):
    bare, filtered = make_atoms(), make_atoms()
    quiet(bare, predictor).run(fmax=FMAX)
    quiet(FrechetCellFilter(filtered), predictor).run(fmax=FMAX)
    np.testing.assert_array_equal(bare.positions, filtered.positions)
    np.testing.assert_array_equal(bare.cell.array, filtered.cell.array)


def test_convergence_includes_the_cell(make_atoms, predictor, minimum):
    """At ideal sites in a swollen cell no atom feels a force, but the cell does."""
    atoms = make_atoms()
    atoms.set_cell(1.03 * minimum.cell)
    atoms.set_positions(minimum.scaled_positions @ atoms.cell.array)
    assert np.abs(atoms.get_forces()).max() < 1e-10
    assert not quiet(atoms, predictor).run(fmax=FMAX, steps=0)
    assert quiet(atoms, predictor, relax_cell=False).run(fmax=FMAX, steps=0)
    assert quiet(atoms, predictor).run(fmax=FMAX)
    assert np.abs(atoms.get_stress()).max() * atoms.get_volume() < FMAX * len(atoms) * 1.01


def test_second_run_goes_on_without_a_jump(make_atoms, predictor):
    atoms, whole = make_atoms(), make_atoms()
    optimizer = quiet(atoms, predictor)
    optimizer.run(fmax=FMAX, steps=3)
    assert not optimizer.run(fmax=FMAX, steps=1)
    assert optimizer.nsteps == 4
    assert optimizer.run(fmax=FMAX)
    assert len(predictor.asked) == 1
    quiet(whole, predictor).run(fmax=FMAX)
    np.testing.assert_allclose(atoms.positions, whole.positions, rtol=0, atol=1e-12)


def test_converged_start_makes_no_jump(make_atoms, predictor, minimum):
    atoms = make_atoms()
    atoms.set_cell(minimum.cell)
    atoms.set_positions(minimum.positions)
    optimizer = quiet(atoms, predictor)
    assert optimizer.run(fmax=FMAX)
    assert predictor.asked == []
    assert optimizer.prediction is None
    assert atoms.info == {"deeprelax_status": "converged"}


def test_no_energy_is_computed_twice(make_atoms, predictor):
    atoms = make_atoms(calc=False)
    atoms.calc = CountingEMT()
    optimizer = quiet(atoms, predictor)
    optimizer.run(fmax=FMAX)
    assert atoms.calc.calls == optimizer.nsteps + 1


def test_jump_alone(make_atoms, predictor, near, minimum, stand_in):
    atoms = make_atoms()
    optimizer = quiet(atoms, predictor, finish=None)
    assert not optimizer.run(fmax=FMAX, steps=100)
    assert optimizer.nsteps == 1
    np.testing.assert_array_equal(atoms.positions, near.positions)
    assert atoms.info["deeprelax_status"] == "predicted"
    assert not optimizer.run(fmax=FMAX)
    assert optimizer.nsteps == 1
    with pytest.raises(RuntimeError, match="finish=None"):
        optimizer.step()
    exact = quiet(make_atoms(), stand_in(minimum), finish=None)
    assert exact.run(fmax=FMAX)


def test_finish_kwargs_reach_the_finish(make_atoms, predictor, near):
    atoms = make_atoms()
    quiet(atoms, predictor, finish=FIRE, finish_kwargs={"maxstep": 1e-4, "dt": 0.5}).run(fmax=FMAX, steps=2)
    assert 1e-6 < np.linalg.norm(atoms.positions - near.positions) < 2e-4


def test_wrong_finish_kwargs_show_before_anything_moves(make_atoms, predictor):
    atoms = make_atoms()
    with pytest.raises(TypeError, match="nonsense"):
        quiet(atoms, predictor, finish_kwargs={"nonsense": 1}).run(fmax=FMAX)
    assert atoms == make_atoms()


# The cell


@pytest.mark.parametrize(("cls", "kwargs"), [(DeepRelaxOptimizer, {"relax_cell": False}), (DeepRelaxPositions, {})])
@pytest.mark.parametrize("calc", [True, False])
def test_fixed_cell_is_kept_to_the_bit(make_atoms, predictor, cls, kwargs, calc):
    atoms = make_atoms(calc=calc)
    before = atoms.copy()
    optimizer = quiet(atoms, predictor, cls=cls, **kwargs)
    assert optimizer.run(fmax=1e-3)
    assert predictor.asked == [False]
    assert atoms.cell.array.tobytes() == before.cell.array.tobytes()
    assert np.abs(atoms.positions - before.positions).max() > 0.01


def test_filter_speaks_for_itself_in_deeprelax_positions(make_atoms, predictor):
    atoms = make_atoms()
    before = atoms.cell.copy()
    assert quiet(FrechetCellFilter(atoms), predictor, cls=DeepRelaxPositions).run(fmax=FMAX)
    assert predictor.asked == [True]
    assert np.abs(atoms.cell - before).max() > 0.01


def test_relax_cell_can_be_asked_of_deeprelax_positions(make_atoms, predictor):
    quiet(make_atoms(), predictor, cls=DeepRelaxPositions, relax_cell=True).run(steps=1)
    assert predictor.asked == [True]


# Without a calculator


def test_without_calculator_the_jump_is_all(make_atoms, predictor, near):
    atoms = make_atoms(calc=False)
    stream = io.StringIO()
    optimizer = DeepRelaxOptimizer(atoms, logfile=stream, predictor=predictor)
    assert optimizer.run(fmax=FMAX, steps=100) is True
    assert optimizer.nsteps == 1
    assert optimizer.converged()
    np.testing.assert_array_equal(atoms.positions, near.positions)
    np.testing.assert_array_equal(atoms.cell.array, near.cell)
    assert atoms.info == {
        "deeprelax_model": "stand-in",
        "deeprelax_uncertainty": 0.02,
        "deeprelax_status": "predicted",
    }
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("DeepRelaxOptimizer:    1 ")
    assert "predicted by stand-in, uncertainty 0.020" in line
    assert "no calculator" in line


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
        assert frames[1].info["deeprelax_status"] == "predicted"


def test_run_says_when_the_geometry_solver_failed(make_atoms, near, stand_in):
    stream = io.StringIO()
    predictor = stand_in(near, solver_converged=False)
    assert DeepRelaxOptimizer(make_atoms(calc=False), logfile=stream, predictor=predictor).run() is False
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
    assert atoms.info["deeprelax_status"] == "predicted"
    assert atoms.calc is stored
    with Trajectory(path) as frames:
        assert frames[0].get_potential_energy() == 1.0
        assert frames[1].calc.results == {}  # the stored energy is not passed off as that of the prediction


# What is written, and what is left alone


def test_frames_hold_their_own_status(make_atoms, predictor, tmp_path):
    path = str(tmp_path / "relax.traj")
    optimizer = quiet(make_atoms(), predictor, trajectory=path)
    optimizer.run(fmax=FMAX)
    with Trajectory(path) as frames:
        status = [frame.info.get("deeprelax_status") for frame in frames]
        assert status == [None, "predicted", *["not converged"] * (optimizer.nsteps - 2), "converged"]
        assert frames[0].info == {}
        assert frames[1].info["deeprelax_uncertainty"] == 0.02
        assert frames.description["finish"] == "FIRE"
        assert frames.description["relax_cell"] is True


def test_status_of_an_unfinished_run(make_atoms, predictor):
    atoms = make_atoms()
    quiet(atoms, predictor).run(fmax=FMAX, steps=2)
    assert atoms.info["deeprelax_status"] == "not converged"


def test_status_of_steps_by_hand(make_atoms, predictor):
    atoms = make_atoms()
    optimizer = quiet(atoms, predictor)
    status = []
    for _ in range(2):
        optimizer.step()
        status.append(atoms.info["deeprelax_status"])
    assert status == ["predicted", "not converged"]
    assert atoms.info["deeprelax_model"] == "stand-in"


def test_everything_else_of_the_callers_stays(make_atoms, predictor):
    atoms = make_atoms()
    rng = np.random.default_rng(0)
    atoms.set_tags([3, 1, 2, 0])
    atoms.set_initial_magnetic_moments([1.0, -1.0, 0.5, 0.0])
    atoms.set_initial_charges([0.1, -0.1, 0.0, 0.0])
    atoms.set_momenta(rng.normal(size=(4, 3)))
    atoms.set_array("site", np.arange(4))
    atoms.info["key"] = "kept"
    calculator, before = atoms.calc, atoms.copy()
    quiet(atoms, predictor).run(fmax=FMAX)
    assert atoms.calc is calculator
    assert set(atoms.arrays) == set(before.arrays)
    for name in set(before.arrays) - {"positions"}:
        np.testing.assert_array_equal(atoms.arrays[name], before.arrays[name])
    assert atoms.info.pop("key") == "kept"
    assert set(atoms.info) == {"deeprelax_model", "deeprelax_uncertainty", "deeprelax_status"}
    np.testing.assert_array_equal(atoms.pbc, before.pbc)


def test_atoms_are_not_wrapped(make_atoms, near, stand_in):
    images = np.array([[2, 0, 0], [0, -1, 0], [0, 0, 0], [0, 0, 3]])
    moved = near.with_geometry(near.positions + images @ near.cell, near.cell)
    atoms = make_atoms(calc=False)
    quiet(atoms, stand_in(moved)).run()
    np.testing.assert_array_equal(atoms.positions, moved.positions)


def test_prediction_is_not_shared_memory(make_atoms, predictor, near):
    atoms = make_atoms()
    optimizer = quiet(atoms, predictor)
    before = near.positions.copy(), near.cell.copy()
    optimizer.run(fmax=FMAX)
    np.testing.assert_array_equal(optimizer.prediction.relaxed.positions, before[0])
    np.testing.assert_array_equal(optimizer.prediction.relaxed.cell, before[1])


# Refusals


def bare_slab() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.pbc = (True, True, False)
    return atoms


def flat() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.cell[2] = atoms.cell[0]
    return atoms


def not_a_number() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.positions[1, 2] = np.nan
    return atoms


def shared_site() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.info["occupancy"] = {"0": {"Cu": 0.5, "Au": 0.5}}
    return atoms


@pytest.mark.parametrize(
    ("make", "error", "mend"),
    [
        (lambda: molecule("H2O"), MissingCellError, r"set atoms\.cell"),
        (Atoms, EmptyStructureError, "check the file"),
        (bare_slab, PartialPeriodicityError, "relax_cell=False"),
        (flat, SingularCellError, "three independent"),
        (not_a_number, NonFiniteError, r"atoms \[1\]"),
        (shared_site, DisorderedStructureError, "ordered structure"),
    ],
)
@pytest.mark.parametrize("calc", [True, False])
def test_structures_that_cannot_be_relaxed_are_refused_before_any_work(make, error, mend, calc, predictor):
    atoms = make()
    if calc:
        atoms.calc = CountingEMT()
    before = atoms.copy()
    optimizer = quiet(atoms, predictor)
    with pytest.raises(error, match=mend):
        optimizer.irun(fmax=FMAX)
    with pytest.raises(error, match=mend):
        optimizer.run(fmax=FMAX)
    assert predictor.asked == []
    assert not calc or atoms.calc.calls == 0
    assert atoms.info == before.info
    np.testing.assert_array_equal(atoms.positions, before.positions)
    np.testing.assert_array_equal(atoms.cell.array, before.cell.array)


def test_constraints_set_later_are_refused_too(make_atoms, predictor):
    atoms = make_atoms()
    optimizer = quiet(atoms, predictor)
    atoms.set_constraint(FixAtoms([0]))
    for move in (optimizer.run, optimizer.irun, optimizer.step):
        with pytest.raises(ConstraintError, match="FixAtoms"):
            move()
    np.testing.assert_array_equal(atoms.positions, make_atoms().positions)


def test_calculator_without_stress_is_refused_for_a_moving_cell(make_atoms, predictor):
    class NoStress(EMT):
        implemented_properties: ClassVar = ["energy", "forces"]

    atoms = make_atoms()
    atoms.calc = NoStress()
    with pytest.raises(CalculatorError, match=r"NoStress gives no stress.*relax_cell=False"):
        quiet(atoms, predictor).run(fmax=FMAX)
    assert predictor.asked == []
    assert quiet(atoms, predictor, relax_cell=False).run(fmax=FMAX)


def test_refusal_leaves_files_alone(make_atoms, predictor, tmp_path):
    atoms = make_atoms()
    atoms.set_constraint(FixAtoms([0]))
    path = tmp_path / "old.traj"
    path.write_bytes(b"precious")
    with pytest.raises(ConstraintError):
        quiet(atoms, predictor, trajectory=path)
    assert path.read_bytes() == b"precious"


def test_predictor_and_model_exclude_each_other(make_atoms, predictor):
    with pytest.raises(ValueError, match="not both"):
        quiet(make_atoms(), predictor, model="DeepRelax-PBE-v0")


def test_failing_prediction_changes_nothing(make_atoms):
    class Broken:
        def predict(self, structure, *, relax_cell=True):
            raise MissingCellError("no")

    atoms = make_atoms()
    optimizer = quiet(atoms, Broken())
    with pytest.raises(MissingCellError):
        optimizer.run(fmax=FMAX)
    assert atoms == make_atoms()
    assert atoms.info == {}
    assert optimizer.nsteps == 0
