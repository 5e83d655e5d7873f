"""Relaxation side by side: each crystal takes the steps that it takes alone under ASE's optimizers."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import ase.optimize
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter

from deeprelax_ase.errors import CalculatorError
from deeprelax_ase.geometry.springs import Springs
from deeprelax_ase.optimizers import BatchedEnd, BatchedStart, KnownResults, relax_in_batches
from deeprelax_ase.optimizers.batched.bfgs import batched_model_hessian
from deeprelax_ase.optimizers.batched.state import BatchedState
from deeprelax_ase.optimizers.model_hessian import ModelHessianBFGS, model_hessian
from deeprelax_ase.prediction.allowed_strain import AllowedStrain
from tests.batched_emt import Together
from tests.calculators.batches import Springs as SpringPotential

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
OPTIMIZERS = {"fire": ase.optimize.FIRE, "fast": ModelHessianBFGS}


def crystals(strain: float = 0.03) -> list[Atoms]:
    made = []
    for seed, (element, a) in enumerate([("Cu", 3.75), ("Au", 4.1), ("Pt", 4.0)]):
        rng = np.random.default_rng(seed)
        atoms = bulk(element, a=a, cubic=True) * ((2, 1, 1) if seed % 2 else (1, 1, 1))
        atoms.rattle(0.08, rng=rng)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain * rng.normal(size=(3, 3))), scale_atoms=True)
        made.append(atoms)
    return made


def start(atoms: Atoms, strain: AllowedStrain | None, *, free: np.ndarray | None = None, **given) -> BatchedStart:
    if free is not None:
        given["moves"] = free[:, None, None] * np.eye(3)
    return BatchedStart(atoms.numbers, atoms.positions, atoms.cell.array, strain, **given)


def relaxed(starts: list[BatchedStart], potential=None, **options) -> list[BatchedEnd]:
    ends = dict(relax_in_batches(starts, potential or Together(), **options))
    return [ends[place] for place in range(len(starts))]


@cache
def all_at_once(optimizer: str) -> list[BatchedEnd]:
    return relaxed([start(atoms, AllowedStrain()) for atoms in crystals()], optimizer=optimizer)


def alone(atoms: Atoms, optimizer: str, *, fmax: float, steps: int = 300, **filtered) -> tuple[Atoms, int]:
    """Relax under ASE's own filter, or without one where the cell is kept."""
    atoms = atoms.copy()
    atoms.calc = EMT()
    target = FrechetCellFilter(atoms, **filtered) if filtered.pop("moves", True) else atoms
    run = OPTIMIZERS[optimizer](target, logfile=None)
    run.run(fmax=fmax, steps=steps)
    return atoms, run.nsteps


IN_PLANE = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 0]])
PRESSURE = 0.02
FREEDOMS = {
    "cell": (AllowedStrain(), {}),
    "fixed cell": (None, {"moves": False}),
    "in plane": (AllowedStrain(IN_PLANE), {"mask": IN_PLANE}),
    "pressure": (AllowedStrain(pressure=PRESSURE), {"scalar_pressure": PRESSURE}),
    "hydrostatic": (AllowedStrain(hydrostatic=True), {"hydrostatic_strain": True}),
    "volume": (AllowedStrain(constant_volume=True), {"constant_volume": True}),
}


@pytest.mark.parametrize(
    ("optimizer", "freedom"),
    [
        pytest.param("fire", "cell", marks=pytest.mark.slow),  # fast in a cell, fire in a fixed one are not
        ("fire", "fixed cell"),
        *(("fast", name) for name in FREEDOMS if name not in ("in plane", "hydrostatic")),
        *(pytest.param("fast", name, marks=pytest.mark.slow) for name in ("in plane", "hydrostatic")),
    ],
)
def test_each_takes_the_steps_that_it_takes_alone(optimizer: str, freedom: str) -> None:
    strain, filtered = FREEDOMS[freedom]
    given = crystals()
    ends = relaxed([start(atoms, strain) for atoms in given], optimizer=optimizer, fmax=0.02)
    for atoms, end in zip(given, ends, strict=True):
        expected, steps = alone(atoms, optimizer, fmax=0.02, **filtered)
        assert end.converged
        assert end.calls == end.steps + 1
        assert abs(end.steps - steps) <= 1  # ASE's cells may turn, and a step that ends at the limit goes either way
        energy = expected.get_potential_energy()
        assert end.results.energy == pytest.approx(energy, abs=2e-5 * len(atoms))
        if end.steps == steps:
            np.testing.assert_allclose(end.cell @ end.cell.T, expected.cell @ expected.cell.T, rtol=0, atol=0.02)
    if freedom == "fixed cell":
        assert all(np.array_equal(end.cell, atoms.cell.array) for atoms, end in zip(given, ends, strict=True))
    if freedom == "volume":
        volumes = [abs(np.linalg.det(end.cell)) for end in ends]
        assert volumes == pytest.approx([atoms.get_volume() for atoms in given], rel=1e-10)
    if freedom == "in plane":
        unstrained = [np.linalg.solve(atoms.cell.array, end.cell) for atoms, end in zip(given, ends, strict=True)]
        np.testing.assert_allclose([s[2] for s in unstrained], [[0, 0, 1]] * 3, rtol=0, atol=1e-14)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_fixed_atoms(optimizer: str) -> None:
    given = crystals()
    moves = [np.arange(len(atoms)) % 3 > 0 for atoms in given]
    starts = [start(atoms, None, free=free) for atoms, free in zip(given, moves, strict=True)]
    for atoms, free, end in zip(given, moves, relaxed(starts, optimizer=optimizer, fmax=0.02), strict=True):
        np.testing.assert_array_equal(end.positions[~free], atoms.positions[~free])
        atoms.set_constraint(FixAtoms(mask=~free))
        expected, steps = alone(atoms, optimizer, fmax=0.02, moves=False)
        assert (end.steps, end.converged) == (steps, True)
        np.testing.assert_allclose(end.positions, expected.positions, rtol=0, atol=1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "most", [pytest.param(1, marks=pytest.mark.slow), 9, pytest.param(1000, marks=pytest.mark.slow)]
)
def test_how_many_are_at_work_changes_nothing(optimizer: str, most: int) -> None:
    starts = [start(atoms, AllowedStrain()) for atoms in crystals()]
    potential, left = Together(), []
    potential.most_atoms = most
    ends = relaxed(starts, potential, optimizer=optimizer, observe=left.append)
    assert max(potential.asked) == {1: 1, 9: 2, 1000: 3}[most]
    assert left[0] == 3, "those that wait count too"
    assert left == sorted(left, reverse=True)
    assert left[-1] == 1
    for one, other in zip(ends, all_at_once(optimizer), strict=True):
        assert (one.steps, one.converged) == (other.steps, True)
        np.testing.assert_allclose(one.positions, other.positions, rtol=0, atol=1e-7)
    assert sum(end.calls for end in ends) == sum(potential.asked)


def test_results_that_are_known_are_not_computed_again() -> None:
    (cold,) = relaxed([start(crystals()[0], AllowedStrain())])
    atoms = crystals()[0]
    atoms.calc = EMT()
    known = KnownResults(atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False))
    potential = Together()
    (warm,) = relaxed([start(atoms, AllowedStrain(), known=known)], potential)
    assert (warm.steps, warm.calls) == (cold.steps, cold.calls - 1)
    assert len(potential.asked) == warm.calls
    np.testing.assert_allclose(warm.positions, cold.positions, rtol=0, atol=1e-9)
    (again,) = relaxed([BatchedStart(atoms.numbers, warm.positions, warm.cell, AllowedStrain(), known=warm.results)])
    assert (again.steps, again.calls, again.converged) == (0, 0, True)


def test_out_of_steps() -> None:
    for steps in (0, 3):
        (end,) = relaxed([start(crystals()[0], AllowedStrain())], fmax=1e-9, steps=steps)
        assert (end.steps, end.calls, end.converged, end.error) == (steps, steps + 1, False, None)


class Failing(EMT):
    """EMT that fails once a crystal of gold is smaller than when it started, and does not know Mg."""

    def calculate(self, atoms, *args) -> None:
        super().calculate(atoms, *args)
        if "Au" in atoms.symbols and atoms.get_volume() < 136:
            self.results["forces"] = np.full((len(atoms), 3), np.nan)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_crystal_that_fails_costs_itself(optimizer: str) -> None:
    unknown = bulk("MgO", "rocksalt", a=4.2)
    starts = [start(atoms, AllowedStrain()) for atoms in [unknown, *crystals(strain=0)]]
    ends = relaxed(starts, Together(Failing()), optimizer=optimizer)
    assert "NotImplementedError" in ends[0].error
    assert (ends[0].steps, ends[0].results, ends[0].converged) == (0, None, False)
    assert "not finite" in ends[2].error
    assert ends[2].steps > 0
    expected = relaxed(starts[1:], optimizer=optimizer)
    for place in (1, 3):
        assert ends[place].error is None
        np.testing.assert_allclose(ends[place].positions, expected[place - 1].positions, rtol=0, atol=1e-7)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_geometries_that_no_potential_takes_cost_themselves(optimizer: str) -> None:
    class Wary(EMT):
        def calculate(self, atoms, *args) -> None:
            if not np.isfinite(atoms.positions).all():
                raise ValueError("no such crystal")
            super().calculate(atoms, *args)

    nowhere, tiny, good = crystals()
    nowhere.positions[0] = np.nan
    tiny.set_cell(1e-3 * tiny.cell.array, scale_atoms=True)
    for wrong in ([nowhere, tiny], [nowhere, tiny, good]):
        ends = relaxed([start(atoms, AllowedStrain()) for atoms in wrong], Together(Wary()), optimizer=optimizer)
        for end, told in zip(ends, ("no such crystal", "has collapsed", "None"), strict=False):
            assert told in str(end.error)
        assert [end.calls for end in ends[:2]] == [1, 1]
    assert ends[2].converged


@pytest.mark.parametrize("fmax", [0.0, -0.05, np.nan])
def test_a_force_that_nothing_ends_at_is_refused(fmax: float) -> None:
    with pytest.raises(ValueError, match="no relaxation ends at: give one above 0"):
        next(relax_in_batches([start(crystals()[0], None)], Together(EMT()), fmax=fmax))


def test_no_stress_no_cell() -> None:
    class WithoutStress(EMT):
        implemented_properties = ("energy", "free_energy", "forces")

    atoms = crystals()[0]
    with pytest.raises(CalculatorError, match="no stress"):
        relaxed([start(atoms, AllowedStrain())], Together(WithoutStress()))
    (end,) = relaxed([start(atoms, None)], Together(WithoutStress()))
    assert end.converged


class Staying(Together):
    """Lets crystals stay in a batch when they are done."""

    most_atoms = 80

    def may_stay(self, atoms: int) -> float:
        return 0.7


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_who_stays_though_it_is_done_changes_nothing(optimizer: str) -> None:
    starts = [start(atoms, AllowedStrain()) for atoms in crystals()]
    potential, left = Staying(), []
    ends = relaxed(starts, potential, optimizer=optimizer, observe=left.append)
    for one, other in zip(ends, all_at_once(optimizer), strict=True):
        assert (one.steps, one.calls, one.converged) == (other.steps, other.calls, True)
        np.testing.assert_allclose(one.positions, other.positions, rtol=0, atol=1e-9)
    assert set(potential.asked) == {3}, "two of three may stay"
    assert left[0] == 3
    assert left[-1] == 1
    assert len(potential.asked) == max(end.calls for end in ends)


def test_who_is_done_stays_until_others_enter() -> None:
    starts = [start(atoms, None) for atoms in crystals()] * 4
    potential, left = Staying(), []
    potential.most_atoms = 40  # 6 of 12; others enter where there is room for 5 atoms
    ends = relaxed(starts, potential, optimizer="fast", observe=left.append)
    assert all(end.converged for end in ends)
    assert max(potential.asked) == 6
    assert any(asked == 6 and now == 11 for asked, now in zip(potential.asked, left, strict=True))


def test_other_optimizers_are_refused_and_nothing_is_nothing() -> None:
    with pytest.raises(ValueError, match="fire, fast"):
        relaxed([], optimizer="lbfgs")
    assert relaxed([]) == []


@pytest.mark.parametrize("freedom", FREEDOMS)
def test_the_springs_are_those_of_one_crystal(freedom: str) -> None:
    strain, filtered = FREEDOMS[freedom]
    springs, given = Springs(stiffness=3.0, floor=1.5), crystals()
    given[1] = bulk("MgO", "rocksalt", a=4.3)
    moves = [np.arange(len(atoms)) != 1 for atoms in given]
    starts = [start(atoms, strain, free=free) for atoms, free in zip(given, moves, strict=True)]
    state = BatchedState.of(starts, range(len(starts)), torch.device("cpu"))
    hessians = batched_model_hessian(state, springs, alpha=50.0).numpy()
    for atoms, free, hessian in zip(given, moves, hessians, strict=True):
        atoms.set_constraint(FixAtoms(mask=~free))
        own, size = (atoms, 0) if strain is None else (FrechetCellFilter(atoms, **filtered), 9)
        expected = model_hessian(own, springs, alpha=50.0)
        order = np.r_[9 : 9 + 3 * len(atoms), 0:size]  # the cell comes first
        np.testing.assert_allclose(hessian[np.ix_(order, order)], expected, rtol=0, atol=1e-9)
        beyond = hessian[9 + 3 * len(atoms) :]
        np.testing.assert_array_equal(beyond, 50.0 * np.eye(len(hessian))[9 + 3 * len(atoms) :])


def test_a_start_of_its_own_record_is_not_changed() -> None:
    given = start(crystals()[0], AllowedStrain())
    before = replace(given, positions=given.positions.copy(), cell=given.cell.copy())
    relaxed([given])
    np.testing.assert_array_equal(given.positions, before.positions)
    np.testing.assert_array_equal(given.cell, before.cell)


@needs_cuda
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_gpu_takes_the_same_steps(optimizer: str) -> None:
    safe = [atoms for atoms in crystals() if "Cu" in atoms.symbols]  # the others fail under these springs

    def on(device: str) -> list[BatchedEnd]:
        potential = SpringPotential()
        potential.device = torch.device(device)
        return relaxed([start(atoms, AllowedStrain(IN_PLANE)) for atoms in safe], potential, optimizer=optimizer)

    for one, other in zip(on("cuda"), on("cpu"), strict=True):
        assert (one.steps, one.converged) == (other.steps, other.converged)
        np.testing.assert_allclose(one.positions, other.positions, rtol=0, atol=1e-8)
