"""What floor.py and large.py relax, and how they keep it; what the page says of laws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import floor
import large
import limits_page
import numpy as np
import pytest
import torch
from ase.build import bulk
from under_potential import energies_under, relaxed_under

from deeprelax_ase import Crystal
from deeprelax_ase.prediction.allowed_strain import AllowedStrain
from tests.pairs import make_pairs

EMT = "ase.calculators.emt:EMT"


def test_relaxations_are_made_once(tmp_path: Path) -> None:
    copper = [Crystal.from_atoms(bulk("Cu", cubic=True, a=a)) for a in (3.5, 3.7)]
    strains, cache = [AllowedStrain(), None], tmp_path / "kept"
    ends = relaxed_under(EMT, copper, strains, cache)
    relaxed, kept = ends.crystals(copper)
    assert ends.converged.all()
    assert ends.calls[0] > ends.calls[1] == 1
    assert relaxed.volume / 4 == pytest.approx(11.57, abs=0.05)  # EMT's own
    assert kept.cell == pytest.approx(copper[1].cell)
    assert ends.energies == pytest.approx(energies_under(EMT, [relaxed, kept]), abs=1e-8)
    again = relaxed_under(EMT, copper, strains, cache)
    assert (again.positions == ends.positions).all()
    other = relaxed_under(EMT, copper, [None, None], cache)  # other strains are not taken for these
    assert other.cells == pytest.approx(np.stack([c.cell for c in copper]))


def test_cells_move_as_those_of_the_labels_did() -> None:
    pairs = replace(make_pairs(3), kind=torch.tensor([0, 7, 9]), fixed_cell=torch.tensor([False, False, True]))
    free, layer, kept = floor.strains_of(pairs)
    assert free is not None
    assert layer is not None
    assert free.free
    assert layer.matrix.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert kept is None


def test_supercells_have_no_known_elements() -> None:
    pairs = make_pairs(40)
    made = list(large.make(pairs, set(), 3, 0))
    assert [name for name, _ in made] == [name for name in large.WAYS for _ in range(3)]
    for name, crystal in made:
        assert large.LEAST <= len(crystal) <= large.MOST
        assert (len(set(crystal.numbers.tolist())) == 3) == name.startswith("dopants")
    again = list(large.make(pairs, set(), 3, 0))
    assert all((a.positions == b.positions).all() for (_, a), (_, b) in zip(made, again, strict=True))
    known = frozenset(made[-1][1].numbers.tolist())
    assert known not in {frozenset(c.numbers.tolist()) for _, c in large.make(pairs, {known}, 3, 0)}


def test_law_with_a_floor() -> None:
    sizes = np.array([1e3, 4e3, 16e3, 64e3])
    assert limits_page.law(sizes, 0.03 + 2 * sizes**-0.4) == pytest.approx((0.03, 2, 0.4), rel=1e-3)
