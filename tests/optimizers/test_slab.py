"""Slabs: relaxed in their plane, as crystals with vacuum between them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import fcc100, fcc111, molecule, mx2
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms
from ase.filters import Filter, FrechetCellFilter

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import ConstraintError, MissingCellError, StructureError, VacuumError
from deeprelax_ase.optimizers.acceptance import JumpCriteria
from deeprelax_ase.optimizers.checked_atoms import CheckedAtoms
from deeprelax_ase.optimizers.deeprelax import DeepRelaxOptimizer
from deeprelax_ase.optimizers.degrees_of_freedom import layer_of
from tests.optimizers.helpers import carried, deformation, quiet
from tests.stand_in import StandInPredictor

KEEP = JumpCriteria(energy_rise=np.inf, fmax=np.inf)
STRAIN = np.array([[1.02, 0.01, 0.03], [0.01, 0.97, -0.02], [0.03, -0.02, 1.2]])


@dataclass
class Straining:
    """Predicts the same strain and displacements for whatever it sees, and keeps what that was."""

    make: object
    displacements: np.ndarray
    seen: list[tuple[Crystal, bool]] = field(default_factory=list)
    model, model_name = StandInPredictor.model, StandInPredictor.model_name

    def predict(self, structure, *, relax_cell: bool = True, **options):
        crystal = Crystal.of(structure)
        self.seen.append((crystal, relax_cell))
        cell = crystal.cell @ STRAIN if relax_cell else crystal.cell
        relaxed = crystal.with_geometry(crystal.fractional_positions @ cell + self.displacements, cell)
        return replace(self.make(relaxed).predict(crystal), relaxed=relaxed)


def slab(*, calc: bool = False, vacuum: float = 8.0) -> Atoms:
    atoms = fcc111("Cu", (1, 2, 3), a=3.7, vacuum=vacuum, orthogonal=True)
    atoms.pbc = (True, True, False)
    if calc:
        atoms.calc = EMT()
    return atoms


@pytest.fixture
def predictor(stand_in) -> Straining:
    return Straining(stand_in, 0.05 * np.random.default_rng(6).normal(size=(6, 3)))


def turned(atoms: Atoms) -> Atoms:
    atoms.rotate(30, (1, 1, 0), rotate_cell=True)
    return atoms


# What the model sees


@pytest.mark.parametrize("free", [0, 1, 2])
def test_it_is_a_crystal_with_vacuum(free):
    """12 Å of it where the atoms' own third vector gives less: short, leaning or absent."""
    atoms = slab(vacuum=0.1)
    order = np.roll([0, 1, 2], free - 2)
    atoms.set_cell(atoms.cell.array[order][:, order])
    atoms.set_positions(atoms.positions[:, order])
    atoms.pbc = np.arange(3) != free
    normal = np.eye(3)[free]
    height = np.ptp(atoms.positions @ normal) + 12.0
    for third in (atoms.cell.array[free], [1.0, -2.0, 3.0], [0, 0, 0]):
        atoms.cell[free] = third
        crystal = Crystal.of(atoms)
        np.testing.assert_allclose(np.abs(crystal.cell[free]), height * normal, rtol=0, atol=1e-12)
        np.testing.assert_array_equal(np.delete(crystal.cell, free, axis=0), np.delete(atoms.cell.array, free, axis=0))
        np.testing.assert_array_equal(crystal.positions, atoms.positions)
        assert crystal.pbc.all()


def test_a_vacuum_of_its_own_is_taken_as_it_is():
    atoms = slab(vacuum=6.5)
    np.testing.assert_array_equal(Crystal.of(atoms).cell, atoms.cell.array)


@pytest.mark.parametrize("pbc", [True, (True, True, False)])
def test_layers_and_slabs_are_told_by_their_atoms(pbc):
    thin, thick = mx2("MoS2", vacuum=7.0), fcc111("Cu", (1, 1, 6), vacuum=7.0)
    for atoms, is_slab in ((thin, False), (thick, True)):
        atoms.pbc = pbc
        layer = layer_of(CheckedAtoms(atoms))
        np.testing.assert_allclose(np.abs(layer.normal), [0, 0, 1], rtol=0, atol=1e-12)
        assert layer.thick is is_slab


def test_crystals_are_no_layers(make_atoms):
    assert layer_of(CheckedAtoms(make_atoms())) is None
    broken = make_atoms()
    broken.positions[0] = np.nan
    assert layer_of(CheckedAtoms(broken)) is None


# The jump


@pytest.mark.parametrize("calc", [True, False])
def test_the_cell_is_strained_in_its_plane(predictor, calc):
    atoms = slab(calc=calc)
    before = atoms.copy()
    quiet(atoms, predictor, criteria=KEEP).run(fmax=1e-6, steps=1)
    strain = deformation(before, atoms) - np.eye(3)
    np.testing.assert_allclose(strain[2], 0, atol=1e-12)
    np.testing.assert_allclose(strain[:, 2], 0, atol=1e-12)
    np.testing.assert_array_equal(atoms.cell.array[2], before.cell.array[2])
    np.testing.assert_allclose(strain[:2, :2], STRAIN[:2, :2] - np.eye(2), rtol=0, atol=2e-3)  # by its logarithm
    np.testing.assert_allclose(atoms.positions - carried(before, atoms), predictor.displacements, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(atoms.pbc, [True, True, False])


@pytest.mark.parametrize("third", [[-2.0, 1.0, 25.0], [0.0, 0.0, 0.0]])
def test_a_vector_that_does_not_repeat_is_handed_out_as_it_was(predictor, third):
    """As by all other doors."""
    atoms, upright = slab(), slab()
    atoms.cell[2] = third
    for each in (atoms, upright):
        quiet(each, predictor).run()
    np.testing.assert_array_equal(atoms.cell.array[2], third)
    np.testing.assert_allclose(atoms.cell.array[:2], upright.cell.array[:2], rtol=0, atol=1e-9)
    np.testing.assert_allclose(atoms.positions, upright.positions, rtol=0, atol=1e-9)


def test_the_model_is_asked_about_the_strained_slab(predictor):
    atoms = slab()
    quiet(atoms, predictor).run()
    (first, _), (second, _) = predictor.seen
    assert [relax_cell for _, relax_cell in predictor.seen] == [True, False]
    np.testing.assert_allclose(second.cell[:2], atoms.cell.array[:2], rtol=0, atol=1e-12)
    np.testing.assert_array_equal(second.cell[2], first.cell[2])


@pytest.mark.parametrize("make", [slab, lambda: turned(slab())])
def test_a_fixed_cell_may_lie_as_it_likes(predictor, make):
    atoms = make()
    before = atoms.copy()
    quiet(atoms, predictor, relax_cell=False).run()
    assert atoms.cell.array.tobytes() == before.cell.array.tobytes()
    moved = atoms.positions - before.positions
    np.testing.assert_allclose(moved, predictor.displacements, rtol=0, atol=1e-12)


def test_a_fixed_cell_needs_no_third_vector(predictor):
    atoms = slab()
    atoms.cell[2] = 0
    before = atoms.copy()
    quiet(atoms, predictor, relax_cell=False).run()
    np.testing.assert_array_equal(atoms.cell.array, before.cell.array)
    np.testing.assert_allclose(atoms.positions - before.positions, predictor.displacements, rtol=0, atol=1e-12)


def test_fixed_layers_and_hidden_atoms_stay(predictor):
    bottom = [0, 1]
    atoms, other = slab(), slab()
    atoms.set_constraint(FixAtoms(bottom))
    for target, these in ((atoms, atoms), (Filter(other, indices=[2, 3, 4, 5]), other)):
        quiet(target, predictor, relax_cell=False).run()
        np.testing.assert_array_equal(these.positions[bottom], slab().positions[bottom])
        assert np.abs(these.positions - slab().positions)[2:].max() > 0.01


def test_the_finish_relaxes_the_plane(stand_in):
    atoms = fcc100("Cu", (1, 1, 3), a=3.7, vacuum=8.0)
    atoms.pbc = (True, True, False)
    atoms.calc = EMT()
    before = atoms.copy()
    optimizer = quiet(atoms, Straining(stand_in, np.zeros((3, 3))), finish="fast")
    assert optimizer.run(fmax=0.01)
    assert optimizer.nsteps > 1
    assert np.abs(atoms.get_stress()[[0, 1, 5]]).max() * atoms.get_volume() < 0.04
    np.testing.assert_allclose(atoms.cell.array[2], before.cell.array[2], rtol=0, atol=0)
    assert np.ptp(atoms.positions[:, 2]) < np.ptp(before.positions[:, 2])


def test_a_filter_of_the_callers_decides_for_itself(predictor):
    atoms = slab()
    before = atoms.copy()
    quiet(FrechetCellFilter(atoms, mask=[1, 0, 0, 0, 0, 0]), predictor).run()
    change = deformation(before, atoms)
    np.testing.assert_allclose(change, np.diag([change[0, 0], 1, 1]), rtol=0, atol=1e-12)
    assert change[0, 0] > 1.01


# Without flags


def sheet(*, calc: bool = False) -> Atoms:
    """Two layers of copper that repeat in all three directions, with vacuum between them."""
    atoms = fcc100("Cu", (1, 1, 2), a=3.7, vacuum=8.0)
    atoms.pbc = True
    atoms.calc = EMT() if calc else None
    return atoms


@pytest.mark.parametrize("relax_cell", [None, True])
def test_a_layer_that_repeats_in_all_directions_is_strained_in_its_plane(stand_in, relax_cell):
    atoms = sheet(calc=True)
    before = atoms.copy()
    optimizer = quiet(atoms, Straining(stand_in, np.zeros((2, 3))), criteria=KEEP, relax_cell=relax_cell)
    optimizer.run(fmax=1e-6, steps=1)
    np.testing.assert_array_equal(atoms.cell.array[2], before.cell.array[2])
    assert abs(deformation(before, atoms)[0, 0] - 1.02) < 2e-3


@pytest.mark.parametrize(("relax_cell", "moves"), [(None, False), (True, True), (False, False)])
@pytest.mark.parametrize("pbc", [True, (True, True, False)])
def test_a_slab_keeps_its_cell_unless_asked(predictor, pbc, relax_cell, moves):
    atoms = fcc111("Cu", (1, 1, 6), a=3.7, vacuum=8.0, orthogonal=False)
    atoms.pbc = pbc
    before = atoms.copy()
    predictor.displacements = np.zeros((6, 3))
    quiet(atoms, predictor, relax_cell=relax_cell).run()
    assert (atoms.cell.array.tobytes() != before.cell.array.tobytes()) is moves
    np.testing.assert_allclose(atoms.cell.array[2], before.cell.array[2], rtol=0, atol=1e-12)


@pytest.mark.parametrize("relax_cell", [None, True, False])
def test_molecules_are_refused_whatever_their_flags(relax_cell):
    atoms = molecule("H2O", vacuum=5.0, pbc=True)
    before = atoms.copy()
    with pytest.raises(VacuumError, match="a molecule"):
        DeepRelaxOptimizer(atoms, logfile=None, relax_cell=relax_cell).run()
    assert atoms == before


@pytest.mark.parametrize(
    "make", [lambda: Atoms("Ar", cell=[9] * 3, pbc=True), lambda: molecule("N2", vacuum=9, pbc=True)]
)
def test_a_calculator_that_feels_no_force_is_no_reason_to_take_them(predictor, make):
    atoms = make()
    atoms.calc = LennardJones(sigma=0.1, rc=0.2)
    assert not atoms.get_forces().any()
    with pytest.raises(StructureError):
        quiet(atoms, predictor).run()
    assert predictor.seen == []


# Refusals


def flat() -> Atoms:
    """With no vector out of its plane."""
    atoms = slab()
    atoms.cell[2] = 0
    return atoms


WAYS_OUT = "relax_cell=False, or leave the calculator out"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: turned(slab()), rf"no Cartesian axis.*atoms\.rotate\(normal.*{WAYS_OUT}"),
        (flat, rf"no vector out of the plane.*center\(vacuum=10, axis=2\).*{WAYS_OUT}"),
    ],
)
def test_planes_that_filters_cannot_keep_to_are_refused_under_a_calculator_alone(predictor, make, reason):
    """The jump keeps to any plane, as all doors do that have no calculator."""
    atoms = make()
    before, normal = atoms.copy(), np.cross(*atoms.cell.array[:2])
    normal /= np.linalg.norm(normal)
    optimizer = quiet(atoms, predictor)
    optimizer.run()
    change = deformation(before, atoms) if before.cell.rank == 3 else np.eye(3)
    np.testing.assert_allclose(change @ normal, normal, rtol=0, atol=1e-12)
    assert np.abs(atoms.cell.array[:2] - before.cell.array[:2]).max() > 0.01
    np.testing.assert_allclose(atoms.cell.array[2], before.cell.array[2], rtol=0, atol=1e-12)
    assert len(predictor.seen) == 2
    given = make()
    given.calc = EMT()
    with pytest.raises(ConstraintError, match=reason):
        quiet(given, predictor).run()


@pytest.mark.parametrize(("pbc", "error"), [((True, False, False), VacuumError), ((False,) * 3, StructureError)])
@pytest.mark.parametrize("relax_cell", [True, False])
def test_wires_and_molecules_are_refused(predictor, pbc, error, relax_cell):
    atoms = slab()
    atoms.pbc = pbc
    with pytest.raises(error):
        quiet(atoms, predictor, relax_cell=relax_cell).run()
    assert predictor.seen == []


def test_slabs_without_a_plane_are_refused(predictor):
    atoms = slab()
    atoms.cell[:] = 0
    with pytest.raises(MissingCellError):
        quiet(atoms, predictor, relax_cell=False).run()


def test_they_take_no_force_informed_steps(predictor):
    with pytest.raises(ValueError, match="force_informed_steps=1 need a crystal"):
        quiet(slab(calc=True), predictor, force_informed_steps=1)
