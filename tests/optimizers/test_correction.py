"""Further jumps with the forces known, by a stand-in that knows the way to the minimum and is told how far to go."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.filters import Filter, FrechetCellFilter
from ase.io import Trajectory, read

from deeprelax_ase.calibration import CalibratedError
from deeprelax_ase.errors import IsolatedAtomError, ModelError
from deeprelax_ase.models import DEFAULT_MODEL, M3GNET_MODEL
from deeprelax_ase.optimizers import DeepRelaxOptimizer, DeepRelaxPositions
from deeprelax_ase.optimizers.correction import CORRECTIONS, Correction
from deeprelax_ase.optimizers.restart import JumpRecord, read_record
from deeprelax_ase.prediction import ERROR_KEYS, Prediction
from deeprelax_ase.structure import Crystal

FMAX = 1e-3


class M3GNetCalculator(EMT):
    """By its name, the calculator whose forces the model has learnt to read."""

    calls = 0

    def calculate(self, *args, **kwargs):
        self.calls += 1
        super().calculate(*args, **kwargs)


@dataclass
class Corrector:
    """Jumps as ``jump`` does; each correction goes its share of the way to ``minimum``, the last share for ever."""

    jump: object
    minimum: Crystal
    shares: tuple[float, ...] = (0.6,)
    model: str = M3GNET_MODEL
    corrects: bool = True
    seen: list[tuple[np.ndarray, np.ndarray, Crystal]] = field(default_factory=list)

    @property
    def model_name(self) -> str:
        return self.model

    def predict(self, structure, *, relax_cell: bool = True) -> Prediction:
        return replace(self.jump.predict(structure, relax_cell=relax_cell), model=self.model)

    def correct(self, structure, forces, stress, *, relax_cell: bool = True) -> Prediction:
        assert relax_cell
        initial = Crystal.of(structure)
        share = self.shares[min(len(self.seen), len(self.shares) - 1)]
        self.seen.append((forces.copy(), stress.copy(), initial))
        cell, positions = (
            here + share * (there - here)
            for here, there in ((initial.cell, self.minimum.cell), (initial.positions, self.minimum.positions))
        )
        return replace(self.predict(structure), relaxed=initial.with_geometry(positions, cell))


@pytest.fixture
def corrector(predictor, minimum) -> Corrector:
    return Corrector(predictor, minimum)


@pytest.fixture
def atoms(make_atoms) -> Atoms:
    """The unrelaxed crystal under the model's own calculator."""
    made = make_atoms(calc=False)
    made.calc = M3GNetCalculator()
    return made


@pytest.fixture
def landed(near) -> Atoms:
    """Where the jump leads."""
    made = near.to_atoms()
    made.calc = M3GNetCalculator()
    return made


def quiet(target, corrector, cls=DeepRelaxOptimizer, **kwargs) -> DeepRelaxOptimizer:
    return cls(target, logfile=None, predictor=corrector, finish="bfgs", **kwargs)


def geometry(crystal: Atoms | Crystal) -> tuple[np.ndarray, np.ndarray]:
    return np.array(crystal.positions), np.array(crystal.cell)


def assert_at(atoms: Atoms, place: tuple[np.ndarray, np.ndarray], *, atol: float = 0.0) -> None:
    for actual, expected in zip(geometry(atoms), place, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)


def on_the_way(start: Crystal, end: Crystal, share: float) -> tuple[np.ndarray, np.ndarray]:
    return tuple(a + share * (b - a) for a, b in zip(geometry(start), geometry(end), strict=True))


# The jumps themselves


def test_corrections_know_the_forces_where_they_start(landed, corrector, near, minimum):
    correction = Correction(landed, corrector, 2)
    places, energies = [geometry(landed)], [landed.get_potential_energy()]
    for _ in range(2):
        assert correction.step()
        places.append(geometry(landed))
        energies.append(landed.get_potential_energy())
    assert not correction.step()
    assert_at(landed, places[-1])
    assert energies[0] > energies[1] > energies[2]
    for share, place in ((0.6, places[1]), (0.84, places[2])):
        for actual, expected in zip(place, on_the_way(near, minimum, share), strict=True):
            np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)
    for (forces, stress, start), place in zip(corrector.seen, places, strict=False):
        assert_at(start.to_atoms(), place)
        there = start.to_atoms()
        there.calc = EMT()
        np.testing.assert_allclose(forces, there.get_forces(), rtol=0, atol=1e-12)
        np.testing.assert_allclose(stress, there.get_stress(voigt=False), rtol=0, atol=1e-12)
        assert np.abs(forces).max() > 1e-3
        assert stress.shape == (3, 3)


@pytest.mark.parametrize("shares", [(-0.5,), (0.6, -0.5)], ids=["the first", "the second"])
def test_one_that_raises_the_energy_is_taken_back_and_no_other_follows(landed, corrector, shares):
    corrector.shares = shares
    correction = Correction(landed, corrector, 5)
    places = [geometry(landed)]
    for _ in shares:
        assert correction.step()
        places.append(geometry(landed))
    assert np.abs(places[-1][0] - places[-2][0]).max() > 1e-3
    assert correction.step()  # back
    assert_at(landed, places[-2])
    assert landed.cell.array.tobytes() == places[-2][1].tobytes()
    for _ in range(2):
        assert not correction.step()
    assert_at(landed, places[-2])
    assert len(corrector.seen) == len(shares)
    assert correction.left == 0


def test_one_that_leads_to_no_energy_is_taken_back(landed, corrector):
    class Overlapping(M3GNetCalculator):
        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            if self.calls > 1:
                self.results["energy"] = float("nan")

    landed.calc = Overlapping()
    place, correction = geometry(landed), Correction(landed, corrector, 3)
    assert [correction.step() for _ in range(3)] == [True, True, False]
    assert_at(landed, place)


def test_one_that_changes_nothing_is_kept(landed, corrector):
    corrector.shares = (0.0, 0.5)
    correction = Correction(landed, corrector, 2)
    assert [correction.step() for _ in range(3)] == [True, True, False]
    assert len(corrector.seen) == 2


def test_the_last_one_is_checked_too(landed, corrector):
    corrector.shares = (-0.5,)
    place, correction = geometry(landed), Correction(landed, corrector, 1)
    assert [correction.step() for _ in range(3)] == [True, True, False]
    assert_at(landed, place)


def test_where_the_network_cannot_follow_the_atoms_stay(landed, corrector, monkeypatch):
    def refuse(*_, **__):
        raise IsolatedAtomError("too far apart")

    before = geometry(landed)
    monkeypatch.setattr(corrector, "correct", refuse)
    correction = Correction(landed, corrector, 2)
    assert not correction.step()
    assert_at(landed, before)
    assert correction.left == 0


@pytest.mark.parametrize("left", [0, -1])
def test_none_left_asks_for_nothing(landed, corrector, left: int):
    assert not Correction(landed, corrector, left).step()
    assert landed.calc.calls == 0
    assert corrector.seen == []


# In the optimizer


def test_corrections_follow_the_jump(atoms, corrector, near, minimum, tmp_path):
    path = tmp_path / "relax.traj"
    with quiet(atoms, corrector, corrections=2, trajectory=path) as optimizer:
        assert not optimizer.run(fmax=FMAX, steps=3)
    with Trajectory(path) as frames:
        assert len(frames) == 4
        assert_at(frames[1], geometry(near))
        for frame, share in ((frames[2], 0.6), (frames[3], 0.84)):
            assert_at(frame, on_the_way(near, minimum, share), atol=1e-12)
        status = [frame.info.get("deeprelax_status") for frame in frames]
        assert status == [None, "predicted", "not converged", "not converged"]
    assert len(corrector.seen) == 2
    np.testing.assert_array_equal(optimizer.prediction.relaxed.positions, near.positions)  # the jump's own


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_there_are_at_most_so_many(atoms, corrector, count: int):
    optimizer = quiet(atoms, corrector, corrections=count)
    assert optimizer.run(fmax=FMAX)
    assert len(corrector.seen) == count
    assert optimizer._jump.corrections == count
    assert optimizer.nsteps > count + 1
    assert atoms.calc.calls == optimizer.nsteps + 1  # no energy is computed twice


def test_they_save_steps(make_atoms, corrector):
    steps = []
    for count in (0, 2):
        optimizer = quiet(make_atoms(), corrector, corrections=count)
        assert optimizer.run(fmax=0.02)
        steps.append(optimizer.nsteps)
    assert steps[1] < steps[0]


def test_the_finish_goes_on_from_where_a_correction_was_taken_back(make_atoms, corrector, near, tmp_path):
    """As if there had been none: the finish has seen nothing of it."""
    corrector.shares = (-0.5, 0.6)
    path, ways = tmp_path / "relax.traj", []
    for count in (0, 3):
        atoms = make_atoms()
        with quiet(atoms, corrector, corrections=count, trajectory=path) as optimizer:
            optimizer.run(fmax=FMAX, steps=6 if count else 4)
        ways.append(read(path, index=":"))
    plain, corrected = ways
    assert len(corrector.seen) == 1
    assert_at(corrected[1], geometry(near))
    assert np.abs(corrected[2].positions - near.positions).max() > 1e-3
    assert_at(corrected[3], geometry(near))
    assert corrected[2].get_potential_energy() > corrected[1].get_potential_energy()
    for k in range(1, 5):
        assert_at(corrected[k + 2], geometry(plain[k]), atol=1e-12)


@pytest.mark.parametrize("wrap", [lambda atoms: atoms, FrechetCellFilter], ids=["bare", "filter"])
def test_bare_atoms_and_cell_filters_are_corrected(atoms, corrector, near, minimum, wrap):
    assert quiet(wrap(atoms), corrector, corrections=1).run(fmax=FMAX, steps=2) is False
    assert_at(atoms, on_the_way(near, minimum, 0.6), atol=1e-12)


def test_a_second_run_goes_on_with_them(atoms, corrector, near, minimum):
    optimizer = quiet(atoms, corrector, corrections=3)
    for steps, share in ((2, 0.6), (1, 0.84), (1, 0.936)):
        optimizer.run(fmax=FMAX, steps=steps)
        assert_at(atoms, on_the_way(near, minimum, share), atol=1e-12)
    assert optimizer.run(fmax=FMAX)
    assert len(corrector.seen) == 3


@pytest.mark.parametrize("shares", [(1.0,), (0.6, 1.0)])
def test_none_follows_once_converged(atoms, corrector, minimum, shares):
    corrector.shares = shares
    optimizer = quiet(atoms, corrector, corrections=5)
    assert optimizer.run(fmax=FMAX)
    assert optimizer.nsteps == 1 + len(shares)
    assert len(corrector.seen) == len(shares)
    assert_at(atoms, geometry(minimum), atol=1e-12)
    assert atoms.info["deeprelax_status"] == "converged"


def test_none_follows_a_jump_into_the_minimum(atoms, stand_in, minimum):
    corrector = Corrector(stand_in(minimum), minimum)
    assert quiet(atoms, corrector, corrections=5).run(fmax=FMAX)
    assert corrector.seen == []


def test_calibrated_errors_leave_with_the_first_correction(atoms, corrector, stand_in, near):
    error = CalibratedError(coordinates=0.01, coordinates_bound=0.02, volume=0.01, volume_bound=0.02, outside=False)
    corrector.jump = stand_in(near, error=error)
    optimizer = quiet(atoms, corrector, corrections=1)
    optimizer.run(fmax=FMAX, steps=1)
    assert set(ERROR_KEYS) <= set(atoms.info)
    optimizer.run(fmax=FMAX, steps=1)
    assert len(corrector.seen) == 1
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
def test_they_need_a_cell_that_may_move(atoms, corrector, make, kwargs):
    with pytest.raises(ValueError, match=r"corrections=2 need a cell that may move.* read together, and a finish"):
        quiet(make(atoms), corrector, corrections=2, **kwargs)
    for count in (None, 0):
        assert quiet(make(atoms), corrector, corrections=count, **kwargs).run(fmax=FMAX)
    assert corrector.seen == []


def test_they_need_a_finish_that_looks_at_them(atoms, corrector):
    with pytest.raises(ValueError, match=r"corrections=1 need .* a finish"):
        DeepRelaxOptimizer(atoms, logfile=None, predictor=corrector, corrections=1, finish=None)


@pytest.mark.parametrize("count", [-1, 1.5])
def test_so_many_there_cannot_be(atoms, corrector, count):
    with pytest.raises(ValueError, match="must be a whole number"):
        quiet(atoms, corrector, corrections=count)


def test_a_model_that_cannot_read_forces_is_refused_before_the_jump(atoms, corrector, near):
    corrector.corrects = False
    with pytest.raises(ModelError, match="leave corrections=2 out"):
        quiet(atoms, corrector, corrections=2).run(fmax=FMAX)
    assert corrector.seen == []


def test_by_default_there_are_two(atoms, corrector):
    optimizer = quiet(atoms, corrector)
    assert optimizer.run(fmax=FMAX)
    assert len(corrector.seen) == CORRECTIONS == 2


@pytest.mark.parametrize(
    "changes",
    [{"corrects": False}, {"model": DEFAULT_MODEL}, {"model": "my own"}],
    ids=["not learnt", "another level", "a model of the caller's"],
)
def test_by_default_there_are_none_of_a_model_that_cannot_read_the_forces(atoms, corrector, changes):
    assert quiet(atoms, replace(corrector, **changes)).run(fmax=FMAX)
    assert corrector.seen == []


def test_by_default_there_are_none_under_another_calculator(make_atoms, corrector):
    assert quiet(make_atoms(), corrector).run(fmax=FMAX)
    assert corrector.seen == []
    assert quiet(make_atoms(), corrector, corrections=1).run(fmax=FMAX)  # unless asked for
    assert len(corrector.seen) == 1


def test_without_a_calculator_there_are_none(make_atoms, corrector, near):
    atoms = make_atoms(calc=False)
    assert quiet(atoms, corrector, corrections=2).run(fmax=FMAX)
    assert_at(atoms, geometry(near))
    assert corrector.seen == []


# Restarts


@pytest.fixture
def files(tmp_path):
    return {"restart": str(tmp_path / "relax.json"), "trajectory": str(tmp_path / "relax.traj")}


def relax(atoms: Atoms, corrector: Corrector, steps: int, files: dict, **kwargs) -> DeepRelaxOptimizer:
    atoms.calc = M3GNetCalculator()
    with quiet(atoms, corrector, **kwargs, **files) as optimizer:
        optimizer.run(fmax=FMAX, steps=steps)
    return optimizer


def go_on(corrector: Corrector, steps: int, files: dict, **kwargs) -> tuple[Atoms, DeepRelaxOptimizer]:
    atoms = read(files["trajectory"])
    return atoms, relax(atoms, corrector, steps, files, append_trajectory=True, **kwargs)


@pytest.mark.parametrize("done", [1, 2, 3])
def test_a_restart_goes_on_with_what_is_left(atoms, corrector, near, minimum, files, done: int):
    """After the jump, the first and the second of three corrections."""
    relax(atoms, corrector, done, files, corrections=3)
    assert read_record(files["restart"], atoms).corrections == done - 1
    further, optimizer = go_on(corrector, 4 - done, files, corrections=3)
    assert_at(further, on_the_way(near, minimum, 0.936), atol=1e-12)
    assert optimizer.prediction is None
    assert read_record(files["restart"], atoms).corrections == 3
    _, last = go_on(corrector, 200, files, corrections=3)
    assert last.converged()
    assert len(corrector.seen) == 3


def test_a_relaxation_restarted_in_the_finish_is_the_uninterrupted_one(make_atoms, corrector, files):
    whole = make_atoms()
    whole.calc = M3GNetCalculator()
    quiet(whole, corrector).run(fmax=FMAX, steps=7)
    relax(make_atoms(), corrector, 5, files)
    atoms, _ = go_on(corrector, 2, files)
    assert_at(atoms, geometry(whole), atol=1e-9)
    assert len(corrector.seen) == 4  # two in each


@pytest.mark.parametrize("corrections", [None, 5])
def test_a_restart_in_the_finish_makes_none(atoms, corrector, files, corrections):
    relax(atoms, corrector, 3, files, corrections=0)
    assert read_record(files["restart"], atoms).memory is not None
    _, optimizer = go_on(corrector, 200, files, corrections=corrections)
    assert optimizer.converged()
    assert corrector.seen == []


def test_a_restart_after_one_was_taken_back_makes_none(atoms, corrector, near, files):
    corrector.shares = (-0.5,)
    relax(atoms, corrector, 3, files)
    assert_at(atoms, geometry(near))
    _, optimizer = go_on(corrector, 200, files)
    assert optimizer.converged()
    assert len(corrector.seen) == 1


def test_a_restart_after_one_was_taken_back_makes_none_of_those_left(atoms, corrector, near, files):
    corrector.shares = (0.6, -0.5)
    relax(atoms, corrector, 4, files, corrections=5)  # the jump, two corrections, and one of them taken back
    assert read_record(files["restart"], atoms).corrections == 5
    _, optimizer = go_on(corrector, 200, files, corrections=5)
    assert optimizer.converged()
    assert len(corrector.seen) == 2


def test_a_restart_still_takes_back_what_raised_the_energy(atoms, corrector, near, files):
    corrector.shares = (-0.5,)
    relax(atoms, corrector, 2, files, corrections=1)  # stopped before its energy was looked at
    further, _ = go_on(corrector, 1, files, corrections=1)
    assert_at(further, geometry(near))
    assert len(corrector.seen) == 1


def test_a_record_from_before_there_were_corrections_is_read(atoms, corrector, files):
    relax(atoms, corrector, 1, files)
    with open(files["restart"]) as file:
        content = json.load(file)
    assert content.pop("corrections") == 0
    assert content.pop("before") is None
    with open(files["restart"], "w") as file:
        json.dump(content, file)
    record = read_record(files["restart"], atoms)
    assert isinstance(record, JumpRecord)
    assert record.corrections == 0
