from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from deeprelax_ase.nn.harmonics import (
    TENSOR,
    VECTOR,
    harmonics,
    tensor_coefficients,
    tensor_matrix,
    tensor_times_vector,
    vector_product,
)

F = 4


@pytest.fixture
def normal(rng: np.random.Generator):
    return lambda *shape: torch.from_numpy(rng.normal(size=shape))


def directions(normal, size: int = 7) -> Tensor:
    vectors = normal(size, 3)
    return vectors / vectors.norm(dim=1, keepdim=True)


def matrices(tensors: Tensor) -> Tensor:
    """(N, 5, F) to (N, F, 3, 3)."""
    rows = tensors.transpose(1, 2).reshape(-1, 5)
    return tensor_matrix(rows).view(len(tensors), -1, 3, 3)


def vectors(rows: Tensor) -> Tensor:
    """(N, 3, F) to (N, F, 3)."""
    return rows.transpose(1, 2)


def traceless_symmetric(matrix: Tensor) -> Tensor:
    symmetric = (matrix + matrix.mT) / 2
    trace = symmetric.diagonal(dim1=-2, dim2=-1).sum(-1)
    return symmetric - trace[..., None, None] / 3 * torch.eye(3, dtype=matrix.dtype)


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-13)


# -- what the coefficients stand for


def test_matrices_are_symmetric_and_traceless(normal) -> None:
    made = tensor_matrix(normal(6, 5))
    assert torch.equal(made, made.mT)
    assert_equal(made.diagonal(dim1=1, dim2=2).sum(dim=1), torch.zeros(6).double())


def test_the_basis_is_orthonormal() -> None:
    basis = tensor_matrix(torch.eye(5, dtype=torch.float64)).flatten(start_dim=1)
    assert_equal(basis @ basis.T, torch.eye(5, dtype=torch.float64))


def test_coefficients_come_in_the_order_stated() -> None:
    xy, yz, zx, difference, last = tensor_matrix(torch.eye(5, dtype=torch.float64))
    for matrix, (i, j) in ((xy, (0, 1)), (yz, (1, 2)), (zx, (2, 0))):
        assert matrix[i, j] == pytest.approx(2**-0.5)
        assert int((matrix != 0).sum()) == 2
    assert_equal(difference, torch.diag(torch.tensor([1.0, -1.0, 0.0]).double()) / 2**0.5)
    assert_equal(last, torch.diag(torch.tensor([-1.0, -1.0, 2.0]).double()) / 6**0.5)


def test_matrices_and_their_coefficients_are_each_others_inverse(normal) -> None:
    coefficients, square = normal(6, 5), normal(6, 3, 3)
    assert_equal(tensor_coefficients(tensor_matrix(coefficients)), coefficients)
    assert_equal(tensor_matrix(tensor_coefficients(square + square.mT)), 2 * traceless_symmetric(square))


def test_coefficients_leave_out_the_trace(normal) -> None:
    square = normal(6, 3, 3)
    symmetric, identity = square + square.mT, torch.eye(3, dtype=torch.float64)
    assert_equal(tensor_coefficients(symmetric + 7.5 * identity), tensor_coefficients(symmetric))
    assert_equal(tensor_coefficients(identity[None]), torch.zeros(1, 5).double())


# -- harmonics


def test_harmonics_are_the_direction_and_its_traceless_square(normal) -> None:
    unit = directions(normal)
    found = harmonics(unit)
    assert found.shape == (7, 8)
    assert_equal(found[:, VECTOR], 3**0.5 * unit)
    square = unit[:, :, None] * unit[:, None, :]
    assert_equal(tensor_matrix(found[:, TENSOR]), 7.5**0.5 * traceless_symmetric(square))


def test_harmonics_have_unit_variance_over_the_sphere_and_no_mean() -> None:
    # The icosahedron is a spherical 5-design: its mean is exact for polynomials of the directions up to that degree.
    golden = (1 + 5**0.5) / 2
    corners = [np.roll([0.0, s, t * golden], k) for k in range(3) for s in (1, -1) for t in (1, -1)]
    unit = torch.from_numpy(np.array(corners) / np.hypot(1.0, golden))
    found = harmonics(unit)
    assert_equal(found.mean(dim=0), torch.zeros(8).double())
    assert_equal(found.T @ found / 12, torch.eye(8, dtype=torch.float64))


def test_harmonics_turn_as_vectors_and_matrices_do(normal, isometry: Tensor) -> None:
    unit = directions(normal)
    found, turned = harmonics(unit), harmonics(unit @ isometry)
    assert_equal(turned[:, VECTOR], found[:, VECTOR] @ isometry)
    assert_equal(tensor_matrix(turned[:, TENSOR]), isometry.T @ tensor_matrix(found[:, TENSOR]) @ isometry)


def test_opposite_directions_differ_in_the_vector_alone(normal) -> None:
    unit = directions(normal)
    found, opposite = harmonics(unit), harmonics(-unit)
    assert torch.equal(opposite[:, VECTOR], -found[:, VECTOR])
    assert torch.equal(opposite[:, TENSOR], found[:, TENSOR])


# -- products


def test_vector_product_is_the_traceless_symmetric_part_of_the_outer_product(normal) -> None:
    left, right = normal(5, 3, F), normal(5, 3, F)
    outer = vectors(left)[..., :, None] * vectors(right)[..., None, :]
    assert_equal(matrices(vector_product(left, right)), traceless_symmetric(outer))
    assert torch.equal(vector_product(left, right), vector_product(right, left))


def test_tensor_times_vector_is_the_matrix_times_the_vector(normal) -> None:
    tensor, vector = normal(5, 5, F), normal(5, 3, F)
    expected = (matrices(tensor) @ vectors(vector)[..., None]).squeeze(-1)
    assert_equal(vectors(tensor_times_vector(tensor, vector)), expected)


def test_products_turn_with_what_they_are_made_of(normal, isometry: Tensor) -> None:
    """Tensors made of directions turn with these: sums of their harmonics span all tensors."""
    unit, weights, other = directions(normal, 6), normal(6, F), directions(normal, 6)

    def products(turn: Tensor) -> tuple[Tensor, Tensor]:
        found = harmonics(unit @ turn)[:, :, None] * weights[:, None]
        vector = harmonics(other @ turn)[:, VECTOR, None] * weights[:, None]
        return tensor_times_vector(found[:, TENSOR], vector), vector_product(found[:, VECTOR], vector)

    (vector, tensor), (turned_vector, turned_tensor) = products(torch.eye(3).double()), products(isometry)
    assert_equal(vectors(turned_vector), vectors(vector) @ isometry)
    assert_equal(matrices(turned_tensor), isometry.T @ matrices(tensor) @ isometry)
    assert vector.abs().max() > 0.1
    assert tensor.abs().max() > 0.1
