"""What ``deeprelax train`` and ``deeprelax finetune`` show while they work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from deeprelax_ase.progress import is_live
from deeprelax_ase.training.run import Observer


@contextmanager
def progress(console: Console, members: int, *, quiet: bool) -> Iterator[Observer]:
    """A bar for each member on a terminal, a line for each validation elsewhere, nothing if ``quiet``."""
    if quiet:
        yield lambda member, record: None
    elif is_live(console):
        columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
        with Progress(*columns, TextColumn("{task.fields[figures]}"), console=console) as bar:
            yield _Bars(bar, members)
    else:
        yield lambda member, record: _line(console, member, record)


class _Bars:
    def __init__(self, bar: Progress, members: int) -> None:
        self.bar, self.members = bar, members
        self.tasks: dict[int, Any] = {}
        self.figures: dict[str, str] = {}

    def __call__(self, member: int, record: dict[str, Any]) -> None:
        if member not in self.tasks:
            name = f"member {member + 1} of {self.members}"
            self.tasks[member] = self.bar.add_task(name, total=1.0, figures="")
        self.figures |= _figures(record)
        text = "  ".join(f"{name} {value}" for name, value in self.figures.items())
        done = {"completed": record["progress"]} if "progress" in record else {}
        self.bar.update(self.tasks[member], figures=text, **done)


def _figures(record: dict[str, Any]) -> dict[str, str]:
    if "validation error" in record:
        return {"validation error": f"{record['validation error']:.4g}"}
    return {"loss": f"{record['loss']:.4g}", "crystals/s": f"{record['crystals_per_second']}"}


def _line(console: Console, member: int, record: dict[str, Any]) -> None:
    if "validation error" in record:
        error = record["validation error"]
        console.print(f"member {member + 1}, step {record['step']}: validation error {error:.5g}", soft_wrap=True)
