"""Which file does what: the rooms and files of the package, told by their docstrings, for docs/how-it-works.md.

python docs/rooms.py           # write them into the page
"""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "deeprelax_ase"
PAGE = Path(__file__).with_name("how-it-works.md")

#: What is between these lines is written by this script.
BEGIN, END = "<!-- made by docs/rooms.py -->", "<!-- end of what docs/rooms.py makes -->"


def rooms() -> list[str]:
    """Their names; each imports only from those before it, as the contract in pyproject.toml says."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [name for name in reversed(layers) if not name.startswith("(")]  # those in brackets need not be there


def files(room: str) -> list[Path]:
    """The modules of ``room``, the one that names what it holds first."""
    folder = PACKAGE / room
    return (
        sorted(folder.rglob("*.py"), key=lambda f: (f.parent, f.stem)) if folder.is_dir() else [PACKAGE / f"{room}.py"]
    )


def told(file: Path) -> str:
    """What the first line of its docstring says, in Markdown."""
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    assert docstring, f"{file} has no docstring. Say in its first line what it does."
    plain = re.sub(r":\w+:`[~.\w]*?(\w+)`", r"`\1`", docstring.splitlines()[0])
    return plain.replace("``", "`").replace("|", "\\|")


def imported(room: str) -> list[str]:
    """The rooms that modules of ``room`` import from, for types alone included."""
    found = set()
    for file in files(room):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                package, _, module = node.module.partition(".")
                names = [module.partition(".")[0]] if module else [alias.name for alias in node.names]
                found |= set(names) if package == PACKAGE.name else set()
    return [name for name in rooms() if name in found - {room}]


def as_markdown() -> str:
    """A row for each room, and below each of its files."""
    rows = [f"| `{room}` | {told(files(room)[0])} | {', '.join(imported(room)) or '-'} |" for room in rooms()]
    parts = ["\n".join(["| room | what it holds | imports from |", "| --- | --- | --- |", *rows])]
    for room in rooms():
        if len(modules := files(room)[1:]):
            rows = [f"| `{room}/{file.relative_to(PACKAGE / room)}` | {told(file)} |" for file in modules]
            heading = f"<details><summary>{room}: {len(modules)} files</summary>"
            parts += [heading, "\n".join(["| file | what it does |", "| --- | --- |", *rows]), "</details>"]
    return "\n\n".join(parts)


def filled(page: str) -> str:
    """The text of the ``page`` with the rooms and files of today."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    assert after, f"{PAGE.name} lacks the lines {BEGIN!r} and {END!r}"
    return f"{before}{BEGIN}\n\n{as_markdown()}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
