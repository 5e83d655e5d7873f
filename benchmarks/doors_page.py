"""The table of doors and kinds of input, as Markdown, of ``results/doors.json``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from shared import read, table

INTRODUCTION = """\
<!-- made by `make pages` of results/doors.json, which `make trust` measures -->

{structures} structures of {kinds} kinds, given to each of {doors} doors: {fields} fields, and nothing else
than a word came out of one. A number before a word counts variants; a word alone holds for all of them. A dash:
pymatgen has no such structure, so that it cannot be given in. Where a calculator finishes ({calculator}, three
steps), a structure on which it feels hardly a force is `converged`, and nothing is predicted of it. Molecules, wires,
atoms that are alone and elements that the model does not know are refused before the calculator is asked. Elements that
the calculator alone does not know would be `failed`; M3GNet knows all that the models know.
"""


def markdown(measured: dict[str, Any]) -> str:
    """The page; see :mod:`doors` for what is ``measured``."""
    doors = list(next(iter(measured.values()))["doors"])
    structures = sum(len(kind["variants"]) for kind in measured.values())
    numbers = {"structures": structures, "kinds": len(measured), "doors": len(doors), "fields": structures * len(doors)}
    (calculator,) = {kind["calculator"] for kind in measured.values()}
    rows = [
        [name, str(len(kind["variants"])), *(field(kind["doors"][door]) for door in doors)]
        for name, kind in measured.items()
    ]
    told = INTRODUCTION.format(**numbers, calculator=calculator)
    return f"{told}\n{table(['kind', 'variants', *doors], rows, 'l')}\n"


def field(words: list[str]) -> str:
    """What a door says of the variants of a kind."""
    counts = Counter("—" if word == "no way in" else word for word in words)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{count} {word}" for word, count in counts.most_common())


def write_page(results: Path, page: Path) -> None:
    """Write the ``page`` of ``results/doors.json``."""
    page.write_text(markdown(read(results, "doors")), encoding="utf-8")
