"""All commands, and the application of some of them: one alone begins a tenth of a second sooner than all.

Only what is needed to understand the command line is imported here; torch and ASE come with the work.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Annotated, NamedTuple

import typer

from deeprelax_ase import __version__
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


class Command(NamedTuple):
    """The place of a command.

    Attributes:
        group: title, in the help of all.
        module: in :mod:`deeprelax_ase.cli`; it has the function of the command's name, or an ``app`` of that name.
        examples: name of its examples there.
    """

    group: str
    module: str
    examples: str = "EXAMPLES"


#: In the order of the help.
COMMANDS = {
    "relax": Command("Relax", "relax"),
    "screen": Command("Relax", "screen", "SCREEN_EXAMPLES"),
    "export": Command("Relax", "screen", "EXPORT_EXAMPLES"),
    "report": Command("Relax", "report"),
    "models": Command("Relax", "models"),
    "doctor": Command("Relax", "doctor"),
    "candidates": Command("Teach", "candidates"),
    "label": Command("Teach", "label"),
    "learn": Command("Teach", "learn"),
    "finetune": Command("Teach", "finetune"),
    "train": Command("Teach", "train"),
    "ensemble": Command("Teach", "ensemble"),
    "evaluate": Command("Measure", "evaluate"),
    "calibrate": Command("Measure", "calibrate"),
    "bench": Command("Measure", "bench"),
    "data": Command("Measure", "data"),
}


def make_app(names: Iterable[str]) -> typer.Typer:
    """The application with the :data:`COMMANDS` of these ``names``."""
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
    app.callback()(_options)
    for name in names:
        group, where, examples = COMMANDS[name]
        module = import_module(f"deeprelax_ase.cli.{where}")
        if isinstance(commands := getattr(module, "app", None), typer.Typer):
            app.add_typer(commands, name=name, rich_help_panel=group)
        else:
            options = {"epilog": getattr(module, examples), "rich_help_panel": group}
            app.command(cls=HelpCommand, **options)(getattr(module, name))
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"deeprelax {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass
