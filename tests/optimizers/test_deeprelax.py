"""The jump, the finish after it, and what both leave alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixedPlane
from ase.filters import FrechetCellFilter
from ase.io import Trajectory
from ase.optimize import FIRE

from deeprelax_ase.graph import build_graph
from deeprelax_ase.optimizers import DeepRelaxOptimizer, DeepRelaxPositions
from deeprelax_ase.prediction.status import INFO_KEYS
from tests.optimizers.helpers import CountingEMT, quiet

FMAX = 0.05


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
    cell_filter = FrechetCellFilter(atoms)
    atoms.set_cell(near.cell)
    atoms.set_positions(near.positions)
    x, forces = cell_filter.get_positions(), cell_filter.get_forces()
    direction = np.random.default_rng(0).normal(size=x.shape)
    energies = []
    for shift in (1e-4, -1e-4):
        cell_filter.set_positions(x + shift * direction)
        energies.append(cell_filter.get_potential_energy())
    assert (energies[0] - energies[1]) / 2e-4 == pytest.approx(-np.sum(forces * direction), rel=1e-5)
    cell_filter.set_positions(x)
    np.testing.assert_allclose(atoms.cell.array, near.cell, rtol=0, atol=1e-12)
    np.testing.assert_allclose(atoms.positions, near.positions, rtol=0, atol=1e-12)


def test_bare_atoms_and_cell_filter_are_the_same(make_atoms, predictor):
    bare, filtered = make_atoms(), make_atoms()
    quiet(bare, predictor).run(fmax=FMAX)
    quiet(FrechetCellFilter(filtered), predictor).run(fmax=FMAX)
    np.testing.assert_allclose(bare.positions, filtered.positions, rtol=0, atol=1e-10)
    np.testing.assert_allclose(bare.cell.array, filtered.cell.array, rtol=0, atol=1e-10)


def test_convergence_includes_the_cell(make_atoms, predictor, minimum):
    """At ideal sites in a swollen cell no atom feels a force, but the cell does."""
    atoms = make_atoms()
    atoms.set_cell(1.03 * minimum.cell)
    atoms.set_positions(minimum.fractional_positions @ atoms.cell.array)
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


def test_as_in_ase_no_force_at_all_means_all_steps(make_atoms, predictor):
    with quiet(make_atoms(), predictor, finish="FIRE") as optimizer:
        assert not optimizer.run(fmax=0, steps=4)
        assert optimizer.nsteps == 4


def test_converged_start_makes_no_jump(make_atoms, predictor, minimum):
    atoms = make_atoms()
    atoms.set_cell(minimum.cell)
    atoms.set_positions(minimum.positions)
    optimizer = quiet(atoms, predictor)
    assert optimizer.run(fmax=FMAX)
    assert predictor.asked == []
    assert optimizer.prediction is None
    assert atoms.info == {"deeprelax_status": "converged", "deeprelax_calculator": "emt"}


@pytest.mark.parametrize("symprec", [None, 0.5])
def test_the_graph_of_the_first_look_goes_on_to_the_prediction(make_atoms, predictor, symprec):
    """Unless the atoms have moved since, as ``symprec`` moves them; nothing looks where all is given."""
    for calc, relax_cell in ((True, None), (False, None), (False, False)):
        atoms = make_atoms(calc=calc)
        if symprec is not None and relax_cell is False:
            continue
        quiet(atoms, predictor, relax_cell=relax_cell, symprec=symprec).run(fmax=FMAX, steps=1)
        given, crystal = predictor.graphs[-1], predictor.crystals[-1]
        assert (given is not None) is (calc or (relax_cell is None and symprec is None))
        if given is not None:
            expected = build_graph([crystal], settings=given.settings)
            for name in ("positions", "cell", "edge_index", "cell_offsets"):
                assert torch.equal(getattr(given.graph, name), getattr(expected, name))


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
    assert atoms.info["deeprelax_status"] == "accepted"
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


# What is written, and what is left alone


def test_frames_hold_their_own_status(make_atoms, predictor, tmp_path):
    path = str(tmp_path / "relax.traj")
    optimizer = quiet(make_atoms(), predictor, trajectory=path)
    optimizer.run(fmax=FMAX)
    with Trajectory(path) as frames:
        status = [frame.info.get("deeprelax_status") for frame in frames]
        assert status == [None, "accepted", *["not converged"] * (optimizer.nsteps - 2), "converged"]
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
    assert status == ["accepted", "not converged"]
    assert atoms.info["deeprelax_model"] == "stand-in"


@pytest.mark.parametrize("calc", [True, False])
@pytest.mark.parametrize("constrained", [True, False])
@pytest.mark.parametrize("good", [True, False])
def test_everything_else_of_the_callers_stays(make_atoms, predictor, near, stand_in, calc, constrained, good):
    """Whether the jump is kept or, under a calculator, rejected."""
    atoms = make_atoms(calc=calc)
    rng = np.random.default_rng(0)
    atoms.set_tags([3, 1, 2, 0])
    atoms.set_initial_magnetic_moments([1.0, -1.0, 0.5, 0.0])
    atoms.set_initial_charges([0.1, -0.1, 0.0, 0.0])
    atoms.set_momenta(rng.normal(size=(4, 3)))
    atoms.set_array("site", np.arange(4))
    atoms.set_celldisp([0.1, 0.2, 0.3])
    atoms.info["key"] = "kept"
    if constrained:
        atoms.set_constraint([FixAtoms([1]), FixedPlane(2, [0, 0, 1])])
    calculator, before, constraints = atoms.calc, atoms.copy(), list(atoms.constraints)
    optimizer = quiet(atoms, predictor if good else stand_in(near.with_geometry(near.positions, 1.1 * near.cell)))
    optimizer.run(fmax=FMAX, steps=4)
    assert optimizer.decision.kept is (good or not calc)
    assert atoms.calc is calculator
    assert atoms.constraints == constraints
    assert set(atoms.arrays) == set(before.arrays)
    for name in set(before.arrays) - {"positions"}:
        np.testing.assert_array_equal(atoms.arrays[name], before.arrays[name])
    np.testing.assert_array_equal(atoms.get_celldisp(), before.get_celldisp())
    assert atoms.info.pop("key") == "kept"
    assert set(atoms.info) <= set(INFO_KEYS)
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
