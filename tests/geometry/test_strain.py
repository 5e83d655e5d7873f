from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from deeprelax_ase.geometry.strain import (
    matrix_product,
    remove_rotation,
    symmetric_exponential,
    symmetric_logarithm,
)
from deeprelax_ase.graph.crystal_graph import rows_times_matrices

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


def random_symmetric(size: int, norm: float) -> Tensor:
    matrices = torch.randn(size, 3, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    matrices = matrices + matrices.mT
    return matrices * (norm / torch.linalg.matrix_norm(matrices, 2))[:, None, None]


@pytest.mark.parametrize(("norm", "tolerance"), [(0.05, 1e-15), (0.3, 1e-10), (0.7, 2e-7)])
def test_exponential_of_symmetric_matrices(norm: float, tolerance: float) -> None:
    matrices = random_symmetric(50, norm)
    error = symmetric_exponential(matrices) - torch.linalg.matrix_exp(matrices)
    assert error.abs().max() < tolerance + 1e-15
    if norm > 0.1:
        assert (symmetric_exponential(matrices, terms=3) - torch.linalg.matrix_exp(matrices)).abs().max() > tolerance


@pytest.mark.parametrize("factor", [0.12, 8.0])
def test_rotation_is_taken_out_of_large_deformations(factor: float) -> None:
    deformation = torch.eye(3, dtype=torch.float64) + torch.tensor([[0.0, 0.4, 0], [-0.4, 0, 0], [0, 0, factor - 1]])
    rotation, stretch = scipy.linalg.polar(deformation.numpy(), side="left")
    _, cell = remove_rotation(torch.eye(3).double()[None], torch.zeros(1, 3), deformation[None], torch.zeros(1).long())
    assert not np.allclose(rotation, np.eye(3))
    np.testing.assert_allclose(cell[0].numpy(), stretch, atol=1e-12)


def test_exponential_of_zero_is_exactly_one() -> None:
    assert torch.equal(symmetric_exponential(torch.zeros(2, 3, 3)), torch.eye(3).expand(2, 3, 3))


def test_matrix_product_is_one() -> None:
    left, right = random_symmetric(6, 3.0), torch.randn(6, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(matrix_product(left, right), left @ right, rtol=0, atol=1e-14)


def test_geometry_keeps_its_precision_under_autocast() -> None:
    cell = random_symmetric(8, 10.0).float()
    rows = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = torch.bmm(cell, cell)
        product, positions = matrix_product(cell, cell), rows_times_matrices(rows, cell)
        exponential = symmetric_exponential(cell / 100)
    exact = cell.double() @ cell.double()
    assert (rounded.double() - exact).abs().max() > 1e-2  # what the functions are there to avoid
    assert product.dtype == positions.dtype == exponential.dtype == torch.float32
    assert (product.double() - exact).abs().max() < 1e-4
    assert (positions.double() - torch.einsum("nx,nxy->ny", rows.double(), cell.double())).abs().max() < 1e-5
    assert (exponential.double() - torch.linalg.matrix_exp(cell.double() / 100)).abs().max() < 1e-6


@pytest.mark.parametrize("strain", [1e-8, 0.05, 0.2])
def test_logarithm_is_scipys(strain: float) -> None:
    matrices = torch.linalg.matrix_exp(2 * random_symmetric(6, strain))
    found = symmetric_logarithm(matrices)
    for matrix, actual in zip(matrices, found, strict=True):
        np.testing.assert_allclose(actual.numpy(), scipy.linalg.logm(matrix.numpy()), rtol=0, atol=1e-13)
    torch.testing.assert_close(found, 2 * random_symmetric(6, strain), rtol=0, atol=1e-13)


def test_logarithm_undoes_the_exponential() -> None:
    strain = random_symmetric(6, 0.1)
    torch.testing.assert_close(symmetric_logarithm(symmetric_exponential(strain)), strain, rtol=0, atol=1e-13)
