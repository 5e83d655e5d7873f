"""The page of commands: what ``--help`` tells of each, on 80 columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sphinx.application import Sphinx
from typer.main import get_command
from typer.testing import CliRunner

from deeprelax_ase.cli import app as command_line

#: The line that the commands take the place of.
HERE = "<!-- commands -->"


def fill(app: Sphinx, page: str, source: list[str]) -> None:
    """Put the commands into the page that has a place for them."""
    if HERE in source[0]:
        source[0] = source[0].replace(HERE, "\n\n".join(map(section, names_of(get_command(command_line)))))


def names_of(command: Any, *names: str) -> Iterator[tuple[str, ...]]:
    """Words of each command, groups left out."""
    for name, part in command.commands.items():
        yield from names_of(part, *names, name) if hasattr(part, "commands") else [(*names, name)]


def section(names: tuple[str, ...]) -> str:
    """One command."""
    told = CliRunner().invoke(command_line, [*names, "--help"], env={"COLUMNS": "80"}, prog_name="deeprelax")
    return f"### {' '.join(names)}\n\n```text\n{told.stdout.strip()}\n```"


def setup(app: Sphinx) -> dict[str, bool]:
    """Register it."""
    app.connect("source-read", fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
