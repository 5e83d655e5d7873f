"""``deeprelax ensemble``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deeprelax_ase.cli.common import plain_warnings, stopping
from deeprelax_ase.cli.options import Overwrite, argument, option, out_option

EXAMPLES = """\
Examples:

    deeprelax ensemble run*/member*/weights.safetensors --card card.json -o mine
    deeprelax ensemble a/member0/weights.safetensors \\
        b/member0/weights.safetensors --card a/mine.json -o both

`deeprelax train` and `finetune` make the model of their own members; this joins those of several runs.
"""


def ensemble(
    members: Annotated[list[Path], argument("WEIGHTS...", "weights.safetensors of each member, of one configuration.")],
    card: Annotated[
        Path, option("Its name, and the fields of its card that the members do not settle.", metavar="CARD.json")
    ],
    out: Annotated[Path, out_option("Folder for the model.")],
    overwrite: Overwrite = False,
) -> None:
    """Join trained networks into one model, NAME.json and NAME.safetensors."""
    from deeprelax_ase.training.export import export

    with stopping(also=TypeError), plain_warnings():
        written = export(members, card, out, overwrite=overwrite)
    typer.echo(f"{written.name}: {written.members} members of {written.parameters:,} parameters, in {out}")
