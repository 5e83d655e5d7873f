"""A function of many items in several processes, in order: an item that kills its process costs itself, and is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import TypeVar

from deeprelax_ase.errors import WorkerError
from deeprelax_ase.prediction.pool import WorkerPool
from deeprelax_ase.prediction.worker import is_of_an_item

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Turns several items together into a result for each.
Function = Callable[[list[Item]], Iterable[Result]]


@dataclass(frozen=True)
class _Failed:
    reason: str


def map_in_processes(
    make: Callable[[str], Function[Item, Result]],
    items: Iterable[Item],
    *,
    failed: Callable[[int, str], Result] | None = None,
    workers: int | None = None,
    chunk: int = 1,
    device: str = "",
) -> Iterator[Result]:
    """Results of ``items``, by processes that are started afresh, each with what ``make`` makes in it.

    Args:
        make: makes the function, of a device; is sent by pickle, as are items and results.
        items: read as they are needed.
        failed: what comes of an item that kills its process, or that makes the function raise; is told which one it is,
            counted from 0, and why. By default it is an error.
        workers: processes; as many as suit the machine by default. 0 stays in this process, where nothing can be done
            about an item that kills it.
        chunk: how many are sent to a process together.
        device: for ``make``, given to the processes in turn where it is ``cuda`` or ``auto``. Empty where nothing is
            computed on any: torch, whose loading takes seconds, is left alone then.

    Yields:
        the results, in order.

    Raises:
        WorkerError: an item failed, or processes die before they see any.
        OSError, DeepRelaxError: what the function raised, and no item is at fault of.
    """
    chunks = _chunks(iter(items), chunk)
    results = _here(make(device), chunks) if workers == 0 else _there(make, chunks, workers, device)
    for number, result in enumerate(results):
        if not isinstance(result, _Failed):
            yield result
        elif failed is None:
            raise WorkerError(f"item {number} cannot be worked at: {result.reason}. Leave it out.")
        else:
            yield failed(number, result.reason)


def _chunks(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    return iter(lambda: list(islice(items, size)), [])


def _here(function: Function[Item, Result], chunks: Iterable[list[Item]]) -> Iterator[Result | _Failed]:
    for items in chunks:
        try:
            yield from [*function(items)]
        except Exception as error:  # whatever items make libraries raise
            if not is_of_an_item(error):
                raise
            if len(items) > 1:
                yield from _here(function, _chunks(iter(items), 1))
            else:
                yield _Failed(f"{type(error).__name__}: {error}")


def _there(
    make: Callable[[str], Function[Item, Result]], chunks: Iterable[list[Item]], workers: int | None, device: str
) -> Iterator[Result | _Failed]:
    with WorkerPool(
        partial(_skipping_failed, make),
        join=chain.from_iterable,
        mark_failed=lambda items, reason: [_Failed(reason) for _ in items],
        workers=workers,
        device=device,
    ) as pool:
        for _, results in pool.imap(enumerate(chunks), ordered=True):
            yield from results


# -- in the processes


def _skipping_failed(
    make: Callable[[str], Function[Item, Result]], device: str
) -> Callable[[list[Item | _Failed]], list[Result | _Failed]]:
    function = make(device)

    def work(items: list[Item | _Failed]) -> list[Result | _Failed]:
        good = [item for item in items if not isinstance(item, _Failed)]
        results = iter(function(good) if good else ())
        return [item if isinstance(item, _Failed) else next(results) for item in items]

    return work
