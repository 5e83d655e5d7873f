"""Space groups that are kept in batches: as ``FixSymmetry`` keeps those of crystals that relax alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixSymmetry
from spglib import get_symmetry_dataset

from deeprelax_ase.optimizers import finish_atoms, finish_in_batches
from deeprelax_ase.optimizers.batched.start import BatchedStart
from deeprelax_ase.optimizers.batched.state import BatchedState
from deeprelax_ase.optimizers.batched.symmetry import held_symmetry
from deeprelax_ase.prediction.allowed_strain import AllowedStrain
from tests.batched_emt import Together
from tests.stand_in import StandInPredictor

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of spglib


class Lopsided(EMT):
    """EMT whose forces and stress do not have the symmetry of crystals."""

    def calculate(self, atoms, *args) -> None:
        super().calculate(atoms, *args)
        pulls = 0.05 * np.sin(np.arange(3 * len(atoms))).reshape(-1, 3)
        self.results["forces"] = self.results["forces"] + pulls - pulls.mean(axis=0)
        self.results["stress"] = self.results["stress"] + 0.003 * np.array([1, -1, 0, 0.5, 0.2, 0.7])


def hexagonal() -> Atoms:
    return bulk("Cu", "hcp", a=2.65, c=4.1)


def copies() -> Atoms:
    """A supercell: atoms that translations bring to each other's places."""
    return bulk("Cu", a=3.7) * 2


def with_free_coordinates() -> Atoms:
    """Layers of Au among Cu, at distances that their symmetry does not fix."""
    atoms = bulk("Cu", a=3.75, cubic=True) * (3, 1, 1)
    atoms.numbers[np.isclose(atoms.positions[:, 0], 0)] = 79
    atoms.positions[:, 0] += 0.1 * np.sin(2 * np.pi * atoms.get_scaled_positions()[:, 0])
    return atoms


def free() -> Atoms:
    atoms = bulk("Au", a=4.1, cubic=True)
    atoms.rattle(0.05, seed=1)
    return atoms


def space_group(atoms: Atoms) -> str:
    return get_symmetry_dataset((atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), 1e-5).international


SYMMETRIC = (hexagonal, copies, with_free_coordinates)


@pytest.mark.parametrize("finish", [pytest.param("fire", marks=pytest.mark.slow), "fast"])
def test_each_keeps_it_as_it_does_alone(finish: str) -> None:
    given = [make() for make in (*SYMMETRIC, free)]
    options = {"finish": finish, "keep_symmetry": True, "steps": 15, "fmax": 0.01}
    made = finish_in_batches([(atoms, None) for atoms in given], StandInPredictor(), Together(Lopsided()), **options)
    for atoms, (result, relaxed) in zip(given, made, strict=True):
        expected, alone = finish_atoms(atoms, StandInPredictor(), Lopsided(), **options)
        assert space_group(relaxed) == space_group(atoms)
        assert not relaxed.constraints
        assert (result.status, result.jump) == (expected.status, expected.jump)
        if atoms is not given[-1]:  # what is free turns otherwise under ASE's cells
            assert result.steps == expected.steps
            np.testing.assert_allclose(relaxed.positions, alone.positions, rtol=0, atol=1e-6)
            np.testing.assert_allclose(relaxed.cell.array, alone.cell.array, rtol=0, atol=1e-6)


@pytest.mark.parametrize("turn", [1, -1])
def test_those_that_enter_later_stand_beside_others_as_if_from_the_start(turn: int) -> None:
    """Of few operations beside those of many, which are kept in wider tables."""
    starts = []
    for atoms in [hexagonal(), with_free_coordinates()][::turn]:
        atoms.set_constraint(FixSymmetry(atoms))
        cell = atoms.cell.array
        held = held_symmetry(atoms, cell)
        starts.append(BatchedStart(atoms.numbers, atoms.positions, cell, AllowedStrain(), symmetry=held))
    assert len(starts[0].symmetry.rotations) != len(starts[1].symmetry.rotations)
    one, other = (BatchedState.of([starts[k]], [k], torch.device("cpu"), symmetric=True) for k in (0, 1))
    joined, both = one.join(other), BatchedState.of(starts, [0, 1], torch.device("cpu"), symmetric=True)
    assert joined.atoms.keys() == both.atoms.keys()
    for name in ("origins", "copies", "x"):
        torch.testing.assert_close(joined.atoms[name], both.atoms[name])
    for name, values in both.crystals.items():
        torch.testing.assert_close(joined.crystals[name], values)


def test_layers_keep_theirs() -> None:
    layer = fcc111("Au", (1, 1, 2), a=4.3, vacuum=8.0, periodic=False)
    assert layer.pbc.tolist() == [True, True, False]
    result, relaxed = finish_atoms(layer, StandInPredictor(), Lopsided(), finish="fast", keep_symmetry=True, steps=40)
    assert result.status == "converged"
    assert space_group(relaxed) == space_group(layer)


def test_without_it_the_symmetry_is_lost() -> None:
    ((_, relaxed),) = finish_in_batches(
        [(with_free_coordinates(), None)], StandInPredictor(), Together(Lopsided()), steps=5
    )
    assert space_group(relaxed) == "P1"


def test_a_constraint_of_the_atoms_is_kept_beside_others_that_are_free() -> None:
    held = with_free_coordinates()
    held.set_constraint(FixSymmetry(held))
    potential = Together(Lopsided())
    options = {"fmax": 0.01, "steps": 20}
    made = finish_in_batches([(atoms, None) for atoms in (free(), held)], StandInPredictor(), potential, **options)
    assert max(potential.asked) == 2
    assert space_group(made[1][1]) == space_group(held)
    assert [type(one).__name__ for one in made[1][1].constraints] == ["FixSymmetry"]
    ((_, alone),) = finish_in_batches([(free(), None)], StandInPredictor(), Together(Lopsided()), **options)
    np.testing.assert_allclose(made[0][1].positions, alone.positions, rtol=0, atol=1e-9)


def test_what_would_break_it_is_refused() -> None:
    atoms = hexagonal()
    atoms.set_constraint(FixAtoms([0]))
    made = finish_in_batches(
        [(atoms, None), (hexagonal(), None)], StandInPredictor(), Together(), keep_symmetry=True, steps=3
    )
    assert "FixAtoms" in str(made[0])
    assert not isinstance(made[1], Exception)
