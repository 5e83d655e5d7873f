"""Crystals to screen, and how to relax them quickly."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, graphene
from ase.io import write

from deeprelax_ase.screening.options import RelaxOptions

collect_ignore_glob = [] if find_spec("pyarrow") else ["test_*.py"]

#: One pass of one network, which is uncertain of the rattled ones if the odds are limited.
QUICK = {"members": 1, "recycles": 1, "device": "cpu", "max_odds_worse": None}


def some_crystals(number: int) -> list[Atoms]:
    """Rock salts, strained and rattled; each is another."""
    pairs = [("Na", "Cl", 5.6), ("Mg", "O", 4.2), ("K", "Br", 6.6), ("Ca", "S", 5.7), ("Li", "F", 4.0)]
    made = []
    for n in range(number):
        metal, other, a = pairs[n % len(pairs)]
        atoms = bulk(f"{metal}{other}", "rocksalt", a=a * (1 + 0.002 * n))
        atoms.positions[1] += 0.02 * np.sin([n, 2 * n, 3 * n])
        atoms.info = {"material_id": f"crystal-{n}"}
        made.append(atoms)
    return made


def layers() -> list[Atoms]:
    """Atoms that repeat in two directions, in any order, with any vector or none out of their plane."""
    flat, tilted, turned = (graphene(a=2.5) for _ in range(3))
    tilted.cell[2] = [0.3, 0.0, 2.0]
    turned.set_cell(np.roll(tilted.cell.array, 1, axis=0))
    slab = fcc111("Al", (1, 1, 3), a=4.05)
    slab.cell[2] = [1.0, 0.0, 4.3]
    del slab.info["adsorbate_info"]  # an array, which the formats do not take
    for atoms in (flat, tilted, slab):
        atoms.set_pbc((True, True, False))
    turned.set_pbc((False, True, True))
    return [flat, tilted, turned, slab]


def assert_repeats_as_given(made: Atoms, given: Atoms) -> None:
    """The vector out of the plane is the given one, and does not repeat."""
    assert made.pbc.tolist() == given.pbc.tolist()
    np.testing.assert_allclose(made.cell.array[~given.pbc], given.cell.array[~given.pbc], rtol=0, atol=1e-7)


@pytest.fixture
def quick() -> RelaxOptions:
    return RelaxOptions(**QUICK)  # type: ignore[arg-type]


@pytest.fixture
def xyz(tmp_path: Path) -> Callable[[int], Path]:
    """``xyz(7)``: an extended XYZ file of seven crystals."""

    def make(number: int) -> Path:
        file = tmp_path / "crystals.extxyz"
        write(file, some_crystals(number))
        return file

    return make
