from __future__ import annotations

from itertools import islice, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from deeprelax_ase.data.batches import Batches, cut
from deeprelax_ase.training.batches import BatchStream, epochs

COUNTS = torch.tensor([2, 4, 30, 1, 5, 3, 2, 8])
counts_of = st.lists(st.integers(1, 24), min_size=1, max_size=40).map(torch.tensor)


def first(stream: BatchStream, size: int) -> list[tuple[list[int], list[int]]]:
    return [(crystals.tolist(), upcoming.tolist()) for crystals, upcoming in islice(stream, size)]


def test_epochs_cover_every_crystal_once() -> None:
    batches = epochs(COUNTS, 10, seed=0)
    seen = []
    for _ in range(3):
        epoch: list[int] = []
        while len(epoch) < len(COUNTS):
            chunk = next(batches).tolist()
            assert chunk
            epoch += chunk
        assert sorted(epoch) == list(range(len(COUNTS)))
        seen.append(epoch)
    assert seen[0] != seen[1]
    again = next(epochs(COUNTS, 10, seed=0)).tolist()
    assert again == seen[0][: len(again)]
    other = torch.cat(list(islice(epochs(COUNTS, 1000, seed=1), 1))).tolist()
    assert other != seen[0]


def test_batches_have_about_the_atoms_asked_for() -> None:
    counts = torch.randint(1, 25, (500,), generator=torch.Generator().manual_seed(0))
    batches = epochs(counts, 200, seed=1)
    atoms = [int(counts[next(batches)].sum()) for _ in range(int(counts.sum()) // 200)]
    assert min(atoms) > 200 - 25
    assert max(atoms) < 200 + 25


@given(counts_of, st.integers(1, 60), st.randoms(use_true_random=False))
def test_cutting_keeps_every_crystal_in_order_and_leaves_no_batch_empty(counts: Tensor, atoms: int, random) -> None:
    order = torch.tensor(random.sample(range(len(counts)), len(counts)))
    batches = cut(order, counts, atoms)
    assert torch.equal(torch.cat(batches), order)
    assert min(len(batch) for batch in batches) > 0
    assert max(int(counts[batch].sum()) for batch in batches) < atoms + int(counts.max())


@given(counts_of, st.integers(1, 60))
def test_in_order_each_crystal_is_seen_once(counts: Tensor, atoms: int) -> None:
    assert torch.cat(list(Batches(counts, atoms))).tolist() == list(range(len(counts)))


def test_a_stream_tells_the_batch_that_follows() -> None:
    expected = [batch.tolist() for batch in islice(epochs(COUNTS, 10, seed=3), 21)]
    assert first(BatchStream(COUNTS, 10, seed=3), 20) == list(pairwise(expected))


@pytest.mark.parametrize("world", [1, 3])
def test_a_stream_that_starts_later_goes_on_as_if_uninterrupted(world: int) -> None:
    for rank in range(world):
        whole = first(BatchStream(COUNTS, 10, seed=3, rank=rank, world=world), 20)
        for start in (1, 7):
            assert (
                first(BatchStream(COUNTS, 10, seed=3, start=start, rank=rank, world=world), 20 - start)
                == (whole[start:])
            )


def test_processes_share_the_batches_of_one() -> None:
    alone = [crystals for crystals, _ in first(BatchStream(COUNTS, 10, seed=3), 12)]
    shares = [[c for c, _ in first(BatchStream(COUNTS, 10, seed=3, rank=rank, world=3), 4)] for rank in range(3)]
    assert [share[step] for step in range(4) for share in shares] == alone


def test_an_epoch_has_so_many_steps() -> None:
    counts = torch.full((50,), 4)
    assert BatchStream(counts, 20, seed=0).steps_per_epoch() == 10
    assert BatchStream(counts, 20, seed=0, world=4).steps_per_epoch() == 2.5
    assert BatchStream(counts, 9999, seed=0).steps_per_epoch() == 1  # all in one batch
    batches = epochs(counts, 20, seed=0)
    assert [len(next(batches)) for _ in range(20)] == [5] * 20  # none is left over
