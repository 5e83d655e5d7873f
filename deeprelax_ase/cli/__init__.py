"""The command line, ``deeprelax``; a module for each command.

Only what is needed to understand the command line is imported here; torch and ASE come with the work.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from deeprelax_ase import __version__
from deeprelax_ase.cli import (
    bench,
    calibrate,
    candidates,
    data,
    ensemble,
    evaluate,
    finetune,
    forces,
    label,
    learn,
    models,
    relax,
    report,
    screen,
    train,
)

_MAIN_EXAMPLES = """\
Examples:

    deeprelax relax POSCAR -o CONTCAR
    deeprelax screen candidates.extxyz --out screened
    deeprelax models
    deeprelax finetune DeepRelax-PBE --data my_pairs/ --out tuned
    deeprelax evaluate tuned/DeepRelax-PBE-tuned.json --data my_pairs/

Each command has its own `--help`.
"""

app = typer.Typer(
    name="deeprelax",
    help="Relax crystals in one shot, with an uncertainty for each; train models that do.",
    epilog=_MAIN_EXAMPLES,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Entry point of the ``deeprelax`` command."""
    # Threads that spin while they wait for each other take five times as long where another program has a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    app()


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"deeprelax {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


app.command(epilog=relax.EXAMPLES)(relax.relax)
app.command(epilog=screen.SCREEN_EXAMPLES)(screen.screen)
app.command(epilog=screen.EXPORT_EXAMPLES)(screen.export)
app.command(epilog=report.EXAMPLES)(report.report)
app.command(epilog=models.EXAMPLES)(models.models)
app.command(epilog=candidates.EXAMPLES)(candidates.candidates)
app.command(epilog=label.EXAMPLES)(label.label)
app.command(epilog=learn.EXAMPLES)(learn.learn)
app.command(epilog=train.EXAMPLES)(train.train)
app.command(epilog=finetune.EXAMPLES)(finetune.finetune)
app.command(epilog=ensemble.EXAMPLES)(ensemble.ensemble)
app.command(epilog=evaluate.EXAMPLES)(evaluate.evaluate)
app.command(epilog=calibrate.EXAMPLES)(calibrate.calibrate)
app.command(epilog=bench.EXAMPLES)(bench.bench)
data.app.command(epilog=forces.EXAMPLES)(forces.forces)
app.add_typer(data.app, name="data")
