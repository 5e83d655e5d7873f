from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from deeprelax_ase.metrics import (
    bond_length_mae,
    cartesian_mae,
    coordinate_mae,
    crystal_mean,
    lattice_mae,
    match_rate,
    volume_error,
)
from deeprelax_ase.structure import Crystal

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
    scaled = torch.zeros(2, 3, dtype=torch.float64)
    moved = torch.tensor([[0.0, 0.1, 0.0], [0.0, -0.1, 0.0]], dtype=torch.float64)
    # 0.1 of the second lattice vector: 0.2 and 0.3 Å.
    assert coordinate_mae(moved, scaled, cell, torch.tensor([0, 0])).tolist() == approx([(0.2 + 0.3) / 3])


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


def test_match_rate_counts_equal_crystals() -> None:
    pytest.importorskip("pymatgen")
    rocksalt = Crystal([11, 17], [[0.0, 0, 0], [2.8, 2.8, 2.8]], (np.ones((3, 3)) - np.eye(3)) * 2.8)
    shifted = Crystal([17, 11], [[3.8, 3.8, 3.8], [1.0, 1.0, 1.0]], rocksalt.cell)
    chloride = Crystal([55, 17], [[0.0, 0, 0], [2.06, 2.06, 2.06]], np.eye(3) * 4.12)
    assert match_rate([rocksalt], [shifted]) == 1.0
    assert match_rate([rocksalt, chloride], [shifted, rocksalt]) == 0.5
    with pytest.raises(ValueError, match="zip"):
        match_rate([rocksalt], [rocksalt, chloride])
