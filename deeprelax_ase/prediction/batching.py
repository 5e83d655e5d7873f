"""Batches of which one crystal may be bad, or that are more than the device holds: nothing else is lost."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import TypeVar

import torch

from deeprelax_ase.errors import BrokenStructureError, DeepRelaxError, DeviceError, OversizeError, StructureError

Made = TypeVar("Made")

#: A crystal, or something that is as long as it has atoms.
Item = TypeVar("Item", bound=Sized)

#: Messages for want of memory that are not torch's own: of the host, and of CUDA's libraries for linear algebra.
_OUT_OF_MEMORY = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "cusolverDnCreate", "cublasCreate")


def grouped(items: Iterable[Item | DeepRelaxError], atoms_per_batch: int) -> Iterator[list[Item | DeepRelaxError]]:
    """The ``items`` in batches of at most so many atoms, lazily and in order; a larger crystal is one alone."""
    batch: list[Item | DeepRelaxError] = []
    atoms = 0
    for item in items:
        size = 0 if isinstance(item, DeepRelaxError) else len(item)
        if batch and atoms + size > atoms_per_batch:
            yield batch
            batch, atoms = [], 0
        batch.append(item)
        atoms += size
    if batch:
        yield batch


def attempt(
    make: Callable[[Sequence[Item]], Sequence[Made | DeepRelaxError]], crystals: Sequence[Item], device: torch.device
) -> list[Made | DeepRelaxError]:
    """Apply ``make`` to ``crystals``, all together; where that fails, to halves of them.

    Args:
        make: does the work. What it raises is the fault of a crystal, which it need not tell, or of too little memory.
        crystals: any number.
        device: the one it works on.

    Returns:
        For each crystal what was made of it, or why nothing could be.

    Raises:
        DeviceError: the device is lost to this process.
        DeepRelaxError: no structure is at fault.
    """
    parts = attempt_parts(lambda chosen: [*make(chosen)], crystals, device)
    return [one for part in parts for one in part]


def attempt_parts(
    make: Callable[[Sequence[Item]], Sequence[Made | DeepRelaxError]], crystals: Sequence[Item], device: torch.device
) -> list[Sequence[Made | DeepRelaxError]]:
    """:func:`attempt`, with what ``make`` returned as it is: all at once, unless it failed."""
    try:
        return [make(crystals)] if len(crystals) else []
    except Exception as error:
        failure = _failure(error, crystals, device)
    # out here nothing holds on to the tensors of the batch that failed
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if len(crystals) == 1:
        return [[failure]]
    half = len(crystals) // 2
    return [*attempt_parts(make, crystals[:half], device), *attempt_parts(make, crystals[half:], device)]


def _failure(error: Exception, crystals: Sequence[Sized], device: torch.device) -> DeepRelaxError:
    """Return the error to report for an ``error``, which is not kept itself: it holds on to all that was computed."""
    if isinstance(error, DeepRelaxError):
        if isinstance(error, StructureError):
            return error
        raise error
    if out_of_memory(error):
        return OversizeError(
            f"a crystal of {len(crystals[0])} atoms needs more memory than {device} has left. Give its primitive cell, "
            "or take a larger device."
        )
    if isinstance(error, RuntimeError) and "CUDA error" in str(error):
        raise DeviceError(f"{device} fails ({' '.join(str(error).split())}). Begin anew in another process.") from error
    failure = BrokenStructureError(f"the prediction failed ({type(error).__name__}: {error})")
    failure.add_note(traceback.format_exc())
    return failure


def out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` was raised for want of memory, on a GPU or in the host."""
    told = isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
    return told or isinstance(error, torch.cuda.OutOfMemoryError | MemoryError)
