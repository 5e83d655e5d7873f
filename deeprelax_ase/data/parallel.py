"""A function of many crystals in several processes, in order: for work that ends no process and takes no journal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

Result = TypeVar("Result")


def map_in_processes(
    function: Callable[..., Result],
    *arguments: Iterable,
    workers: int | None = None,
    chunksize: int = 1,
    torch_threads: int | None = None,
) -> Iterator[Result]:
    """``map(function, *arguments)``, in several processes that are started afresh.

    Args:
        function: is sent by pickle, as are its arguments and results.
        *arguments: as for :func:`map`; read at once.
        workers: processes; as many as there are cores by default, and 1 stays in this process.
        chunksize: how many are sent to a process together.
        torch_threads: of each process; by default what torch takes.

    Yields:
        the results, in order.

    Raises:
        concurrent.futures.process.BrokenProcessPool: a process ended. Where a crystal may cause that, use
            :class:`~deeprelax_ase.screening.pool.WorkerPool`.
    """
    if workers == 1:
        yield from map(function, *arguments)
        return
    # CUDA and torch's threads do not survive a fork.
    with ProcessPoolExecutor(workers, get_context("spawn"), _start, (torch_threads,)) as pool:
        yield from pool.map(function, *arguments, chunksize=chunksize)


def _start(torch_threads: int | None) -> None:
    """Set up a process; torch is loaded where it is asked for, because that takes seconds."""
    if torch_threads is not None:
        import torch

        torch.set_num_threads(torch_threads)
