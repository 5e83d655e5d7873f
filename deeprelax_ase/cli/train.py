"""``deeprelax train``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from deeprelax_ase.cli.common import INTERRUPTED, SOME_FAILED, errors, require, stop
from deeprelax_ase.cli.options import Quiet, argument
from deeprelax_ase.cli.pair_options import Changes, TimeLimit
from deeprelax_ase.errors import DeepRelaxError

if TYPE_CHECKING:
    from deeprelax_ase.training import RunConfig

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

    try:
        run = load_config(config, changes or [])
    except DeepRelaxError as error:
        stop(str(error))
    execute(run, time_limit=time_limit, quiet=quiet, again=f"deeprelax train {config}")


def execute(config: RunConfig, *, time_limit: float | None, quiet: bool, again: str) -> None:
    """Run ``config`` and say where the model is; ``again`` is the command that goes on after a stop."""
    from deeprelax_ase.cli.training_progress import progress
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

    console = Console(highlight=False)
    read = ModelCard.read(card)
    test = read.metrics.get("test", {})
    for name in ("coordinates", "lattice", "volume"):
        if name in test:
            unit = "Å³" if name == "volume" else "Å"
            console.print(f"test {name}: {test[name]:.4g} {unit}, unrelaxed {test[f'unrelaxed {name}']:.4g} {unit}")
    console.print(f"written to {card}; use it with --model {card}", soft_wrap=True, markup=False)
