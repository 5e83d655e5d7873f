"""``deeprelax ensemble``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deeprelax_ase.cli.common import SOME_FAILED, plain_warnings, stop
from deeprelax_ase.cli.options import argument, optional
from deeprelax_ase.errors import DeepRelaxError

EXAMPLES = """\
Examples:

    deeprelax ensemble run1/member0/weights.safetensors run2/member0/weights.safetensors --card card.json -o models
    deeprelax ensemble run*/member*/weights.safetensors --card run1/mine.json -o models

`deeprelax train` and `finetune` make the model of their own members; this joins those of several runs.
"""


def ensemble(
    members: Annotated[list[Path], argument("WEIGHTS...", "weights.safetensors of each member, of one configuration.")],
    card: Annotated[
        Path, optional("Its name, and the fields of its card that the members do not settle.", metavar="CARD.json")
    ],
    out: Annotated[Path, optional("Folder for the model.", "-o", "--out", metavar="DIR")],
) -> None:
    """Join trained networks into one model, NAME.json and NAME.safetensors."""
    from deeprelax_ase.training.export import export

    try:
        with plain_warnings():
            written = export(members, card, out)
    except (DeepRelaxError, ValueError, TypeError) as error:
        stop(str(error))
    except OSError as error:
        stop(f"{error.filename} cannot be written: {error.strerror}", SOME_FAILED)
    typer.echo(f"{written.name}: {written.members} members of {written.parameters:,} parameters, in {out}")
