"""Choice of the crystals for each step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise

import torch
from torch import Tensor

from deeprelax_ase.data.batches import cut


@dataclass(frozen=True, eq=False)
class BatchStream:
    """Endless batches of the indices of pairs, with those of the batch that follows: ``(crystals, upcoming)``.

    The same for the same seed, so that a run that is continued after ``start`` steps sees what an uninterrupted one
    would have seen.

    Attributes:
        counts: (G,) atoms of each crystal.
        atoms: in a batch, to the nearest crystal.
        seed: of the order.
        start: steps to leave out.
        rank, world: this process, and how many there are: each takes every ``world``-th batch.
    """

    counts: Tensor
    atoms: int
    seed: int
    start: int = 0
    rank: int = 0
    world: int = 1

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        own = islice(epochs(self.counts, self.atoms, self.seed), self.rank + self.start * self.world, None, self.world)
        return pairwise(own)

    def steps_per_epoch(self) -> float:
        """Number of steps in which every crystal is seen once, on average."""
        return max(float(self.counts.sum()) / self.atoms, 1.0) / self.world


def epochs(counts: Tensor, atoms: int, seed: int) -> Iterator[Tensor]:
    """Endless epochs in random order, cut into batches (n,) of crystals with about ``atoms`` atoms."""
    generator = torch.Generator(counts.device).manual_seed(seed)
    while True:
        order = torch.randperm(len(counts), device=counts.device, generator=generator)
        yield from cut(order, counts, atoms)
