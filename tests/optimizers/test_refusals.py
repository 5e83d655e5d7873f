"""What cannot be relaxed is refused before any work, and nothing is touched."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms, Hookean

from deeprelax_ase.errors import (
    CalculatorError,
    ConstraintError,
    DisorderedStructureError,
    EmptyStructureError,
    MissingCellError,
    NonFiniteError,
    OverlappingAtomsError,
    SingularCellError,
    UnsupportedElementError,
    VacuumError,
)
from tests.optimizers.helpers import CountingEMT, quiet
from tests.stand_in import StandInPredictor

FMAX = 0.05


def wire() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.pbc = (True, False, False)
    return atoms


def flat() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.cell[2] = atoms.cell[0]
    return atoms


def not_a_number() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.positions[1, 2] = np.nan
    return atoms


def collapsed() -> Atoms:
    return bulk("Cu", a=0.01)


def shared_site() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.info["occupancy"] = {"0": {"Cu": 0.5, "Au": 0.5}}
    return atoms


@pytest.mark.parametrize(
    ("make", "error", "mend"),
    [
        (lambda: molecule("H2O"), MissingCellError, r"set atoms\.cell"),
        (Atoms, EmptyStructureError, "check the file"),
        (wire, VacuumError, r"pbc=\[True, False, False\]"),
        (flat, SingularCellError, "three independent"),
        (collapsed, OverlappingAtomsError, "lengths of the cell"),
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


@pytest.mark.parametrize("make", [CountingEMT, LennardJones])
def test_elements_that_the_model_does_not_know_are_refused_before_the_calculator_is_asked(make):
    atoms = bulk("NiHe", "rocksalt", a=4.0)
    atoms.calc = make()
    optimizer = quiet(atoms, StandInPredictor())
    with pytest.raises(UnsupportedElementError, match="not trained on He"):
        optimizer.run(fmax=FMAX)
    assert getattr(atoms.calc, "calls", 0) == 0
    assert atoms.calc.results == {}


def test_elements_that_the_calculator_alone_does_not_know_are_its_failure():
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    atoms.calc = EMT()
    with pytest.raises(NotImplementedError, match="EMT"):
        quiet(atoms, StandInPredictor()).run(fmax=FMAX)


def test_constraints_set_later_are_kept(make_atoms, predictor):
    atoms = make_atoms()
    optimizer = quiet(atoms, predictor, relax_cell=False)
    atoms.set_constraint(FixAtoms([0]))
    assert optimizer.run(fmax=FMAX)
    np.testing.assert_array_equal(atoms.positions[0], make_atoms().positions[0])


def test_constraints_set_later_are_refused_too(make_atoms, predictor):
    atoms = make_atoms()
    optimizer = quiet(atoms, predictor)
    atoms.set_constraint(Hookean(0, 1, rt=2.0, k=5.0))
    for move in (optimizer.run, optimizer.irun, optimizer.step):
        with pytest.raises(ConstraintError, match="Hookean"):
            move()
    np.testing.assert_array_equal(atoms.positions, make_atoms().positions)


def test_calculator_without_stress_is_refused_for_a_moving_cell(make_atoms, predictor):
    class NoStress(EMT):
        implemented_properties: ClassVar = ["energy", "forces"]

    atoms = make_atoms()
    atoms.calc = NoStress()
    with pytest.raises(CalculatorError, match=r"(?i:nostress) gives no stress.*relax_cell=False"):
        quiet(atoms, predictor).run(fmax=FMAX)
    assert predictor.asked == []
    assert quiet(atoms, predictor, relax_cell=False).run(fmax=FMAX)


def test_refusal_leaves_files_alone(make_atoms, predictor, tmp_path):
    atoms = make_atoms()
    atoms.set_constraint(Hookean(0, 1, rt=2.0, k=5.0))
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
        model, model_name = StandInPredictor.model, StandInPredictor.model_name

        def predict(self, structure, **options):
            raise MissingCellError("no")

    atoms = make_atoms()
    optimizer = quiet(atoms, Broken())
    with pytest.raises(MissingCellError):
        optimizer.run(fmax=FMAX)
    assert atoms == make_atoms()
    assert atoms.info == {}
    assert optimizer.nsteps == 0
