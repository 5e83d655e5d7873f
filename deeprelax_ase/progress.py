"""Progress of long work: a bar on a terminal, one output in a notebook, a plain line now and then elsewhere.

Logs and pipes get no control characters, and nothing at all of work that is done within :data:`INTERVAL`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

Item = TypeVar("Item")

#: Seconds between two lines in a log.
INTERVAL = 30.0

#: Seconds between two changes of a notebook's output.
_NOTEBOOK_INTERVAL = 0.25

#: Whether work shows its progress, see :func:`silent`.
_visible = ContextVar("progress is visible", default=True)

#: Set in the processes that a notebook starts, ``!deeprelax`` among them: their terminal is none.
OF_A_KERNEL = "JPY_PARENT_PID"


def track(
    items: Iterable[Item], description: str = "relaxing", *, total: int | None = None, console: Console | None = None
) -> Iterator[Item]:
    """The ``items``, with their progress shown.

    >>> for prediction in track(predictor.predict_many(crystals), total=len(crystals)):
    ...     ...

    Args:
        items: read as they are needed.
        description: of the work on them.
        total: how many there are, where ``items`` does not know its length.
        console: shows it; standard error by default.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with progress(console) as bar:
        task = bar.add_task(description, total=total)
        for item in items:
            yield item
            bar.advance(task)


@contextmanager
def silent(quiet: bool = True) -> Iterator[None]:
    """No work inside shows its progress, however deep it lies; nothing changes if not ``quiet``."""
    token = _visible.set(_visible.get() and not quiet)
    try:
        yield
    finally:
        _visible.reset(token)


def progress(console: Console | None = None, *, visible: bool = True, share: bool = False) -> Progress:
    """A :class:`rich.progress.Progress` that behaves wherever it is shown: what is done of all, its rate, time left.

    Args:
        console: shows them; standard error by default.
        visible: if not, it is silent.
        share: tasks count to 1, and what is done of them is told in per cent; there is no rate.
    """
    console = Console(stderr=True, highlight=False, emoji=False) if console is None else console
    visible = visible and _visible.get()
    done = TaskProgressColumn() if share else MofNCompleteColumn()
    columns: list[ProgressColumn] = [SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), done]
    columns += [*([] if share else [_Rate()]), TimeRemainingColumn()]
    if visible and console.is_jupyter:
        return _InNotebook(*columns[1:], console=console, disable=True)
    if visible and not is_live(console):
        return Lines(*columns, console=console, disable=True)
    return Progress(*columns, console=console, transient=True, disable=not visible)


def is_live(console: Console) -> bool:
    """Whether a bar can be redrawn on ``console``: on terminals that someone looks at.

    ``FORCE_COLOR``, as set in many CI systems, makes rich take a log for a terminal; colours are all that it asks for.
    """
    forced = "FORCE_COLOR" in os.environ and not console.file.isatty()
    return console.is_terminal and not console.is_dumb_terminal and not forced and OF_A_KERNEL not in os.environ


def told_speed(speed: float) -> str:
    """Items a second, to three digits at least, as people read them: 12,346 and not 1.23e+04."""
    return f"{speed:,.0f}" if speed >= 999.5 else f"{speed:.3g}"


def told_count(number: int, what: str) -> str:
    """``1 crystal``, ``1,234 crystals``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _told(speed: float | None) -> str:
    """The same with its unit; empty where nothing is done yet."""
    return "" if speed is None else f"{told_speed(speed)}/s"


class _Rate(ProgressColumn):
    """Items a second, once some are done."""

    def render(self, task: Task) -> Text:
        """The column's text."""
        return Text(_told(task.speed))


class _Shown(Progress):
    """Shows a task whenever it changes, at most once in ``interval`` seconds; rich's own display stays off."""

    interval = INTERVAL

    def __init__(self, *columns: Any, **options: Any) -> None:
        super().__init__(*columns, **options)
        self._shown = time.monotonic()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Count ``advance`` items more."""
        super().advance(task_id, advance)
        self._show_in_time(task_id)

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Change what is known of a task, see rich."""
        super().update(task_id, **changes)
        self._show_in_time(task_id)

    def _show_in_time(self, task_id: TaskID) -> None:
        if time.monotonic() - self._shown >= self.interval:
            self._show(self._tasks[task_id])
            self._shown = time.monotonic()

    def _show(self, task: Task) -> None:
        raise NotImplementedError


class Lines(_Shown):
    """For logs and pipes."""

    def _show(self, task: Task) -> None:
        if any(isinstance(column, TaskProgressColumn) for column in self.columns):
            done = f"{task.completed:.0%}"
        else:
            of = "" if task.total is None else f" of {task.total:,.0f}"
            done = ", ".join(filter(None, (f"{task.completed:,.0f}{of}", _told(task.speed))))
        if task.time_remaining:
            done += f", {timedelta(seconds=round(task.time_remaining))} left"
        self.console.print(f"{task.description}: {done}", markup=False, soft_wrap=True)


class _InNotebook(_Shown):
    """One output of a cell, changed in place: rich's own needs ipywidgets, and is lost when the notebook is saved."""

    interval = _NOTEBOOK_INTERVAL
    _output: Any = None

    def start(self) -> None:
        """Make the output, once there is a task."""
        self._shown = 0.0

    def stop(self) -> None:
        """Show how it ended."""
        if self.tasks:
            self._display()

    def _show(self, task: Task) -> None:
        self._display()

    def _display(self) -> None:
        from IPython.display import display  # type: ignore[import-not-found,unused-ignore]

        if self._output is None:
            self._output = display(self, display_id=True)
        else:
            self._output.update(self)
