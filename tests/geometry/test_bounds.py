from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deeprelax_ase.geometry import bounded_euclidean_distance_loss, distance_bounds

LENGTHS = st.floats(0, 20, allow_subnormal=False)


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_bounds_lie_one_scale_to_either_side():
    lower, upper = distance_bounds(tensor(2.0, 3.0), tensor(0.5, 0.0))
    torch.testing.assert_close(lower, tensor(1.5, 3.0))
    torch.testing.assert_close(upper, tensor(2.5, 3.0))


def test_bound_scale_widens_the_bounds():
    lower, upper = distance_bounds(tensor(2.0), tensor(0.25), bound_scale=3.0)
    torch.testing.assert_close(upper - lower, tensor(1.5))


def test_no_lower_bound_is_negative():
    lower, upper = distance_bounds(tensor(0.1), tensor(0.5))
    assert lower.item() == 0
    assert upper.item() == pytest.approx(0.6)


def test_the_loss_is_the_distance_to_the_bounds():
    lengths = tensor(1.0, 1.5, 2.0, 2.5, 3.25)
    loss = bounded_euclidean_distance_loss(lengths, tensor(1.5).expand(5), tensor(2.5).expand(5))
    torch.testing.assert_close(loss, tensor(0.5, 0.0, 0.0, 0.0, 0.75))


@given(length=LENGTHS, distance=LENGTHS, scale=st.floats(0, 5, allow_subnormal=False))
def test_the_loss_follows_equation_20(length: float, distance: float, scale: float):
    loss = bounded_euclidean_distance_loss(tensor(length), *distance_bounds(tensor(distance), tensor(scale))).item()
    low, high = max(distance - scale, 0.0), distance + scale
    assert loss == pytest.approx(max(0.0, length - high) + max(0.0, low - length), abs=1e-12)
    assert (loss == 0) == (low <= length <= high)
