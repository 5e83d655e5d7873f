"""The predicted energy of the minimum, where an optimizer leads to just that minimum, and nowhere else."""

from __future__ import annotations

import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.filters import Filter, FrechetCellFilter, StrainFilter

from deeprelax_ase.optimizers import JumpCriteria, finish_in_batches
from deeprelax_ase.prediction.allowed_strain import AllowedStrain
from deeprelax_ase.prediction.predictor import Predictor
from tests.batched_emt import Together
from tests.optimizers.helpers import quiet
from tests.prediction.small_networks import make_model, with_head

KEY = "deeprelax_energy_relaxed"

#: No jump is rejected.
LENIENT = JumpCriteria(energy_rise=1e9, fmax=1e9)

PRESSED = AllowedStrain(pressure=0.01)


@pytest.fixture(scope="module")
def small() -> Predictor:
    return Predictor(with_head(make_model(members=1)), device="cpu")


def crystal() -> Atoms:
    return bulk("Al", cubic=True, a=3.8)  # which the jump widens, as EMT would


def slab() -> Atoms:
    return fcc111("Al", (1, 1, 4), vacuum=8.0, periodic=True)


def layer() -> Atoms:
    return fcc111("Al", (1, 1, 1), vacuum=8.0, periodic=True)


def fixed() -> Atoms:
    atoms = crystal()
    atoms.set_constraint(FixAtoms([0]))
    return atoms


IN_PLANE = AllowedStrain((1, 1, 0, 0, 0, 1))
MASK = (1, 1, 1, 0, 0, 1)  # deformations leave it, so that the model is asked for the free crystal

CASES = [
    (crystal, None, True),
    (crystal, AllowedStrain(constant_volume=True), False),
    (crystal, False, False),
    (fixed, None, False),
    (slab, None, True),
    (slab, True, False),
    (slab, IN_PLANE, False),
    (layer, IN_PLANE, True),
    (layer, AllowedStrain((1, 1, 0, 0, 0, 0)), False),
    (lambda: FrechetCellFilter(fcc111("Al", (1, 1, 1), vacuum=8.0), mask=IN_PLANE.mask), None, True),
    (lambda: FrechetCellFilter(crystal()), None, True),
    (lambda: FrechetCellFilter(crystal(), mask=MASK), None, False),
    (lambda: FrechetCellFilter(crystal(), hydrostatic_strain=True), None, False),
    (lambda: FrechetCellFilter(slab()), None, False),
    (lambda: StrainFilter(crystal()), None, False),
    (lambda: Filter(slab(), indices=[1, 2, 3]), None, False),
]


@pytest.mark.parametrize(("make", "relax_cell", "told"), CASES)
def test_atoms_tell_it_where_nothing_is_held(small: Predictor, make, relax_cell, told: bool) -> None:
    target = make()
    optimizer = quiet(target, small, relax_cell=relax_cell, finish=None, on_uncertain="keep")
    optimizer.run(fmax=0.05)
    atoms = target if isinstance(target, Atoms) else target.atoms
    assert (optimizer.prediction.energy is not None) == told
    assert (KEY in atoms.info) == told


@pytest.mark.parametrize(("relax_cell", "told"), [(None, True), (PRESSED, False)])
def test_under_pressure_there_is_none(small: Predictor, relax_cell, told: bool) -> None:
    atoms = crystal()
    atoms.calc = EMT()
    quiet(atoms, small, relax_cell=relax_cell, finish=None, criteria=LENIENT).run(fmax=1e-6)
    assert atoms.info["deeprelax_jump"] == "kept"
    assert (KEY in atoms.info) == told


@pytest.mark.parametrize(("make", "asked"), [(crystal, None), (slab, False), (slab, None)])
@pytest.mark.parametrize("relax_cell", [AllowedStrain(hydrostatic=True), True, None])
def test_predictions_made_before_keep_it_where_they_were_made_for_the_same(small, make, asked, relax_cell) -> None:
    prediction = small.predict(make(), relax_cell=asked)
    optimizer = quiet(make(), small, prediction=prediction, relax_cell=relax_cell, finish=None, on_uncertain="keep")
    optimizer.run(fmax=0.05)
    assert (optimizer.prediction.energy is not None) == (relax_cell is None or (make is crystal and relax_cell is True))


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(
    ("make", "relax_cell", "told"), [(crystal, None, True), (crystal, PRESSED, False), (fixed, None, False)]
)
def test_batches_tell_the_same(small: Predictor, before: bool, make, relax_cell, told: bool) -> None:
    atoms = make()
    given = [(atoms, small.predict(atoms) if before else None)]
    how = {"fmax": 1e-6, "steps": 1, "finish": None, "relax_cell": relax_cell}
    ((result, made),) = finish_in_batches(given, small, Together(), **how)
    assert result.jump == "kept"
    assert (result.energy_relaxed is not None) == (KEY in made.info) == told
