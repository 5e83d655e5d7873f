"""A look at atoms is good as long as they stay as they are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import mx2
from ase.calculators.emt import EMT

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import DisorderedStructureError, OverlappingAtomsError
from deeprelax_ase.graph import build_graph
from deeprelax_ase.optimizers.look import Look


def move(atoms: Atoms) -> None:
    atoms.positions[1, 2] += 0.1


def strain(atoms: Atoms) -> None:
    atoms.cell[0] *= 1.02


def exchange(atoms: Atoms) -> None:
    atoms.numbers[1] = 79


def test_atoms_that_stay_are_looked_at_once(make_atoms):
    atoms = make_atoms(calc=False)
    look = Look(atoms)
    crystal = look.crystal()
    assert look.known_graph is None
    graph = look.graph()
    atoms.calc = EMT()
    atoms.info["name"] = "Cu3Au"
    atoms.positions = atoms.positions.copy()
    assert look.crystal() is crystal
    assert look.graph() is graph
    assert look.known_graph is graph
    look.forget()
    assert look.known_graph is None


@pytest.mark.parametrize("change", [move, strain, exchange])
def test_what_has_changed_is_looked_at_anew(make_atoms, change: Callable[[Atoms], None]):
    atoms = make_atoms(calc=False)
    look = Look(atoms)
    look.graph()
    change(atoms)
    assert look.known_graph is None
    seen, expected = look.graph(), build_graph([Crystal.from_atoms(atoms)], settings=look.graph().settings)
    for name in ("numbers", "positions", "cell", "edge_index", "cell_offsets"):
        assert torch.equal(getattr(seen.graph, name), getattr(expected, name))
    np.testing.assert_array_equal(look.crystal().positions, atoms.positions)


def test_directions_in_which_atoms_repeat_count():
    atoms = mx2("MoS2", vacuum=1.0)
    atoms.pbc = True
    look = Look(atoms)
    assert look.graph().vacuum.directions.item() == 0
    atoms.pbc = (True, True, False)
    assert look.graph().vacuum.directions.item() == 1


def test_what_is_no_crystal_any_more_is_refused(make_atoms):
    atoms = make_atoms(calc=False)
    look = Look(atoms)
    look.graph()
    atoms.info["occupancy"] = {"0": {"Cu": 0.5}}
    with pytest.raises(DisorderedStructureError):
        look.crystal()
    del atoms.info["occupancy"]
    atoms.positions[0] = atoms.positions[1]
    for _ in range(2):
        with pytest.raises(OverlappingAtomsError):
            look.graph()
