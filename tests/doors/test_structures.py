"""Whatever is given to a door: one word for each structure, the same at every door; nothing else breaks or changes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from ase import Atoms
from ase.data import covalent_radii
from doors import DOORS, FINISHING, NO_WAY_IN, Doors, Outcome
from hypothesis import HealthCheck, given, settings

from deeprelax_ase.crystal import LONGEST, Crystal
from deeprelax_ase.prediction.physical import LARGEST_VOLUME_RATIO
from deeprelax_ase.prediction.status import FINISHED, STATUSES, UNRELAXED
from tests.doors.structures import batches

pytestmark = pytest.mark.filterwarnings("ignore")  # of pymatgen and ASE, which say of such structures what they like

#: One network, once: what it says is not the point here.
SMALL = Doors(members=1, recycles=1)

#: Doors that need no other process, nor start a workflow or a command.
QUICK = ("``Predictor.predict``", "``Predictor.predict_many``", "``DeepRelaxOptimizer``")


def state(atoms: Atoms) -> list:
    arrays = [atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc]
    held = [constraint.todict() for constraint in atoms.constraints]
    return [*(array.tobytes() for array in arrays), repr(held), repr(atoms.info)]


def assert_sane(given: Atoms, outcome: Outcome) -> None:
    """What is handed out is a crystal of the same atoms; where nothing was made, it is what was given."""
    if outcome.crystal is None:
        return
    made, before = outcome.crystal, Crystal(given.numbers, given.positions, given.cell.array, given.pbc)
    assert made.numbers.tolist() == before.numbers.tolist()
    if outcome.status in UNRELAXED:
        if np.abs([*before.positions, *before.cell]).max(initial=0.0) < LONGEST:  # pymatgen's fractions lose others
            np.testing.assert_allclose(made.positions, before.positions, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(made.cell, before.cell, rtol=1e-12)
        return
    assert np.isfinite(made.positions).all()
    assert np.isfinite(made.cell).all()
    if before.pbc.sum() == 2:
        np.testing.assert_allclose(made.cell[~before.pbc], before.cell[~before.pbc], rtol=1e-9, atol=1e-7)
    if outcome.status not in FINISHED and before.volume:  # what a calculator makes of it is its own
        assert 1 / LARGEST_VOLUME_RATIO <= made.volume / before.volume <= LARGEST_VOLUME_RATIO
        assert nearness(made) > min(0.4, 0.99 * nearness(before))


def nearness(crystal: Crystal) -> float:
    """The shortest distance between two atoms in units of their covalent radii."""
    from ase.neighborlist import neighbor_list

    reach = 2 * float(covalent_radii[crystal.numbers].max())
    i, j, distances = neighbor_list("ijd", crystal.to_atoms(), reach)
    radii = covalent_radii[crystal.numbers]
    return min((distances / (radii[i] + radii[j])).tolist(), default=1.0)


def check(doors: Doors, names: tuple[str, ...], given: list[Atoms]) -> None:
    before = copy.deepcopy([state(atoms) for atoms in given])
    said = {name: doors.open(name, given) for name in names}
    assert [state(atoms) for atoms in given] == before
    for name, outcomes in said.items():
        assert len(outcomes) == len(given), name
        for atoms, outcome in zip(given, outcomes, strict=True):
            assert outcome.status in (*STATUSES, NO_WAY_IN), name
            assert outcome.reason or outcome.status not in UNRELAXED, name
            assert_sane(atoms, outcome)
    for number in range(len(given)):
        words = {name: said[name][number].status for name in names if name not in FINISHING}
        told = {word for name, word in words.items() if word != NO_WAY_IN}
        assert len(told) <= 1, words


@given(batches(1, 6))
@settings(max_examples=6, suppress_health_check=list(HealthCheck))
def test_any_structures_through_the_doors_of_python(given):
    check(SMALL, QUICK, given)


@pytest.mark.slow
@given(batches(1, 8))
@settings(max_examples=12, suppress_health_check=list(HealthCheck))
def test_many_structures_through_every_door_of_one_process(given):
    check(SMALL, tuple(name for name in DOORS if name != "Ray Data"), given)


@pytest.mark.slow
@given(batches(40, 60))
@settings(max_examples=5, suppress_health_check=list(HealthCheck))
def test_many_structures_through_ray(given):
    pytest.importorskip("ray")
    check(SMALL, ("``Predictor.predict_many``", "Ray Data"), given)
