"""What the benchmarks share: options of one name and one meaning, and what pages are made of."""

from __future__ import annotations

import json
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"

#: Arguments and options, as argparse takes them.
_OPTIONS: dict[str, dict[str, Any]] = {
    "data": {"nargs": "+", "type": Path, "help": "npz files of relaxation pairs"},
    "--model": {"default": "DeepRelax-PBE", "help": "name or card (default %(default)s)"},
    "--each": {"type": int, "help": "take at most so many of each kind in a file (default all)"},
    "--every": {"type": int, "default": 1, "help": "of those without DFT label take every N-th (default all)"},
    "--jobs": {"type": int, "default": 1, "help": "processes for match rates (default %(default)s)"},
    "--rounds": {"type": int, "default": 9, "help": "that are timed (default %(default)s)"},
    "--cache": {"type": Path, "help": "folder to keep predictions in"},
    "--device": {"default": "auto", "help": "where the network runs (default %(default)s)"},
    "--json": {"type": Path, "required": True, "help": "write the results here"},
}


def options(about: str | None, *names: str, **others: dict[str, Any]) -> ArgumentParser:
    """A parser of the options ``names``, and of ``others``, which may also replace what is known of one of them."""
    parser = ArgumentParser(description=about, formatter_class=RawDescriptionHelpFormatter)
    for name in names:
        parser.add_argument(name, **_OPTIONS.get(name, {}) | others.pop(name.strip("-"), {}))
    for key, settings in others.items():
        parser.add_argument(f"--{key.replace('_', '-')}", **settings)
    return parser


def read(results: Path, *names: str) -> Any:
    """What was measured, of one file of ``results`` or of several."""
    found = [json.loads((results / f"{name}.json").read_text(encoding="utf-8")) for name in names]
    return found[0] if len(found) == 1 else found


def table(heading: str | Sequence[str], rows: Sequence[Sequence[str]], align: str = "lr") -> str:
    """A table of Markdown.

    Args:
        heading: of each column, or all of them with `` | `` between.
        rows: cells.
        align: l or r for each column, the last letter for all that follow.
    """
    heading = heading.split(" | ") if isinstance(heading, str) else heading
    marks = [{"l": "---", "r": "---:"}[align[min(n, len(align) - 1)]] for n in range(len(heading))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heading, marks, *rows))


def filled(text: str, begin: str, end: str, part: str, *, inline: bool = False) -> str:
    """``text`` with ``part`` between the comments that mark its place, on lines of its own unless it is ``inline``.

    Raises:
        ValueError: ``text`` has no such place.
    """
    before, first, rest = text.partition(begin)
    _, last, after = rest.partition(end)
    if not (first and last):
        raise ValueError(f"there is no place between {begin!r} and {end!r}")
    around = "" if inline else "\n"
    return f"{before}{begin}{around}{part}{around}{end}{after}"
