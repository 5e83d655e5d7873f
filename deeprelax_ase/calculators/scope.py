"""Temporary settings of the whole process, of torch and of what is printed, which are put back afterwards."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator
from threading import RLock

import torch

#: One calculation at a time, as the settings are everybody's.
_LOCK = RLock()

#: Environment variables by which ``torch.load`` runs the code in pickles, or never does, where it is not told.
_LOADING = ("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_WEIGHTS_ONLY_LOAD")
_wanted: dict[str, str] = {}


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
def kept_loading() -> Iterator[None]:
    """Import or make a potential, and keep for the rest of the process how ``torch.load`` treats pickles.

    MACE, when it is imported, has all of them run the code in them. What a package has set so, once, holds for it
    whenever a potential is made, and not for anything else.
    """
    with _LOCK:
        before = {name: os.environ.get(name) for name in _LOADING}
        os.environ.update(_wanted)
        try:
            yield
        finally:
            for name, value in before.items():
                now = os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
                elif now is not None:
                    _wanted[name] = now


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what packages print and warn of when they are imported or loaded off the user's terminal."""
    with (
        warnings.catch_warnings(action="ignore"),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        yield
