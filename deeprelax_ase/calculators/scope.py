"""Temporary settings of the whole process, of torch and of what is printed, which are put back afterwards."""

from __future__ import annotations

import contextlib
import io
import warnings
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


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what packages print and warn of when they are imported or loaded off the user's terminal."""
    with (
        warnings.catch_warnings(action="ignore"),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        yield
