"""Output of ``deeprelax train`` and ``deeprelax finetune`` while they work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import Progress, TaskID

from deeprelax_ase.progress import Lines
from deeprelax_ase.progress import progress as bar_on
from deeprelax_ase.training.run import Observer


@contextmanager
def progress(console: Console, members: int, *, quiet: bool) -> Iterator[Observer]:
    """A task for each member, with its latest figures, and in logs a line for each validation; nothing if ``quiet``."""
    with bar_on(console, visible=not quiet, share=True) as bar:
        yield _Figures(bar, members)


class _Figures:
    def __init__(self, bar: Progress, members: int) -> None:
        self.bar, self.members = bar, members
        self.tasks: dict[int, TaskID] = {}
        self.figures: dict[int, dict[str, str]] = {}

    def __call__(self, member: int, record: dict[str, Any]) -> None:
        name = f"member {member + 1} of {self.members}"
        if member not in self.tasks:
            self.tasks[member], self.figures[member] = self.bar.add_task(name, total=1.0), {}
        self.figures[member] |= _figures(record)
        text = ", ".join([name, *(f"{what} {value}" for what, value in self.figures[member].items())])
        done = {"completed": record["progress"]} if "progress" in record else {}
        self.bar.update(self.tasks[member], description=text, **done)
        if "validation error" in record and isinstance(self.bar, Lines):
            error = f"validation error {record['validation error']:.5g}"
            self.bar.console.print(f"member {member + 1}, step {record['step']}: {error}", soft_wrap=True)


def _figures(record: dict[str, Any]) -> dict[str, str]:
    if "validation error" in record:
        return {"validation error": f"{record['validation error']:.4g}"}
    return {"loss": f"{record['loss']:.4g}", "crystals/s": f"{record['crystals_per_second']}"}
