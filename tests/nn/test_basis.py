from __future__ import annotations

import itertools
import math

import pytest
import torch

from deeprelax_ase.nn.basis import GaussianBasis, cell_offset_encoding, cell_offset_index


def offsets_within(r: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product(range(-r, r + 1), repeat=3)))


def test_gaussians_peak_at_their_centres_and_fall_by_the_spacing() -> None:
    basis = GaussianBasis(7, 12.0).double()
    assert basis.centers.tolist() == [0, 2, 4, 6, 8, 10, 12]
    values = basis(torch.tensor([4.0, 5.0, 100.0], dtype=torch.float64))
    assert values.shape == (3, 7)
    for length, row in zip([4.0, 5.0, 100.0], values.tolist(), strict=True):
        expected = [math.exp(-((length - centre) ** 2) / (2 * 2.0**2)) for centre in range(0, 13, 2)]
        assert row == pytest.approx(expected, rel=1e-14, abs=1e-300)
    assert values[0, 2] == 1.0
    assert values[0, 3] == pytest.approx(math.exp(-0.5))


def test_the_basis_leaves_no_weights_behind() -> None:
    # The centres follow from the configuration: a checkpoint that held them could contradict it.
    assert not GaussianBasis(7, 12.0).state_dict()


def test_index_is_the_papers_formula() -> None:
    offsets = offsets_within(2)
    expected = [(k1 + 2) + (k2 + 2) * 5 + (k3 + 2) * 25 for k1, k2, k3 in offsets.tolist()]
    index = cell_offset_index(offsets, 2)
    assert index.tolist() == expected
    assert index.dtype == torch.int64
    assert cell_offset_index(torch.zeros(1, 3, dtype=torch.int64), 2).item() == 62


@pytest.mark.parametrize("r", [0, 1, 2, 3])
def test_index_is_a_bijection_on_the_offsets_within_range(r: int) -> None:
    assert sorted(cell_offset_index(offsets_within(r), r).tolist()) == list(range((2 * r + 1) ** 3))


def test_offsets_beyond_the_range_are_not_clamped() -> None:
    beyond = torch.tensor([[3, 0, 0], [-2, 1, 0], [2, 0, 0], [0, 0, 3], [0, 0, -3]])
    index = cell_offset_index(beyond, 2).tolist()
    assert index[0] == index[1] == 65  # aliases
    assert index[2] == 64  # clamping would have put (3, 0, 0) here
    assert index[3] == 2 + 2 * 5 + 5 * 25 >= 125  # out of [0, 125): an index of its own
    assert index[4] == 2 + 2 * 5 - 25 < 0
    assert len(set(cell_offset_index(beyond, 3).tolist())) == 5


@pytest.mark.parametrize("channels", [2, 8, 64])
def test_encoding_is_equations_2_and_3(channels: int) -> None:
    offsets = torch.cat([offsets_within(2), torch.tensor([[3, 0, 0], [-4, -4, -4]])])
    encoding = cell_offset_encoding(offsets, channels)
    assert encoding.shape == (127, channels)
    assert encoding.dtype == torch.float32
    for row, (k1, k2, k3) in zip(encoding.tolist(), offsets.tolist(), strict=True):
        big_k = (k1 + 2) + (k2 + 2) * 5 + (k3 + 2) * 25
        for f in range(channels):
            expected = (
                math.sin(big_k / 10000 ** (f / channels))
                if f % 2 == 0
                else math.cos(big_k / 10000 ** ((f - 1) / channels))
            )
            assert row[f] == pytest.approx(expected, abs=2e-5)  # phases up to 225 in float32


def test_encoding_tells_every_cell_apart() -> None:
    encoding = cell_offset_encoding(offsets_within(2), 64)
    apart = torch.cdist(encoding, encoding) + 10 * torch.eye(125)
    assert apart.min() > 0.1


def test_a_wider_range_shifts_the_index() -> None:
    offsets = torch.tensor([[1, 0, -1]])
    wide = cell_offset_encoding(offsets, 8, offset_range=3)
    assert cell_offset_index(offsets, 3).item() == 4 + 3 * 7 + 2 * 49
    assert wide[0, 0].item() == pytest.approx(math.sin(4 + 3 * 7 + 2 * 49), abs=2e-5)
