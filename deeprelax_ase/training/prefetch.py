"""Steps that do not wait for the host: the next batch is prepared while the last one is learnt from."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.data.batches import pair_graph
from deeprelax_ase.training.augment import augment
from deeprelax_ase.training.batches import epochs
from deeprelax_ase.training.padding import Sizes
from deeprelax_ase.training.settings import TrainingSettings

Batch = TypeVar("Batch")

#: Batches whose sizes decide how much room there is: of 12,000 atoms, they have 912 crystals, give or take 29.
_LOOKED_AT = 12


class Prefetch(Generic[Batch]):
    """Batches that are prepared on a CUDA stream of their own, one ahead of the step.

    Args:
        prepare: makes a batch of the pairs with the indices (n,), with random numbers of ``generator``.
        generator: of the run.
        device: a CUDA device.
    """

    def __init__(
        self, prepare: Callable[[Tensor], Batch], generator: torch.Generator, device: torch.device | str
    ) -> None:
        self._prepare, self._generator = prepare, generator
        # First in turn: its small kernels would each wait for a large one of the step, and the host for some of them.
        self._stream = torch.cuda.Stream(device, priority=-1)
        self._held: Batch | None = None  # the last one, until nothing reads it any more
        self._next: Batch | None = None
        self._state_before: Tensor | None = None  # of the generator, before the next batch was prepared

    def take(self, crystals: Tensor) -> Batch:
        """The batch that was prepared of ``crystals`` (n,); what is prepared next sees what was done up to here."""
        self._stream.wait_stream(torch.cuda.current_stream())
        if self._next is None:
            self.prepare(crystals)
        batch = self._held = self._next
        assert batch is not None
        self._next = None
        return batch

    def prepare(self, crystals: Tensor) -> None:
        """Prepare the next batch, of ``crystals``."""
        self._state_before = self._generator.get_state()
        with torch.cuda.stream(self._stream):
            self._next = self._prepare(crystals)
        torch.cuda.current_stream().wait_stream(self._stream)

    def state(self) -> Tensor:
        """The state of the random numbers that the next step starts from."""
        return self._generator.get_state() if self._next is None or self._state_before is None else self._state_before


class Room:
    """Sizes of padded batches: those of the batches of some steps, and of larger ones that came since.

    To record a step of other sizes takes long, so that some batches are looked at first.

    Args:
        seen: the sizes of those.
    """

    def __init__(self, seen: list[Sizes]) -> None:
        self._seen = seen

    def around(self, given: Sizes) -> Sizes:
        """Sizes that hold a batch of the sizes ``given``: mostly those of before."""
        if not Sizes.around(self._seen).hold(given):
            self._seen = [*self._seen, given]
        return Sizes.around(self._seen)


def likely_sizes(
    pairs: RelaxationPairs, config: Any, settings: TrainingSettings, device: torch.device | str
) -> list[Sizes]:
    """Measure the sizes of twelve batches of ``pairs`` as ``config`` has them, with random numbers of their own."""
    generator = torch.Generator(device).manual_seed(settings.seed)
    stream = islice(epochs(pairs.counts, settings.atoms_per_batch, settings.seed), _LOOKED_AT)
    found = []
    for crystals in stream:
        start = augment(pairs.take(crystals).to(device), settings.augmentation, generator)
        graph = pair_graph(start, config.graph)
        found.append(Sizes(graph.num_atoms, graph.num_edges, len(start), int(graph.in_cell.sum())))
    return found
