"""The section of accuracy.md on losses of later blocks that reach the moves of earlier ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shared import read, table

#: Rows: key, heading, and what a unit of it is printed in.
ROWS = {
    "PBE, kinds": ("PBE, nine kinds: coordinates (Å)", 1, 4),
    "PBE, kinds further off": ("PBE, nine kinds: further off (%)", 100, 1),
    "PBE, kinds energy": ("PBE, nine kinds: energies (meV/atom, mean)", 1000, 1),
    "PBE, first files": ("PBE, first two files: coordinates (Å)", 1, 4),
    "M3GNet, kinds": ("M3GNet, nine kinds: coordinates (Å)", 1, 4),
    "M3GNet, kinds further off": ("M3GNet, nine kinds: further off (%)", 100, 1),
    "M3GNet, first files": ("M3GNet, first two files: coordinates (Å)", 1, 4),
}

TEXT = """## Gradients through the blocks

Each block moves atoms and cell, and the next one sees where they are. Whether the losses of later blocks reach the
moves of earlier ones is a setting of training (`gradients_through_blocks`, off unless it is set). Two trainings from
the weights before, {steps:,} steps each of one H200 with the same batches, from a learning rate of {rate:g} to zero,
otherwise as `examples/training/energy.yaml` (without known forces; the script is not in the tree), one seed each. Means
of validation crystals, two recycles; differences are paired, with their standard errors over crystals.

{table}

A step takes {longer:.2f} times as long with it ({on:.1f} steps a second instead of {off:.1f}, beside other work on the
same GPUs; less is indexed since, which was not timed). Trainings of equal time were not compared. In that time the
other one could make {more:,} steps, but its {steps:,} had brought crystals no nearer than the weights before
({plain[0]:+.4f} ± {plain[1]:.4f} Å for PBE, {plain_m3gnet[0]:+.4f} ± {plain_m3gnet[1]:.4f} Å for M3GNet). With the
setting they had, by two standard errors for PBE and one for M3GNet ({through[0]:+.4f} ± {through[1]:.4f} and
{through_m3gnet[0]:+.4f} ± {through_m3gnet[1]:.4f} Å)."""


def section(results: Path) -> str:
    """Return what two trainings that differ in this alone came to."""
    found = read(results, "gradients_through_blocks")
    rows, speed = found["rows"], found["steps_per_second"]
    longer = speed["off"] / speed["on"]
    names = {("PBE", "off"): "plain", ("PBE", "on"): "through"}
    names |= {("M3GNet", "off"): "plain_m3gnet", ("M3GNet", "on"): "through_m3gnet"}
    told = {name: rows[f"{level}, kinds"][f"{of} - shipped"] for (level, of), name in names.items()}
    more = round(found["steps"] * longer)
    return TEXT.format(
        steps=found["steps"], rate=found["learning_rate"], table=_table(rows), longer=longer, more=more, **speed, **told
    )


def _table(rows: dict[str, Any]) -> str:
    cells = []
    for key, (heading, unit, digits) in ROWS.items():
        row = rows[key]
        change, error = (unit * value for value in row["on - off"])
        values = (f"{unit * row[name]:.{digits}f}" for name in ("shipped", "off", "on"))
        cells.append([heading, f"{row['crystals']:,}", *values, f"{change:+.{digits}f} ± {error:.{digits}f}"])
    return table(["", "crystals", "weights before", "off", "on", "on - off"], cells)
