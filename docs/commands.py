"""Every command with what its ``--help`` tells on 80 columns, for docs/commands.md.

python docs/commands.py           # write them into the page
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command
from typer.testing import CliRunner

from deeprelax_ase.cli import app

PAGE = Path(__file__).with_name("commands.md")

#: What is between these lines is written by this script.
BEGIN, END = "<!-- made by docs/commands.py -->", "<!-- end of what docs/commands.py makes -->"


def names_of(command: Any, *names: str) -> Iterator[tuple[str, ...]]:
    """Words of each command, groups left out."""
    for name, part in command.commands.items():
        yield from names_of(part, *names, name) if hasattr(part, "commands") else [(*names, name)]


def section(names: tuple[str, ...]) -> str:
    """One command; ``none`` is no language, and no output of what stands above it."""
    told = CliRunner().invoke(app, [*names, "--help"], env={"COLUMNS": "80"}, prog_name="deeprelax").stdout
    lines = "\n".join(line.rstrip() for line in told.strip().splitlines())
    return f"### {' '.join(names)}\n\n```none\n{lines}\n```"


def filled(page: str) -> str:
    """The text of the ``page`` with the commands of today."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    assert after, f"{PAGE.name} lacks the lines {BEGIN!r} and {END!r}"
    return "\n\n".join([f"{before}{BEGIN}", *map(section, names_of(get_command(app))), f"{END}{after}"])


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
