"""``examples/vacancy_migration.py`` under a potential that takes no time."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE
from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def example() -> Iterator[ModuleType]:
    spec = spec_from_file_location("vacancy_migration", ROOT / "examples" / "vacancy_migration.py")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def copper(example) -> Atoms:
    return example.relaxed_copper(EMT())[0]


@pytest.fixture(scope="module")
def hop(example):
    """Three images: by symmetry the one in the middle climbs to the saddle."""
    return example.migration(EMT(), n_images=3, fmax=0.02)


def test_the_lattice_is_the_potentials(copper):
    plain = copper.copy()
    plain.set_cell(plain.cell.array * 1.02, scale_atoms=True)
    plain.calc = EMT()
    FIRE(FrechetCellFilter(plain), logfile=None).run(fmax=1e-3, steps=200)
    np.testing.assert_allclose(copper.cell.lengths(), plain.cell.lengths(), rtol=2e-3)


def test_one_atom_hops_to_its_neighbours_place(example, copper):
    start, end = example.ends_of_a_hop(copper, 2)
    moves = np.linalg.norm(end.positions - start.positions, axis=1)
    assert len(start) == len(end) == 31
    assert (moves > 0).sum() == 1
    assert moves.max() == pytest.approx(copper.cell.lengths()[0] / 2**0.5)


def test_the_band_climbs_to_the_saddle(hop):
    assert hop.converged
    energies = [image.get_potential_energy() for image in hop.images]
    assert energies[0] == pytest.approx(energies[2], abs=1e-3)  # the ends are the same but for symmetry
    assert hop.barrier == pytest.approx(energies[1] - energies[0], abs=1e-9)
    assert np.linalg.norm(hop.images[1].get_forces(), axis=1).max() < 0.02
    assert hop.guessed > hop.barrier


def test_the_barrier_is_emts_and_near_that_of_copper(example, hop):
    assert hop.barrier == pytest.approx(0.794, abs=0.01)
    assert abs(hop.barrier - example.PBE) < 0.1


def test_the_saddle_lies_half_way_between_the_ends(hop):
    start, saddle, end = hop.images
    hopping = int(np.linalg.norm(end.positions - start.positions, axis=1).argmax())
    middle = (start.positions[hopping] + end.positions[hopping]) / 2
    np.testing.assert_allclose(saddle.positions[hopping], middle, rtol=0, atol=0.02)


def test_the_report_gives_the_barrier_beside_its_references(example, hop):
    console = Console(record=True, width=160, file=io.StringIO())
    example.report(console, hop, "EMT")
    text = console.export_text()
    assert f"barrier {hop.barrier:.2f} eV, " in text
    assert "PBE 0.74 eV, measured 0.67 to 0.76 eV" in text
    assert "not converged" not in text
