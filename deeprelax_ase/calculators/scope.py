"""Temporary settings of torch for the whole process, which are put back afterwards."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from threading import RLock

import torch

#: One calculation at a time, as the settings are everybody's.
_LOCK = RLock()


@contextlib.contextmanager
def torch_settings(dtype: torch.dtype, threads: int | None = None) -> Iterator[None]:
    """Let torch compute with ``dtype`` where it is not told a type, and with so many threads; None for as many as set.

    Potentials make tensors of torch's default type beside their weights, so that a default that the user has set for
    other work would stop them.
    """
    with _LOCK:
        before = torch.get_default_dtype(), torch.get_num_threads()
        torch.set_default_dtype(dtype)
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_default_dtype(before[0])
            if threads is not None:
                torch.set_num_threads(before[1])


def one_thread() -> contextlib.AbstractContextManager[None]:
    """Let torch compute in one thread: what is small takes many times as long in several that wait for a busy core."""
    return torch_settings(torch.get_default_dtype(), 1)


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
