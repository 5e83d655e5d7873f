"""Devices by name, how many atoms and threads suit them, and the time that work on them takes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import wraps
from threading import Lock
from typing import Any, TypeVar

import torch

from deeprelax_ase.errors import DeviceError

Made = TypeVar("Made")

#: Bytes that an end-to-end network takes on a GPU for an atom of an inorganic crystal, with its 50 edges or so.
_BYTES_PER_ATOM = 250_000

#: Atoms of a batch on a GPU, beyond which no more crystals are made in a second.
_MOST_ATOMS = 20_000


def device_of(name: str | torch.device) -> torch.device:
    """The device called ``name``, with its index; "auto" is CUDA where there is any.

    Raises:
        DeviceError: it is not to be had.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.empty(0, device=name).device  # with its index
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(
            f"device {str(name)!r} is not available: {str(error).splitlines()[0]}. Use 'auto', 'cpu', or a torch build "
            "with CUDA on a machine that has it."
        ) from error
    return device


def default_atoms_per_batch(device: torch.device) -> int:
    """Atoms of a batch that suit ``device``, see :meth:`Predictor.predict_many`."""
    if device.type == "cpu":
        return 200
    memory = torch.cuda.get_device_properties(device).total_memory
    with suppress(AttributeError):  # before torch 2.6 it does not tell
        memory = int(memory * torch.cuda.get_per_process_memory_fraction(device))
    return min(max(memory // _BYTES_PER_ATOM // 2, 1), _MOST_ATOMS)


def free_threads() -> int:
    """Threads that torch gets a core for here, by the load of the machine now; one at least.

    Torch's threads wait for each other at every operation. On cores that others keep busy, small batches took twenty
    times as long in two threads as in one. Whoever sets OMP_NUM_THREADS has chosen.
    """
    most = torch.get_num_threads()
    if "OMP_NUM_THREADS" in os.environ or not hasattr(os, "getloadavg"):
        return most
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(most, round(cores - os.getloadavg()[0])))


@contextmanager
def at_most(threads: int) -> Iterator[None]:
    """Let torch compute in so many threads, or fewer; where several enter at once, as the first one says."""
    with _THREADS.lock:
        if not _THREADS.inside:
            _THREADS.before = torch.get_num_threads()
            torch.set_num_threads(min(threads, _THREADS.before))
        _THREADS.inside += 1
    try:
        yield
    finally:
        with _THREADS.lock:
            _THREADS.inside -= 1
            if not _THREADS.inside:
                torch.set_num_threads(_THREADS.before)


def in_own_threads(method: Callable[..., Made]) -> Callable[..., Made]:
    """Let a ``method`` compute in at most as many threads as the attribute ``threads`` of its object says."""

    @wraps(method)
    def computing(self: Any, *args: Any, **options: Any) -> Made:
        with at_most(self.threads):
            return method(self, *args, **options)

    return computing


@dataclass
class _Threads:
    """Count of those inside :func:`at_most`, and torch's threads before."""

    lock: Lock = field(default_factory=Lock)
    inside: int = 0
    before: int = 1


_THREADS = _Threads()


@contextmanager
def stopwatch(timings: dict[str, float], stage: str, *, device: torch.device) -> Iterator[None]:
    """Add the seconds that the context takes on ``device`` to those of ``stage`` in ``timings``."""
    start = time.perf_counter()
    yield
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    timings[stage] = timings.get(stage, 0.0) + time.perf_counter() - start
