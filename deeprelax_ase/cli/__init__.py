"""The command line, ``deeprelax``; a module for each command.

Only what is needed to understand the command line is imported here; torch and ASE come with the work.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated

import typer

from deeprelax_ase import __version__
from deeprelax_ase.cli import (
    bench,
    calibrate,
    candidates,
    data,
    doctor,
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
from deeprelax_ase.cli.help import HelpCommand, HelpGroup

_MAIN_EXAMPLES = """\
Examples:

    deeprelax relax POSCAR -o CONTCAR
    deeprelax screen candidates.extxyz --out screened
    deeprelax report screened
    deeprelax doctor
    deeprelax finetune DeepRelax-PBE --data my_pairs/ --out tuned

`deeprelax COMMAND --help` tells of one command. `deeprelax --install-completion` lets the shell complete commands,
options, models, calculators and optimizers.

Exit codes, of every command:

    0     all went well
    1     something failed, or is not to be trusted: each command says what
    2     nothing was done: options or inputs do not fit
    130   interrupted (Ctrl-C); what was done is kept
"""

app = typer.Typer(
    name="deeprelax",
    help="Relax crystals in one shot, with an uncertainty for each; train models that do.",
    epilog=_MAIN_EXAMPLES,
    no_args_is_help=True,
    cls=HelpGroup,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Entry point of the ``deeprelax`` command."""
    # Threads that spin while they wait for each other take five times as long where another program has a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    app(prog_name="deeprelax")


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


def _add(group: str, command: Callable[..., None], examples: str) -> None:
    app.command(cls=HelpCommand, epilog=examples, rich_help_panel=group)(command)


_RELAX, _LEARN, _MEASURE = "Relax", "Teach", "Measure"
_add(_RELAX, relax.relax, relax.EXAMPLES)
_add(_RELAX, screen.screen, screen.SCREEN_EXAMPLES)
_add(_RELAX, screen.export, screen.EXPORT_EXAMPLES)
_add(_RELAX, report.report, report.EXAMPLES)
_add(_RELAX, models.models, models.EXAMPLES)
_add(_RELAX, doctor.doctor, doctor.EXAMPLES)
_add(_LEARN, candidates.candidates, candidates.EXAMPLES)
_add(_LEARN, label.label, label.EXAMPLES)
_add(_LEARN, learn.learn, learn.EXAMPLES)
_add(_LEARN, finetune.finetune, finetune.EXAMPLES)
_add(_LEARN, train.train, train.EXAMPLES)
_add(_LEARN, ensemble.ensemble, ensemble.EXAMPLES)
_add(_MEASURE, evaluate.evaluate, evaluate.EXAMPLES)
_add(_MEASURE, calibrate.calibrate, calibrate.EXAMPLES)
_add(_MEASURE, bench.bench, bench.EXAMPLES)
data.app.command(cls=HelpCommand, epilog=forces.EXAMPLES)(forces.forces)
app.add_typer(data.app, name="data", rich_help_panel=_MEASURE)
