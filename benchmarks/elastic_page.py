"""The section of accuracy.md on a loss that counts errors by what they cost in energy."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from shared import read, table

#: Rows: key, heading, and what a unit of it is printed in.
ROWS = {
    "PBE: coordinates": ("PBE: coordinates (Å)", 1, 4),
    "PBE: further off": ("PBE: further off (%)", 100, 1),
    "PBE: root of the springs' energy": ("PBE: root of the springs' energy ((eV/atom)^½)", 1, 3),
    "M3GNet: coordinates": ("M3GNet: coordinates (Å)", 1, 4),
    "M3GNet: further off": ("M3GNet: further off (%)", 100, 1),
    "M3GNet: root of the springs' energy": ("M3GNet: root of the springs' energy ((eV/atom)^½)", 1, 3),
    "M3GNet: within 25 meV/atom": ("under M3GNet: less than 25 meV/atom above the label's crystal (%)", 100, 1),
    "M3GNet: excess, at most 0.2": ("under M3GNet: above it, 200 at most (meV/atom)", 1000, 1),
    "M3GNet: largest force below 0.05": ("under M3GNet: largest force below 0.05 eV/Å (%)", 100, 1),
}

TEXT = """## Errors by what they cost

Displacements count errors along stiff bonds and along soft directions alike; energies and forces do not. With
`elastic_weight` the root of what the last block's errors cost in springs between neighbours stands beside the Laplace
losses: the springs of the finish `fast`, at rest in the relaxed crystal. Their energy ranks predictions as M3GNet's
energy above the label's crystal does by {springs[energy]:.2f}, as its largest force does by {springs[force]:.2f};
errors of coordinates do so by {coordinates[energy]:.2f} and {coordinates[force]:.2f} (Spearman; weights before).

Trainings from these weights, of {steps:,} steps each with the same batches, from a learning rate of {rate:g} to zero,
otherwise as `examples/training/energy.yaml` (without known forces; the script is not in the tree), one seed
each. Means over the nine kinds of {pbe:,} validation crystals, {m3gnet:,} with M3GNet's minima, two recycles; in
brackets paired differences from weight 0, with their standard errors over crystals.

{table}

Coordinates hardly tell the weights apart, energies and forces do: the largest force of a prediction changed by
{forces} in the geometric mean.
The share whose forces have converged did not change by a standard error. The slowest training made {cost:.2f} times as
many steps a second as that of weight 0, two on each of two H200."""


def section(results: Path) -> str:
    """Return what trainings that differ in this weight alone came to."""
    found = read(results, "elastic")
    rows, weights, speed = found["rows"], found["weights"], found["steps_per_second"]
    plain, *others = weights
    forces = {name: rows["M3GNet: log of the largest force"][f"{name} - {plain}"] for name in others}
    told = [f"{math.expm1(change):+.1%} ± {error:.1%}" for change, error in forces.values()]
    return TEXT.format(
        steps=found["steps"],
        rate=found["learning_rate"],
        pbe=rows["PBE: coordinates"]["crystals"],
        m3gnet=rows["M3GNet: coordinates"]["crystals"],
        table=_table(rows, weights),
        forces=f"{', '.join(told[:-1])} and {told[-1]}",
        cost=min(speed.values()) / speed[plain],
        **found["rank_correlations"],
    )


def _table(rows: dict[str, Any], weights: dict[str, float]) -> str:
    (plain, _), *others = weights.items()
    cells = []
    for key, (heading, unit, digits) in ROWS.items():
        row = rows[key]
        cells.append([heading, *(f"{unit * row[name]:.{digits}f}" for name in ("shipped", plain))])
        for name, _ in others:
            change, error = (unit * value for value in row[f"{name} - {plain}"])
            cells[-1].append(f"{unit * row[name]:.{digits}f} ({change:+.{digits}f} ± {error:.{digits}f})")
    return table(["", "weights before", *(f"{weight:g}" for weight in weights.values())], cells)
