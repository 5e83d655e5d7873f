from __future__ import annotations

from contextlib import nullcontext
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from deeprelax_ase.training.prefetch import Prefetch


class Stream:
    """Stands for a CUDA stream where there is none."""

    def __init__(self, *arguments, **options) -> None:
        self.waits = 0

    def wait_stream(self, other: Stream) -> None:
        self.waits += 1


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())


def ahead_of(seed: int) -> tuple[Prefetch[Tensor], torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    return Prefetch(lambda crystals: crystals + torch.rand(2, generator=generator), generator, "cpu"), generator


def test_batches_come_in_order_with_the_random_numbers_of_theirs(streams) -> None:
    ahead, _ = ahead_of(3)
    drawn = torch.Generator().manual_seed(3)
    steps = [torch.tensor([n, n + 1.0]) for n in range(5)]
    for step, upcoming in pairwise(steps):
        torch.testing.assert_close(ahead.take(step), step + torch.rand(2, generator=drawn), rtol=0, atol=0)
        ahead.prepare(upcoming)


@pytest.mark.parametrize("prepared", [True, False])
def test_a_run_goes_on_with_the_batch_that_an_uninterrupted_one_sees(streams, prepared: bool) -> None:
    ahead, _ = ahead_of(3)
    here, then = torch.zeros(2), torch.ones(2)
    ahead.take(here)
    if prepared:
        ahead.prepare(then)
    again, generator = ahead_of(9)
    generator.set_state(ahead.state())
    assert torch.equal(again.take(then), ahead.take(then))
