"""A pool of which the workers square numbers, and items that do things to their process; where it can import them."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from deeprelax_ase.prediction.pool import WorkerPool


def pool(workers: int = 1, make: Callable[[str], Any] | None = None, device: str = "") -> WorkerPool:
    return WorkerPool(
        make or squares,
        join=lambda parts: list(chain.from_iterable(parts)),
        mark_failed=lambda items, reason: [f"failed: {reason}" for _ in items],
        workers=workers,
        device=device,
    )


def numbered(*jobs: list[Any]) -> Iterator[tuple[int, list[Any]]]:
    return iter(enumerate(jobs))


def squares(device: str) -> Callable[[list[Any]], list[Any]]:
    """Of numbers; what is a string is told, and others do things to the process."""

    def work(items: list[Any]) -> list[Any]:
        return [item(device) if callable(item) else item if isinstance(item, str) else item**2 for item in items]

    return work


def noted(started: Path, device: str) -> Callable[[list[Any]], list[Any]]:
    """The same; a file tells, by its length, how many processes were started."""
    with started.open("a") as file:
        file.write("x")
    return squares(device)


def die(device: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(marker: Path, device: str) -> str:
    if not marker.exists():
        marker.touch()
        die(device)
    return "in the end"


def leave(device: str) -> None:
    raise SystemExit(3)


def complain(device: str) -> None:
    raise ValueError("it is odd")


def throw(error: Exception, device: str) -> None:
    raise error


def nap(device: str) -> str:
    time.sleep(0.5)
    return "rested"


def identify(device: str) -> int:
    return os.getpid()


def make_nothing(device: str) -> None:
    raise ValueError(f"no {device} here")


def make_dead(device: str) -> None:
    die(device)


def has_no_torch(device: str) -> bool:
    return "torch" not in sys.modules
