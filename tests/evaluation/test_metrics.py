from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from deeprelax_ase.data import RelaxationPairs, crystals_of
from deeprelax_ase.evaluation.metrics import (
    bond_length_mae,
    cartesian_mae,
    coordinate_mae,
    crystal_errors,
    lattice_mae,
    prediction_errors,
    rank_correlation,
    reliability,
    rotation_free_lattice_mae,
    volume_error,
)
from deeprelax_ase.graph.crystal_graph import crystal_mean

#: Two crystals, of two atoms and of one.
BATCH = torch.tensor([0, 0, 1])
CELL = torch.diag_embed(torch.tensor([[4.0, 5.0, 6.0], [3.0, 3.0, 3.0]], dtype=torch.float64))
TRUE = torch.tensor([[0.1, 0.2, 0.3], [0.6, 0.7, 0.8], [0.5, 0.5, 0.5]], dtype=torch.float64)
ERROR = torch.tensor([[0.01, 0.0, -0.02], [-0.01, 0.0, 0.02], [0.0, 0.0, 0.0]], dtype=torch.float64)


def approx(values: list[float]) -> object:
    return pytest.approx(values, abs=1e-12)


def test_coordinate_mae_by_hand() -> None:
    # |0.01 x 4| + |0 x 5| + |0.02 x 6| over three components, the same for both atoms.
    assert coordinate_mae(TRUE + ERROR, TRUE, CELL, BATCH).tolist() == approx([(0.04 + 0.12) / 3, 0.0])


def test_coordinate_mae_in_an_oblique_cell() -> None:
    cell = torch.tensor([[[4.0, 0.0, 0.0], [2.0, 3.0, 0.0], [1.0, 1.0, 5.0]]], dtype=torch.float64)
    fractional = torch.zeros(2, 3, dtype=torch.float64)
    moved = torch.tensor([[0.0, 0.1, 0.0], [0.0, -0.1, 0.0]], dtype=torch.float64)
    # 0.1 of the second lattice vector: 0.2 and 0.3 Å.
    assert coordinate_mae(moved, fractional, cell, torch.tensor([0, 0])).tolist() == approx([(0.2 + 0.3) / 3])


def test_coordinate_mae_is_zero_at_the_truth_alone() -> None:
    assert coordinate_mae(TRUE, TRUE, CELL, BATCH).tolist() == [0.0, 0.0]
    assert coordinate_mae(TRUE + ERROR, TRUE, CELL, BATCH)[0] > 0.01


@given(
    shift=st.lists(st.floats(-3, 3), min_size=3, max_size=3),
    images=st.lists(st.integers(-3, 3), min_size=9, max_size=9),
)
def test_coordinate_mae_knows_neither_origin_nor_images(shift: list[float], images: list[int]) -> None:
    predicted = TRUE + ERROR + torch.tensor(shift, dtype=torch.float64) + torch.tensor(images).view(3, 3)
    expected = coordinate_mae(TRUE + ERROR, TRUE, CELL, BATCH)
    assert coordinate_mae(predicted, TRUE, CELL, BATCH).tolist() == approx(expected.tolist())


def test_coordinate_mae_of_a_shift_by_half_a_cell() -> None:
    # Rounding alone would send the two atoms to different images.
    predicted = TRUE + ERROR + 0.5
    expected = coordinate_mae(TRUE + ERROR, TRUE, CELL, BATCH)
    assert coordinate_mae(predicted, TRUE, CELL, BATCH).tolist() == approx(expected.tolist())


def test_coordinate_mae_of_a_crystal_does_not_depend_on_the_others() -> None:
    alone = coordinate_mae((TRUE + ERROR)[:2], TRUE[:2], CELL[:1], BATCH[:2])
    other = torch.tensor([[0.4, 0.1, 0.2]], dtype=torch.float64)
    together = coordinate_mae(torch.cat([(TRUE + ERROR)[:2], other]), TRUE, CELL, BATCH)
    assert together[0].item() == pytest.approx(alone.item(), abs=1e-15)


def test_cartesian_mae_is_equation_25_per_component() -> None:
    positions = torch.tensor([[0.0, 0, 0], [1, 1, 1], [2, 2, 2]], dtype=torch.float64)
    moved = positions + torch.tensor([[0.3, 0, 0], [0, -0.6, 0], [0.1, 0.1, 0.1]], dtype=torch.float64)
    assert cartesian_mae(moved, positions, BATCH, 2).tolist() == approx([0.9 / 6, 0.1])
    # As printed, it does know the origin.
    assert cartesian_mae(positions + 1, positions, BATCH, 2).tolist() == approx([1.0, 1.0])


def test_bond_length_mae_is_equation_26() -> None:
    true = torch.tensor([2.0, 2.5, 3.0, 4.0], dtype=torch.float64)
    predicted = torch.tensor([2.1, 2.3, 3.0, 3.0], dtype=torch.float64)
    assert bond_length_mae(predicted, true, torch.tensor([0, 0, 0, 1]), 2).tolist() == approx([0.1, 1.0])


def test_a_crystal_without_edges_has_no_bond_error() -> None:
    edges = torch.zeros(0, dtype=torch.float64)
    assert bond_length_mae(edges, edges, edges.long(), 2).tolist() == [0.0, 0.0]


def test_lattice_mae_is_equation_27() -> None:
    error = torch.zeros(2, 3, 3, dtype=torch.float64)
    error[0, 0, 0], error[0, 1, 2], error[1, 2, 2] = 0.9, -0.9, 0.45
    assert lattice_mae(CELL + error, CELL).tolist() == approx([0.2, 0.05])


def test_volume_error_is_equation_28_and_knows_no_handedness() -> None:
    larger = CELL.clone()
    larger[0, 0, 0], larger[1, 1, 1] = 4.5, 2.0
    assert volume_error(larger, CELL).tolist() == approx([15.0, 9.0])
    assert volume_error(-larger, CELL).tolist() == approx([15.0, 9.0])


def test_crystal_mean_weighs_values_alike() -> None:
    values = torch.tensor([[1.0, 10.0], [3.0, 30.0], [5.0, 50.0]])
    mean = crystal_mean(values, torch.tensor([2, 2, 0]), 3)
    assert mean.tolist() == [[5.0, 50.0], [0.0, 0.0], [2.0, 20.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_types_are_kept(dtype: torch.dtype) -> None:
    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(dtype)

    assert coordinate_mae(cast(TRUE + ERROR), cast(TRUE), cast(CELL), BATCH).dtype == dtype
    assert volume_error(cast(CELL), cast(CELL)).dtype == dtype


# -- all errors of predicted crystals


@pytest.fixture
def pairs(pairs_of) -> RelaxationPairs:
    return pairs_of(7)


def test_errors_are_zero_for_the_truth_and_only_for_it(pairs: RelaxationPairs) -> None:
    right = prediction_errors(pairs, pairs.fractional_relaxed, pairs.cell_relaxed)
    wrong = prediction_errors(pairs, pairs.fractional_initial, pairs.cell_initial)
    for name in right.keys() | wrong.keys():
        assert right[name].shape == (7,)
        assert right[name].max() < 1e-12
        assert wrong[name].min() > 1e-4


def test_errors_of_a_crystal_that_is_too_large(pairs: RelaxationPairs) -> None:
    """2 % in every length; the coordinates are measured in the true cell."""
    found = prediction_errors(pairs, pairs.fractional_relaxed, 1.02 * pairs.cell_relaxed)
    assert found["coordinates"].max() < 1e-14
    torch.testing.assert_close(found["relative_volume"], torch.full((7,), 1.02**3 - 1).double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(found["lattice"], 0.02 * pairs.cell_relaxed.abs().mean(dim=(1, 2)), rtol=1e-12, atol=0)
    torch.testing.assert_close(found["volume"], (1.02**3 - 1) * torch.linalg.det(pairs.cell_relaxed).abs())


def test_errors_of_crystals_are_those_of_their_tensors(pairs: RelaxationPairs) -> None:
    found = crystal_errors(pairs, crystals_of(pairs, "initial"))
    expected = prediction_errors(pairs, pairs.fractional_initial, pairs.cell_initial)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-10, err_msg=name)


def test_a_two_atom_fcc_cell_under_large_noise() -> None:
    """The nearest of all images: the error is that of half the shortest vector between the two displacements."""
    generator = torch.Generator().manual_seed(0)
    cell = 2.1 * (torch.ones(3, 3) - torch.eye(3)).double().expand(2000, 3, 3)
    moved = 0.4 * torch.randn(2000, 2, 3, generator=generator, dtype=torch.float64)
    fractional = torch.linalg.solve(cell, moved, left=False).reshape(-1, 3)
    found = coordinate_mae(fractional, torch.zeros_like(fractional), cell, torch.arange(2000).repeat_interleave(2))
    images = torch.cartesian_prod(*[torch.arange(-2, 3).double()] * 3) @ cell[0]
    between = (moved[:, 1] - moved[:, 0])[:, None] + images
    torch.testing.assert_close(found, between.abs().sum(dim=2).amin(dim=1) / 6, rtol=0, atol=1e-12)


# -- the lattice without rotation


def turn(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]


@given(seed=st.integers(0, 1000))
def test_no_rotation_of_the_prediction_changes_the_lattice_error(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    strain = 0.1 * torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)
    cell = CELL @ (torch.eye(3, dtype=torch.float64) + (strain + strain.mT) / 2)
    expected = lattice_mae(cell, CELL)
    assert rotation_free_lattice_mae(cell, CELL).tolist() == pytest.approx(expected.tolist(), abs=1e-10)
    assert rotation_free_lattice_mae(cell @ turn(seed), CELL).tolist() == pytest.approx(expected.tolist(), abs=1e-10)


@given(seed=st.integers(0, 1000))
def test_a_rotation_of_the_truth_turns_the_axes_of_the_lattice_error(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    strain = 0.1 * torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)
    cell = CELL @ (torch.eye(3, dtype=torch.float64) + (strain + strain.mT) / 2)
    norm = torch.linalg.vector_norm(cell - CELL, dim=(1, 2))
    error = rotation_free_lattice_mae(cell, CELL @ turn(seed))
    assert error.tolist() == pytest.approx(lattice_mae(cell @ turn(seed), CELL @ turn(seed)).tolist(), abs=1e-10)
    assert (norm / 9 - 1e-12 <= error).all()
    assert (error <= norm / 3 + 1e-12).all()


def test_a_rotation_is_no_error() -> None:
    assert lattice_mae(CELL @ turn(1), CELL).min() > 0.1
    assert rotation_free_lattice_mae(CELL @ turn(1), CELL).tolist() == approx([0.0, 0.0])


def test_rank_correlation() -> None:
    error = np.array([0.1, 0.5, 0.3, 0.9])
    assert rank_correlation(error**3, error) == pytest.approx(1)
    assert rank_correlation(-error, error) == pytest.approx(-1)
    assert np.isnan(rank_correlation(np.ones(4), error))
    assert np.isnan(rank_correlation(error[:1], error[:1]))


def test_reliability() -> None:
    error = np.linspace(0.2, 2.0, 40)
    found = reliability(error, error / 2, np.full(40, 1.0))
    assert found["coverage"] == pytest.approx(0.45, abs=0.03)
    assert (found["error"], found["expected"]) == (pytest.approx(1.1), pytest.approx(0.55))
    assert found["rank correlation"] == pytest.approx(1)
    assert reliability(error, np.ones(40), error)["rank correlation"] is None
