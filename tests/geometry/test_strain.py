from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deeprelax_ase.geometry.strain import remove_rotation
from deeprelax_ase.nn.heads import symmetric_exponential

COUNTS = (1, 3, 2)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(8)


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def rotations(generator: torch.Generator, size: int) -> Tensor:
    q, _ = torch.linalg.qr(normal(generator, size, 3, 3))
    return q * torch.linalg.det(q)[:, None, None]


@pytest.fixture
def crystals(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Cells (3, 3, 3), one of them left-handed; fractional coordinates (6, 3), and the crystal of each atom."""
    cells = 4 * torch.eye(3, dtype=torch.float64) + 0.5 * normal(generator, 3, 3, 3)
    cells[2, 0] *= -1
    return cells, normal(generator, 6, 3), torch.repeat_interleave(torch.arange(3), torch.tensor(COUNTS))


def stretch_of(generator: torch.Generator) -> Tensor:
    strain = 0.1 * normal(generator, 3, 3, 3)
    return symmetric_exponential((strain + strain.mT) / 2)


def positions_in(cells: Tensor, fractional: Tensor, batch: Tensor) -> Tensor:
    return torch.einsum("nk,nkx->nx", fractional, cells[batch])


def test_rotation_is_taken_out(crystals, generator):
    cells, fractional, batch = crystals
    stretch = stretch_of(generator)
    turned = cells @ stretch @ rotations(generator, 3)
    positions, cell = remove_rotation(cells, positions_in(turned, fractional, batch), turned, batch)
    torch.testing.assert_close(cell, cells @ stretch, rtol=0, atol=1e-12)
    torch.testing.assert_close(positions, positions_in(cell, fractional, batch), rtol=0, atol=1e-12)


def test_a_pure_stretch_stays(crystals, generator):
    cells, fractional, batch = crystals
    stretched = cells @ stretch_of(generator)
    positions = positions_in(stretched, fractional, batch)
    kept = remove_rotation(cells, positions, stretched, batch)
    torch.testing.assert_close(kept, (positions, stretched), rtol=0, atol=1e-12)


def test_nothing_happens_to_an_unchanged_cell(crystals):
    cells, fractional, batch = crystals
    positions = positions_in(cells, fractional, batch)
    torch.testing.assert_close(remove_rotation(cells, positions, cells, batch), (positions, cells), rtol=0, atol=1e-12)


def test_two_strains_in_a_row_leave_no_rotation(crystals, generator):
    cells, fractional, batch = crystals
    twice = cells @ stretch_of(generator) @ stretch_of(generator)
    deformation = torch.linalg.solve(cells, twice)
    assert (deformation - deformation.mT).abs().max() > 1e-3
    positions, cell = remove_rotation(cells, positions_in(twice, fractional, batch), twice, batch)
    deformation = torch.linalg.solve(cells, cell)
    torch.testing.assert_close(deformation, deformation.mT, rtol=0, atol=1e-12)
    for shape in (cell @ cell.mT, twice @ twice.mT):  # lengths and angles are what a crystal is
        torch.testing.assert_close(shape, twice @ twice.mT, rtol=0, atol=1e-10)
    lengths = torch.cdist(positions, positions)[batch[:, None] == batch]
    before = torch.cdist(*[positions_in(twice, fractional, batch)] * 2)[batch[:, None] == batch]
    torch.testing.assert_close(lengths, before, rtol=0, atol=1e-7)


def test_turns_with_the_crystal(crystals, generator):
    cells, fractional, batch = crystals
    relaxed = cells @ (torch.eye(3, dtype=torch.float64) + 0.1 * normal(generator, 3, 3, 3))
    (turn,) = rotations(generator, 1)
    positions, cell = remove_rotation(cells, positions_in(relaxed, fractional, batch), relaxed, batch)
    turned = remove_rotation(cells @ turn, positions_in(relaxed, fractional, batch), relaxed, batch)
    torch.testing.assert_close(turned, (positions @ turn, cell @ turn), rtol=0, atol=1e-12)
