"""``deeprelax train``, and what it and ``deeprelax finetune`` show while they work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TaskID

from deeprelax_ase.cli.common import INTERRUPTED, SOME_FAILED, errors, require, stop, stopping, terminal
from deeprelax_ase.cli.options import Quiet, argument
from deeprelax_ase.cli.pair_options import Changes, TimeLimit
from deeprelax_ase.errors import DeepRelaxError
from deeprelax_ase.progress import Lines
from deeprelax_ase.progress import progress as bar_on

if TYPE_CHECKING:
    from deeprelax_ase.training import RunConfig
    from deeprelax_ase.training.run import Observer

EXAMPLES = """\
Examples:

    deeprelax train examples/training/end_to_end.yaml
    deeprelax train run.yaml --set members=5 --set training.learning_rate=1e-3
    deeprelax train run.yaml --time-limit 3600

A run that was stopped, by a time limit or in any other way, goes on from its last checkpoint with the same command. A
folder that was begun with other settings is refused.

Exit code 1: the time limit came first, and the model is not written yet.
"""


def train(
    config: Annotated[Path, argument("CONFIG.yaml", "The run.")],
    changes: Changes = None,
    time_limit: TimeLimit = None,
    quiet: Quiet = False,
) -> None:
    """Train a model, or an ensemble, on relaxation pairs.

    Everything goes into the folder that the file calls out: config.yaml, checkpoints and logs of each member, and in
    the end the model, NAME.json and NAME.safetensors, which `--model` takes wherever a model is asked for.
    """
    require("lightning", "training")
    require("jsonargparse", "training")  # MatGL brings the former alone
    from deeprelax_ase.training import load_config

    with stopping():
        run = load_config(config, changes or [])
    execute(run, time_limit=time_limit, quiet=quiet, again=f"deeprelax train {config}")


def execute(config: RunConfig, *, time_limit: float | None, quiet: bool, again: str) -> None:
    """Run ``config`` and say where the model is; ``again`` is the command that goes on after a stop."""
    from deeprelax_ase.training import train_model
    from deeprelax_ase.training.devices import first_process

    shown = errors()
    deadline = None if time_limit is None else time.monotonic() + time_limit
    try:
        with progress(shown, config.members, quiet=quiet) as observe:
            card = train_model(config, deadline=deadline, observe=observe)
    except KeyboardInterrupt:
        shown.print(f"interrupted; `{escape(again)}` goes on from the last checkpoint", soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    except (DeepRelaxError, ValueError, OSError) as error:
        stop(str(error))
    if not first_process():  # of several that train together; the first one speaks for all
        return
    if card is None:
        shown.print(f"the time limit came first; `{escape(again)}` goes on", soft_wrap=True)
        raise typer.Exit(SOME_FAILED)
    if not quiet:
        report(card)


def report(card: Path) -> None:
    """Print the path of the model, and its errors on the test crystals."""
    from deeprelax_ase.models.card import ModelCard

    console = terminal()
    read = ModelCard.read(card)
    test = read.metrics.get("test", {})
    for name in ("coordinates", "lattice", "volume"):
        if name in test:
            unit = "Å³" if name == "volume" else "Å"
            console.print(f"test {name}: {test[name]:.4g} {unit}, unrelaxed {test[f'unrelaxed {name}']:.4g} {unit}")
    console.print(f"written to {card}; use it with --model {card}", soft_wrap=True, markup=False)


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
