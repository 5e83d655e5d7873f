"""What is known of checked atoms is good as long as they stay as they are."""

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
from deeprelax_ase.optimizers.checked_atoms import CheckedAtoms, look_together


def move(atoms: Atoms) -> None:
    atoms.positions[1, 2] += 0.1


def strain(atoms: Atoms) -> None:
    atoms.cell[0] *= 1.02


def exchange(atoms: Atoms) -> None:
    atoms.numbers[1] = 79


def test_atoms_that_stay_are_looked_at_once(make_atoms):
    atoms = make_atoms(calc=False)
    checked = CheckedAtoms(atoms)
    crystal = checked.crystal()
    assert checked.known_graph is None
    graph = checked.graph()
    atoms.calc = EMT()
    atoms.info["name"] = "Cu3Au"
    atoms.positions = atoms.positions.copy()
    assert checked.crystal() is crystal
    assert checked.graph() is graph
    assert checked.known_graph is graph
    checked.forget()
    assert checked.known_graph is None


@pytest.mark.parametrize("change", [move, strain, exchange])
def test_what_has_changed_is_looked_at_anew(make_atoms, change: Callable[[Atoms], None]):
    atoms = make_atoms(calc=False)
    checked = CheckedAtoms(atoms)
    checked.graph()
    change(atoms)
    assert checked.known_graph is None
    seen, expected = checked.graph(), build_graph([Crystal.from_atoms(atoms)], settings=checked.graph().settings)
    for name in ("numbers", "positions", "cell", "edge_index", "cell_offsets"):
        assert torch.equal(getattr(seen.graph, name), getattr(expected, name))
    np.testing.assert_array_equal(checked.crystal().positions, atoms.positions)


def test_directions_in_which_atoms_repeat_count():
    atoms = mx2("MoS2", vacuum=1.0)
    atoms.pbc = True
    checked = CheckedAtoms(atoms)
    assert checked.graph().vacuum.directions.item() == 0
    atoms.pbc = (True, True, False)
    assert checked.graph().vacuum.directions.item() == 1


def test_what_is_no_crystal_any_more_is_refused(make_atoms):
    atoms = make_atoms(calc=False)
    checked = CheckedAtoms(atoms)
    checked.graph()
    atoms.info["occupancy"] = {"0": {"Cu": 0.5}}
    with pytest.raises(DisorderedStructureError):
        checked.crystal()
    del atoms.info["occupancy"]
    atoms.positions[0] = atoms.positions[1]
    for _ in range(2):
        with pytest.raises(OverlappingAtomsError):
            checked.graph()


def test_looked_at_together_they_have_the_vacuum_that_each_has_alone(make_atoms, monkeypatch):
    layer, wrong = mx2(vacuum=9), make_atoms(calc=False)
    layer.pbc = True
    wrong.positions[1] = wrong.positions[0]
    strange = make_atoms(calc=False)
    strange.info["occupancy"] = {"0": {"Cu": 0.5, "Au": 0.5}}
    given = [make_atoms(calc=False), wrong, layer, strange, make_atoms(calc=False)]
    together = [CheckedAtoms(atoms) for atoms in given]
    look_together(together, torch.device("cpu"))
    for number, checked in enumerate(together):
        alone = CheckedAtoms(given[number])
        if number in (1, 3):
            with pytest.raises(OverlappingAtomsError if number == 1 else DisorderedStructureError):
                checked.vacuum()
            continue
        expected = alone.graph().vacuum
        monkeypatch.setattr(CheckedAtoms, "graph", lambda self: pytest.fail("it has been looked at"))
        assert all(torch.equal(a, b) for a, b in zip(checked.vacuum(), expected, strict=True))
        monkeypatch.undo()
    assert together[2].vacuum().directions.item() == 1
    strain(given[0])
    assert together[0].vacuum() is together[0].graph().vacuum
