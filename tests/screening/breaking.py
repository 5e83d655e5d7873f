"""A pool of processes that breaks when it is given more, as one does whose process was killed a moment ago."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any


class BreakingPool:
    """Does what it is given at once, and breaks instead of taking the piece after ``lasts``."""

    _processes: dict | None = None

    def __init__(self, lasts: int) -> None:
        self.lasts = lasts

    def __enter__(self) -> BreakingPool:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def shutdown(self, **options: object) -> None:
        pass

    def submit(self, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        if not self.lasts:
            raise BrokenProcessPool("a process was killed")
        self.lasts -= 1
        future: Future[Any] = Future()
        future.set_result(call(*arguments))
        return future
