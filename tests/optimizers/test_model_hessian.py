"""The finish that starts from springs: its Hessian is that of their energy, and good starts need fewer steps."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixCartesian, FixedPlane, FixScaled
from ase.data import covalent_radii
from ase.filters import Filter, FrechetCellFilter, StrainFilter, UnitCellFilter
from ase.neighborlist import neighbor_list
from ase.optimize import BFGS
from scipy.spatial.transform import Rotation

from deeprelax_ase.geometry.springs import Springs
from deeprelax_ase.optimizers.model_hessian import ModelHessianBFGS, model_hessian
from tests.optimizers.helpers import CountingEMT, quiet

SPRINGS = Springs(stiffness=3.0, decay=4.0, turning=0.2, floor=0.7, cutoff=4.5)
ALPHA = 50.0


@pytest.fixture
def crystal() -> Atoms:
    """Three atoms in a cell without symmetry."""
    cell = [[3.6, 0.1, -0.2], [0.4, 3.9, 0.3], [-0.3, 0.2, 4.2]]
    return Atoms("CuAuAl", scaled_positions=[[0, 0, 0], [0.45, 0.55, 0.1], [0.6, 0.1, 0.5]], cell=cell, pbc=True)


def energy_of_springs(atoms: Atoms, springs: Springs):
    """The energy as a function of a later geometry of ``atoms``; each bond is at rest, of length and direction, now."""
    first, second, shifts, rest = neighbor_list("ijSD", atoms, springs.cutoff)
    lengths = np.linalg.norm(rest, axis=1)
    radii = covalent_radii[atoms.numbers]
    stiffness = springs.stiffness * np.exp(-springs.decay * (lengths / (radii[first] + radii[second]) - 1))

    def energy(later: Atoms) -> float:
        bonds = later.positions[second] - later.positions[first] + shifts @ later.cell.array
        stretched = (np.linalg.norm(bonds, axis=1) - lengths) ** 2
        turned = ((bonds - rest) ** 2).sum(axis=1)
        return (stiffness * ((1 - springs.turning) * stretched + springs.turning * turned)).sum() / 4  # both ways

    return energy


def second_derivatives(target, energy) -> np.ndarray:
    """Numerical, in the coordinates of ``target``."""
    atoms = target if isinstance(target, Atoms) else target.atoms
    origin, step = target.get_positions(), 1e-3
    shifts = step * np.eye(origin.size).reshape(-1, *origin.shape)

    def at(shift: np.ndarray) -> float:
        target.set_positions(origin + shift)
        return energy(atoms)

    size = origin.size
    result = np.zeros((size, size))
    for k in range(size):
        for m in range(k, size):
            a, b = shifts[k], shifts[m]
            result[k, m] = result[m, k] = (at(a + b) - at(a - b) - at(b - a) + at(-a - b)) / (4 * step**2)
    target.set_positions(origin)
    return result


def symmetric_strains() -> np.ndarray:
    """(9, 9) projector."""
    swap = np.eye(9).reshape(3, 3, 3, 3).transpose(0, 1, 3, 2).reshape(9, 9)
    return (np.eye(9) + swap) / 2


def test_of_bare_atoms_it_is_that_of_the_springs(crystal):
    expected = second_derivatives(crystal, energy_of_springs(crystal, SPRINGS)) + SPRINGS.floor * np.eye(9)
    np.testing.assert_allclose(model_hessian(crystal, SPRINGS, alpha=ALPHA), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "make", [FrechetCellFilter, UnitCellFilter, lambda atoms: FrechetCellFilter(atoms, exp_cell_factor=2.0)]
)
def test_of_cell_filters_it_is_that_of_the_springs(crystal, make):
    """All but rotations of the cell, in which springs that resist turning have an energy and crystals have none."""
    target = make(crystal)
    numerical = second_derivatives(target, energy_of_springs(crystal, SPRINGS)) + SPRINGS.floor * np.eye(18)
    free = np.eye(18)
    free[9:, 9:] = symmetric_strains()
    expected = free @ numerical @ free + ALPHA * (np.eye(18) - free)
    np.testing.assert_allclose(model_hessian(target, SPRINGS, alpha=ALPHA), expected, rtol=0, atol=1e-4)


def test_positions_in_a_deformed_filter(crystal):
    target = UnitCellFilter(crystal)
    crystal.set_cell(crystal.cell.array @ [[1.1, 0.05, 0], [0, 0.95, 0.1], [0.02, 0, 1.0]], scale_atoms=True)
    numerical = second_derivatives(target, energy_of_springs(crystal, SPRINGS))[:9, :9] + SPRINGS.floor * np.eye(9)
    np.testing.assert_allclose(model_hessian(target, SPRINGS)[:9, :9], numerical, rtol=0, atol=1e-4)


@pytest.mark.parametrize("make", [lambda atoms: atoms, FrechetCellFilter, UnitCellFilter, StrainFilter])
def test_symmetric_and_positive(make, sample_crystals):
    for crystal in sample_crystals.values():
        hessian = model_hessian(make(crystal.to_atoms()), Springs())
        np.testing.assert_array_equal(hessian, hessian.T)
        assert np.linalg.eigvalsh(hessian).min() > 0.99 * Springs().floor


@pytest.mark.parametrize("make", [lambda atoms: atoms, FrechetCellFilter])
def test_it_turns_with_the_crystal(crystal, make):
    turn = Rotation.from_rotvec([0.3, -0.8, 0.5]).as_matrix()
    turned = crystal.copy()
    turned.set_cell(crystal.cell.array @ turn.T)
    turned.set_positions(crystal.positions @ turn.T)
    whole = np.kron(np.eye(3), turn)
    if make is FrechetCellFilter:
        whole = np.block([[whole, np.zeros((9, 9))], [np.zeros((9, 9)), np.kron(turn, turn)]])
    expected = whole @ model_hessian(make(crystal), SPRINGS) @ whole.T
    np.testing.assert_allclose(model_hessian(make(turned), SPRINGS), expected, rtol=0, atol=1e-9)


# What may not move


@pytest.mark.parametrize(
    ("constraint", "fixed"),
    [
        (FixAtoms([1]), [3, 4, 5]),
        (FixCartesian([0], mask=(True, False, True)), [0, 2]),
        (FixedPlane(2, [0, 1, 0]), [7]),
        ([FixAtoms([0]), FixCartesian([2], mask=(False, True, False))], [0, 1, 2, 7]),
    ],
)
@pytest.mark.parametrize("make", [lambda atoms: atoms, FrechetCellFilter])
def test_what_constraints_fix_is_decoupled(crystal, constraint, fixed, make):
    """So that a Newton step, whose forces have no such components, does not move it."""
    crystal.set_constraint(constraint)
    hessian = model_hessian(make(crystal), SPRINGS, alpha=ALPHA)
    np.testing.assert_allclose(hessian[fixed], ALPHA * np.eye(len(hessian))[fixed], rtol=0, atol=1e-12)


def test_scaled_coordinates_are_decoupled(crystal):
    crystal.set_constraint(FixScaled([1], mask=(True, True, False)))
    along = crystal.cell.array[2] / np.linalg.norm(crystal.cell.array[2])
    forces = np.concatenate([np.ones(3), along, np.ones(3)])
    step = np.linalg.solve(model_hessian(crystal, SPRINGS), forces)[3:6]
    np.testing.assert_allclose(np.cross(step, along), 0, atol=1e-12)
    assert step @ along > 1e-3


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({"mask": [1, 0, 1, 0, 1, 0]}, np.array([[1, 0, 1], [0, 0, 0], [1, 0, 1]])),
        ({"mask": [0] * 6}, np.zeros((3, 3))),
        ({"hydrostatic_strain": True}, np.eye(3)),
        ({"constant_volume": True}, np.ones((3, 3))),
    ],
)
def test_a_newton_step_stays_within_the_filter(crystal, options, allowed):
    crystal.calc = EMT()
    target = FrechetCellFilter(crystal, **options)
    step = np.linalg.solve(model_hessian(target, SPRINGS), target.get_forces().ravel())[9:].reshape(3, 3)
    np.testing.assert_allclose(step[allowed == 0], 0, atol=1e-12)
    np.testing.assert_allclose(step, step.T, rtol=0, atol=1e-12)
    if "hydrostatic_strain" in options:
        np.testing.assert_allclose(step, step[0, 0] * np.eye(3), rtol=0, atol=1e-12)
    if "constant_volume" in options:
        np.testing.assert_allclose(np.trace(step), 0, atol=1e-12)
    assert not allowed.any() or np.abs(step).max() > 1e-3


def test_a_filter_sees_the_shown_atoms(crystal):
    whole = model_hessian(crystal, SPRINGS)
    shown = model_hessian(Filter(crystal, indices=[2, 0]), SPRINGS)
    index = [6, 7, 8, 0, 1, 2]
    np.testing.assert_array_equal(shown, whole[np.ix_(index, index)])


# The optimizer


def near_starts() -> list[Atoms]:
    """EMT crystals not far from their minima."""
    rng = np.random.default_rng(11)
    starts = []
    for name, lattice, a in (("Al", "fcc", 4.0), ("Pt", "fcc", 3.95), ("Ag", "fcc", 4.1)):
        atoms = bulk(name, lattice, a=a, cubic=True)
        atoms.symbols[0] = "Cu"
        strain = 0.01 * rng.normal(size=(3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
        atoms.positions += 0.04 * rng.normal(size=(4, 3))
        starts.append(atoms)
    return starts


@pytest.mark.parametrize("make", [lambda atoms: atoms, FrechetCellFilter], ids=["positions", "cell"])
def test_it_saves_calls_near_the_minimum(make):
    calls = {}
    for cls in (BFGS, ModelHessianBFGS):
        calls[cls] = []
        for atoms in near_starts():
            atoms.calc = CountingEMT()
            assert cls(make(atoms), logfile=None).run(fmax=0.05, steps=100)
            calls[cls].append(atoms.calc.calls)
    assert sum(calls[ModelHessianBFGS]) < sum(calls[BFGS])
    assert (np.array(calls[ModelHessianBFGS]) <= np.array(calls[BFGS])).all()


def test_it_finishes_jumps_in_no_more_calls_than_bfgs(make_atoms, predictor):
    steps = []
    for finish in ("fast", "bfgs"):
        optimizer = quiet(make_atoms(), predictor, finish=finish)
        assert optimizer.run(fmax=0.01)
        steps.append(optimizer.nsteps)
    assert steps[0] <= steps[1]


def test_strain_filters_and_constraints_relax(make_atoms):
    atoms = make_atoms()
    assert ModelHessianBFGS(StrainFilter(atoms), logfile=None).run(fmax=0.05, steps=100)
    before = atoms.positions.copy()
    atoms.set_constraint([FixAtoms([0]), FixedPlane(1, [1, 1, 0])])
    assert ModelHessianBFGS(atoms, logfile=None).run(fmax=0.01, steps=100)
    np.testing.assert_array_equal(atoms.positions[0], before[0])
    np.testing.assert_allclose((atoms.positions - before)[1] @ [1, 1, 0], 0, atol=1e-10)


def test_springs_may_be_chosen(make_atoms):
    optimizer = ModelHessianBFGS(make_atoms(), logfile=None, springs=SPRINGS, alpha=ALPHA)
    optimizer.run(fmax=1e-3, steps=1)
    np.testing.assert_array_equal(optimizer.H0, model_hessian(make_atoms(), SPRINGS, alpha=ALPHA))


@pytest.mark.parametrize("options", [{"stiffness": 0}, {"floor": -1}, {"cutoff": 0}, {"turning": 1.1}, {"decay": 0}])
def test_springs_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match="positive numbers"):
        Springs(**options)


def test_a_restart_goes_on(make_atoms, tmp_path):
    whole = make_atoms()
    ModelHessianBFGS(FrechetCellFilter(whole), logfile=None).run(fmax=1e-6, steps=6)
    atoms = make_atoms()
    target, restart = FrechetCellFilter(atoms), str(tmp_path / "relax.json")
    ModelHessianBFGS(target, logfile=None, restart=restart).run(fmax=1e-6, steps=3)
    ModelHessianBFGS(target, logfile=None, restart=restart).run(fmax=1e-6, steps=3)
    np.testing.assert_allclose(atoms.positions, whole.positions, rtol=0, atol=1e-9)
    np.testing.assert_allclose(atoms.cell.array, whole.cell.array, rtol=0, atol=1e-9)
