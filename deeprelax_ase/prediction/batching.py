"""Batches of which one crystal may be bad, or that are more than the device holds: nothing else is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import DeepRelaxError, OversizeError, StructureError

Made = TypeVar("Made")

#: What errors say for want of memory that are not torch's own: of the host, and of CUDA's libraries for linear algebra.
_OUT_OF_MEMORY = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "cusolverDnCreate", "cublasCreate")


def grouped(
    items: Iterable[Crystal | DeepRelaxError], atoms_per_batch: int
) -> Iterator[list[Crystal | DeepRelaxError]]:
    """The ``items`` in batches of at most so many atoms, lazily and in order; a larger crystal is one alone."""
    batch: list[Crystal | DeepRelaxError] = []
    atoms = 0
    for item in items:
        size = len(item) if isinstance(item, Crystal) else 0
        if batch and atoms + size > atoms_per_batch:
            yield batch
            batch, atoms = [], 0
        batch.append(item)
        atoms += size
    if batch:
        yield batch


def attempt(
    make: Callable[[Sequence[Crystal]], list[Made]], crystals: Sequence[Crystal], device: torch.device
) -> list[Made | DeepRelaxError]:
    """What ``make`` makes of ``crystals``, all together; those that cannot be done together are tried in halves.

    Args:
        make: does the work; may raise :class:`StructureError`, whose crystal it need not tell, or run out of memory.
        crystals: any number.
        device: where it works.

    Returns:
        For each crystal what was made of it, or why nothing could be.
    """
    try:
        return [*make(crystals)] if crystals else []
    except StructureError as error:
        failure: DeepRelaxError = error
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        failure = OversizeError(
            f"a crystal of {len(crystals[0])} atoms needs more memory than {device} has left. Give its primitive cell, "
            "or take a larger device."
        )
    # out here nothing holds on to the tensors of the batch that failed
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if len(crystals) == 1:
        return [failure]
    half = len(crystals) // 2
    return [*attempt(make, crystals[:half], device), *attempt(make, crystals[half:], device)]


def out_of_memory(error: RuntimeError) -> bool:
    """Whether torch raised ``error`` for want of memory, on a GPU or in the host."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY)
