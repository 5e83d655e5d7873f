"""The page of benchmarks/never_worse.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shared import filled, read, table

#: Models, by the end of the name of their results.
MODELS = {"PBE": "`DeepRelax-PBE`", "M3GNet": "`DeepRelax-M3GNet`"}

#: Comments around the table in ``docs/trust.md``.
BEGIN, END = "<!-- never_worse: begin -->", "<!-- never_worse: end -->"

_HEAD = """# Without a calculator: who ends further off than it began

```sh
python benchmarks/never_worse.py pairs_universal.npz pairs_xmno.npz pairs_generated_?.npz \\
    --json benchmarks/results/never_worse-PBE.json
```

All test crystals, but for those that are refused. Further off: by more than 0.0001 Å in the mean absolute component of
the coordinates, cell and origin apart. Less is rounding:
{exact}.
Volumes, by more than 0.01 %, are told beside it.
The odds that a prediction ends further off are a power law of its step and its error features, fitted to all
validation crystals of the same files. Above 50 % the crystal is left unchanged, as it is where the model would move it
by less than it errs. Above 10 % (`max_odds_worse=0.1`, the default) it is moved and called uncertain, unless nine in
ten like it end within 0.005 Å of their minimum. Held against that limit, the odds of a kind count more by its margin,
set on validation crystals so that one in twenty of those within the limit ends further off at most, by one standard
error and at least by one in a hundred:

{margins}

Gain: by how much coordinates come nearer, as a mean over all crystals;
handed out is what is not left unchanged."""

_CURVE = """How many a limit on the odds, margins counted in, accepts, how many of these end further off, and what they
hold of the gain."""


def write_page(results: Path, page: Path) -> None:
    """Write the figures of all models, from ``never_worse-*.json`` in the folder ``results``."""
    made = {name: read(results, f"never_worse-{name}") for name in MODELS}
    found = {name: measured["rows"] for name, measured in made.items()}
    margins = {name: measured["margins"] for name, measured in made.items()}
    parts = [_HEAD.format(exact=_exact(found["PBE"]), margins=_margins(margins))]
    for name, title in MODELS.items():
        rows = found[name]
        parts += [f"## {title}", _kinds(rows), _CURVE, _curve(rows)]
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def trust_table(results: Path) -> str:
    """What ``docs/trust.md`` holds of it: a table for each model."""
    heading = "crystals | all predictions: further off | accepted | of these further off | unchanged | gain kept"
    parts = []
    for name, title in MODELS.items():
        cells = []
        for kind, row in read(results, f"never_worse-{name}")["rows"].items():
            accepted = round(row["accepted"] * row["crystals"])
            off = f"{round(row['accepted_worse'] * accepted)} of {accepted}, {_percent(row['accepted_worse'])}"
            kept = f"{100 * row['gain_handed_out'] / row['gain']:.0f} %" if row["gain"] > 0 else "none to keep"
            shares = [_percent(row[share]) for share in ("worse", "accepted", "unchanged")]
            cells.append([kind, f"{row['crystals']:,}", *shares[:2], off, shares[2], kept])
        parts.append(table(f"{title}, test crystals of | {heading}", cells))
    return "\n\n".join(parts)


def fill(page: Path, results: Path) -> None:
    """Put the table between the comments of ``page`` that mark its place."""
    page.write_text(filled(page.read_text(encoding="utf-8"), BEGIN, END, trust_table(results)), encoding="utf-8")


def _exact(rows: dict[str, dict[str, Any]]) -> str:
    """How many crystals begin where they should, and what becomes of them."""
    exact = sum(row["exact"] for row in rows.values())
    moved = sum(row["exact"] * (row["exact_worse"] or 0) for row in rows.values())
    return (
        f"{exact:,} test crystals begin that near to their minimum, mostly held there by symmetry, and "
        f"{moved / exact:.1%} of them end further off with `DeepRelax-PBE`"
    )


def _margins(found: dict[str, dict[str, float]]) -> str:
    """Of each kind that a prediction knows of, for each model."""
    kinds = list(next(iter(found.values())))
    cells = [[MODELS[name], *(f"{of_kind[kind]:.2f}" for kind in kinds)] for name, of_kind in found.items()]
    return table(["margin", *kinds[:-1], "cell kept, no vacuum"], cells)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _kinds(rows: dict[str, dict[str, Any]]) -> str:
    heading = (
        "kind | crystals | all: further off | accepted | of these further off | of these volume further off | "
        "unchanged | uncertain ones further off | gain (Å) | handed out | accepted"
    )
    shares = ("worse", "accepted", "accepted_worse", "accepted_worse_volume", "unchanged", "uncertain_worse")
    gains = ("gain", "gain_handed_out", "gain_accepted")
    cells = [
        [kind, f"{row['crystals']:,}", *(_percent(row[n]) for n in shares), *(f"{row[n]:.4f}" for n in gains)]
        for kind, row in rows.items()
    ]
    return table(heading, cells)


def _curve(rows: dict[str, dict[str, Any]]) -> str:
    limits = [point["odds"] for point in rows["universal"]["curve"]]
    cells = []
    for kind, row in rows.items():
        points = [
            f"{100 * p['accepted']:.0f} %: {_percent(p['worse'])}, {100 * p['gain']:.0f} %" if p["accepted"] else ""
            for p in row["curve"]
        ]
        cells.append([kind, *points])
    return table(["kind", *(f"{limit:g}" for limit in limits)], cells, "l")
