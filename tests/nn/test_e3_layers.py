from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deeprelax_ase.nn.e3_layers import Refinement, Sources, Update, rms_normalize
from deeprelax_ase.nn.harmonics import TENSOR, VECTOR, harmonics

F, ATOMS = 8, 5


def features(isometry: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Scalars x (N, F) and stacks h (N, 8, F) made of random directions, which ``isometry`` turns."""
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(ATOMS, F, generator=generator, dtype=torch.float64)
    directions = torch.nn.functional.normalize(
        torch.randn(ATOMS * F * 4, 3, generator=generator, dtype=torch.float64), dim=1
    )
    if isometry is not None:
        directions = directions @ isometry
    return x, harmonics(directions).view(ATOMS, F, 4, 8).sum(dim=2).transpose(1, 2)


def turned_stack(isometry: Tensor) -> Tensor:
    """(8, 8) what a turn does to the rows of a stack, from what it does to harmonics."""
    directions = torch.nn.functional.normalize(
        torch.randn(50, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64), dim=1
    )
    return torch.linalg.lstsq(harmonics(directions), harmonics(directions @ isometry)).solution


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def normalized(stack: Tensor) -> Tensor:
    """The normalized vectors and tensors as one stack again."""
    return torch.cat(rms_normalize(stack), dim=1)


def test_rms_normalize_scales_each_rank_by_its_own_size() -> None:
    _, h = features()
    for rows, other in ((VECTOR, TENSOR), (TENSOR, VECTOR)):
        large = h.clone()
        large[:, rows] *= 1e8
        assert_equal(normalized(large)[:, rows].square().mean(dim=(1, 2)), torch.ones(ATOMS).double())
        assert torch.equal(normalized(large)[:, other], normalized(h)[:, other])
        size = 1 + h[:, rows].square().mean(dim=(1, 2), keepdim=True)
        assert_equal(normalized(h)[:, rows], h[:, rows] / size.sqrt())


def test_rms_normalize_leaves_what_is_nearly_zero_alone() -> None:
    _, h = features()
    torch.testing.assert_close(normalized(1e-9 * h), 1e-9 * h, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", ["update", "sources", "refinement"])
def test_parts_turn_with_what_they_are_given(shuffled, isometry: Tensor, kind: str) -> None:
    turn = turned_stack(isometry)

    def on_rows(stack: Tensor) -> Tensor:
        return torch.einsum("nrf,rs->nsf", stack, turn)

    (x, h), (same, turned) = features(), features(isometry)
    assert torch.equal(x, same)
    assert_equal(turned, on_rows(h))
    if kind == "sources":
        sources = shuffled(Sources(F, tensors=True))
        (b, g), (turned_b, turned_g) = sources(x, h), sources(x, turned)
        assert_equal(turned_b, b)
        assert_equal(turned_g, on_rows(g))
    elif kind == "update":
        update = shuffled(Update(F, 12))
        messages = torch.cat([x[:, None], 2 * h], dim=1)
        turned_messages = torch.cat([x[:, None], 2 * turned], dim=1)
        (new_x, new_h), (turned_x, turned_h) = update(x, h, messages), update(x, turned, turned_messages)
        assert_equal(turned_x, new_x)
        assert_equal(turned_h, on_rows(new_h))
    else:
        refinement = shuffled(Refinement(F))
        (moves, strain, raw), (turned_moves, turned_strain, turned_raw) = refinement(x, h), refinement(x, turned)
        assert_equal(turned_moves, moves @ turn[VECTOR, VECTOR])
        assert_equal(turned_strain[:, 1:], strain[:, 1:] @ turn[TENSOR, TENSOR])
        assert_equal(turned_strain[:, 0], strain[:, 0])
        assert_equal(turned_raw, raw)
        assert moves.abs().min() > 0


def test_without_tensors_nothing_of_rank_two_is_sent(shuffled) -> None:
    b, g = shuffled(Sources(F, tensors=False))(*features())
    assert not b[:, 2].any()
    assert not g[:, TENSOR].any()
    assert b[:, :2].all()
    assert g[:, VECTOR].all()


def test_an_atom_without_messages_still_mixes_its_ranks(shuffled) -> None:
    x, h = features()
    h = torch.cat([h[:, VECTOR], torch.zeros_like(h[:, TENSOR])], dim=1)
    _, new = shuffled(Update(F, 12))(x, h, torch.zeros(ATOMS, 9, F).double())
    assert new[:, TENSOR].norm(dim=1).min() > 1e-4  # tensors form of products of vectors


def test_an_untrained_refinement_moves_nothing() -> None:
    moves, strain, raw = Refinement(F).double()(*features())
    assert moves.shape == (ATOMS, 3)
    assert strain.shape == (ATOMS, 6)
    assert raw.shape == (ATOMS, 3)
    assert not torch.cat([moves, strain, raw], dim=1).any()
