"""What came of ``examples/teach_at_scale.sh``: gathers its files, prints a table, and makes the part of a page.

python benchmarks/taught.py taught --label 150 --finetune 60
"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections import Counter
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from shared import read, table
from time_to_minimum_page import other_weights

#: Rows of the table of what labels bring: title, of the results of a method the keys, the factor of the unit, and the
#: format.
_ROWS = (
    ("coordinates, mean (Å)", ("coordinates", "mean"), 1, ".4f"),
    ("coordinates, median (Å)", ("coordinates", "median"), 1, ".4f"),
    ("volume off, mean (%)", ("relative volume",), 100, ".2f"),
    ("energy above, median (meV/atom)", ("energy", "median"), 1e3, ".1f"),
    ("energy above, mean (meV/atom)", ("energy", "mean"), 1e3, ".1f"),
)

#: Measured models, in the order of the columns: before tuning, tuned, and another one.
_MODELS = ("before", "after", "beside")

#: eV/Å, to which calls are counted.
_FMAX = 0.05


def gathered(out: Path, seconds: dict[str, int]) -> dict[str, Any]:
    """Everything that the script measured in the folder ``out``; the ``seconds`` of its stages it counted itself."""
    from deeprelax_ase.labelling import label_folder

    tables = label_folder(out / "labelled").tables(["status", "force_calls"])
    rows = [row for part in tables for row in part.to_pylist()]
    measured = {name: out / f"{name}.json" for name in _MODELS}
    found = {name: json.loads(file.read_text()) for name, file in measured.items() if file.exists()}
    here = found["before"]["environment"]
    device = here["processor"] if here["gpu"] == "none" else here["gpu"]
    return {
        "candidates": Counter(row["status"] for row in rows),
        "force_calls": sum(row["force_calls"] or 0 for row in rows),
        "seconds": seconds,
        "devices": dict.fromkeys(("label", "finetune"), f"one {device}"),
        **found,
    }


def heading(found: dict[str, Any]) -> list[str]:
    """Of the table."""
    names = ["tuned" if name == "after" else f"`{found[name]['model']}`" for name in _MODELS if name in found]
    return [f"{found['before']['crystals']} crystals", "as they are", *names]


def lines(found: dict[str, Any]) -> list[list[str]]:
    """Of the table: the unrelaxed crystals, and each model."""
    rows = [
        {row["method"]: row for row in found[name]["rows"] if row["fmax"] in (None, _FMAX)}
        for name in _MODELS
        if name in found
    ]
    made = []
    for title, keys, scale, form in _ROWS:
        values = [reduce(getitem, keys, row) for row in (rows[0]["nothing"], *(of["one shot, default"] for of in rows))]
        made.append([title, *(f"{scale * value:{form}}" for value in values)])
    for title, name in (("`fast`", "fast"), ("FIRE", "fire")):
        if all(f"jump, {name}" in of for of in rows):
            calls = [rows[0][name], *(of[f"jump, {name}"] for of in rows)]
            made.append([f"calls of {title} to {_FMAX} eV/Å", *(f"{row['calls']:.1f}" for row in calls)])
    return made


def sentence(found: dict[str, Any]) -> str:
    """What the labels and the tuning took."""
    told, seconds, places = found["candidates"], found["seconds"], found["devices"]
    candidates = sum(told.values())
    before, after = (
        next(row["calls"] for row in found[name]["rows"] if (row["method"], row["fmax"]) == ("jump, fast", _FMAX))
        for name in ("before", "after")
    )
    kept = found["after"]["weights"] == found["before"]["weights"]  # of the best validation error, that of the start
    came = ", too little for fewer calls" if after >= before else ""
    came = (
        ", in which no weights did better on the validation pairs than those it began with: they stay" if kept else came
    )
    other = other_weights(found["before"])
    other = other and f" The model is one{other}."
    return (
        f"Labels took {seconds['label']} s of {places['label']}, starts included: {told['labelled']:,} of "
        f"{candidates:,} candidates, {found['force_calls'] / candidates:.0f} calls each. Tuning took "
        f"{seconds['finetune']} s of {places['finetune']}{came}. "
        f"With all that was measured it took {seconds['all']} s.{other}"
    )


def part(results: Path, name: str = "taught") -> str:
    """The sentence and the table of the page."""
    found = read(results, name)
    return f"{sentence(found)}\n\n{table(heading(found), lines(found))}"


def main() -> None:
    """Gather, write and print."""
    from rich.console import Console
    from rich.table import Table

    parser = ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, help="folder of the script")
    for name in ("label", "finetune", "all"):
        parser.add_argument(f"--{name}", type=int, required=True, help="seconds that it took", metavar="S")
    given = parser.parse_args()
    found = gathered(given.out, {name: getattr(given, name) for name in ("label", "finetune", "all")})
    (given.out / "taught.json").write_text(json.dumps(found, indent=1))
    shown = Table(*(cell.replace("`", "") for cell in heading(found)), box=None, padding=(0, 2, 0, 0))
    for line in lines(found):
        shown.add_row(*(cell.replace("`", "") for cell in line))
    Console(width=100, highlight=False).print(shown)
    print(sentence(found))


if __name__ == "__main__":
    main()
