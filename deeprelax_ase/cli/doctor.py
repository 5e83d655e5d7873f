"""``deeprelax doctor``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deeprelax_ase.cli.common import OK, SOME_FAILED, terminal
from deeprelax_ase.cli.options import option

if TYPE_CHECKING:
    from deeprelax_ase.cli.checkup import Checkup

EXAMPLES = """\
Examples:

    deeprelax doctor
    deeprelax doctor --load
    deeprelax doctor --json > environment.json

Exit code 1: something has to be mended. An extra that is not installed is no fault.
"""


def doctor(
    load: Annotated[
        bool, option("Load every potential that is there, too; their weights may be downloaded.", "--load")
    ] = False,
    as_json: Annotated[bool, option("Write JSON to the standard output.", "--json")] = False,
) -> None:
    """Tell what is installed and what works: versions, devices, models, potentials, and how to get what is missing."""
    from deeprelax_ase.cli.checkup import check_up

    found = check_up(load_potentials=load)
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=1, ensure_ascii=False))
    else:
        _show(found)
    raise typer.Exit(SOME_FAILED if found.problems else OK)


def _show(found: Checkup) -> None:
    console = terminal()
    _section(console, "Versions", ((name, version or "missing") for name, version in found.versions.items()))
    _section(console, "Devices", found.devices.items())
    _section(console, "Models", found.models.items())
    _section(console, "Potentials", ((name, f"{row['state']}: {row['how']}") for name, row in found.potentials.items()))
    _section(console, "Extras", ((name, _extra(row)) for name, row in found.extras.items()))
    if not found.problems:
        console.print("Nothing has to be mended.")
    for problem in found.problems:
        console.print(f"[bold red]To mend:[/] {escape(problem)}", soft_wrap=True)


def _extra(row: dict) -> str:
    if row["command"]:
        return f"missing: {row['command']} for {row['purpose']}"
    return ", ".join(f"{name} {version}" for name, version in row["versions"].items())


def _section(console: Console, title: str, rows: Iterable[tuple[str, str]]) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(min_width=_NAMES, no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(f"  {name}", escape(text))
    if table.row_count:
        console.print(f"[bold]{title}[/]")
        console.print(table)


#: Columns that names take.
_NAMES = 18
