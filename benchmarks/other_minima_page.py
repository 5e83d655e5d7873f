"""The page of what other_minima.py measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from shared import filled, read, table

#: Comments around the table in ``docs/trust.md``.
BEGIN, END = "<!-- other_minima: begin -->", "<!-- other_minima: end -->"

#: eV/atom: energies that differ by more are those of other minima.
SAME, APART = 1e-3, 5e-3
_SHARES = {"higher": "higher", "higher by 5": "by 5 meV", "lower": "lower", "lower by 5": "by 5 meV"}
_ENERGY, _CALLS = "mean (meV/atom)", ("calls", "FIRE's")


def write_page(results: Path, page: Path) -> None:
    """Write the page of ``other_minima.json`` and ``force_calls.json`` in ``results``."""
    found, informed = read(results, "other_minima", "force_calls")
    parts = [_head(found), _runs(found), _alone(found), _informed(informed["figures"]), _kinds(found)]
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def fill(page: Path, results: Path) -> None:
    """Put the table of :func:`trust_table` between the comments of ``page`` that mark its place."""
    page.write_text(filled(page.read_text(encoding="utf-8"), BEGIN, END, trust_table(results)), encoding="utf-8")


def trust_table(results: Path) -> str:
    """What ``docs/trust.md`` holds of it."""
    return _runs(read(results, "other_minima"))


def _head(found: dict[str, Any]) -> str:
    how = found["how"]
    return f"""\
# With a calculator: which minimum a jump leads to

```sh
python benchmarks/other_minima.py pairs_universal.npz pairs_xmno.npz pairs_generated_?.npz --each 60 \\
    --cache other_minima.jsonl --json benchmarks/results/other_minima.json
```

A jump that lowers the energy may end in a higher minimum than FIRE finds from the unrelaxed crystal, or in a lower one.
Test crystals of at most {how["atoms"]} atoms, `{found["model"]}` under M3GNet, positions and cell, to
{how["minimum at"]} eV/Å, {how["most calls"]} calls at most, without force-informed steps. Higher, lower: by more
than 1 meV/atom, and by more than 5. Calls: until {how["counted to"]} eV/Å; FIRE's from the unrelaxed crystals of the
same row. Rattled: atoms by {how["rattled by"]} Å, cells by {how["rattled by"] / 10:.1%}. {found["kept"]:.0%} of the
jumps are kept; one that raises the energy costs its call."""


def _table(first: str, rows: dict[str, dict[str, float]]) -> str:
    cells = []
    for name, row in rows.items():
        shares, calls = [f"{100 * row[key]:.0f} %" for key in _SHARES], [f"{row[key]:.1f}" for key in _CALLS]
        cells.append([name, f"{row['crystals']}", *shares, f"{1e3 * row['mean']:+.1f}", *calls])
    return table([first, "crystals", *_SHARES.values(), _ENERGY, *_CALLS], cells)


def _runs(found: dict[str, Any]) -> str:
    return _table("from, by", found["runs"])


def _alone(found: dict[str, Any]) -> str:
    fast, rattled = (found["runs"][f"the unrelaxed crystal, {how}"] for how in ("the fast finish", "rattled, FIRE"))
    return f"""\
Where no jump is made minima differ too: the fast finish ends higher than FIRE from the same crystals in
{fast["higher"]:.0%}, and FIRE itself in {rattled["higher"]:.0%} once its start is rattled. The highest and the lowest
of the three are more than 1 meV/atom apart in {found["starts disagree"]:.0%}. So nothing that moves a crystal otherwise
than FIRE does can be expected to end higher in less than about {rattled["higher"]:.0%}. Refusing the jumps that look
most like it loses as many that end lower ([measured_once.md](measured_once.md)).

A jump keeps the symmetry of the unrelaxed crystal, and so does what follows, but for rounding: it may end at a saddle
that FIRE, with more steps, falls from by chance. Of eleven jumps that ended higher, six went down to FIRE's minimum or
below it once their ends were rattled by 0.02 Å (by hand, with former weights)."""


def _informed(figures: dict[str, Any]) -> str:
    changes = np.array(figures["0.01"]["fire"]["per_crystal"]["energy_change"])
    calls = figures["0.05"]["fire"]["calls"]
    return f"""\
With force-informed steps after the jump, as the optimizer makes them before FIRE, and to 0.01 eV/Å, on {len(changes)}
crystals of [force_calls.md](force_calls.md): higher {(changes > SAME).mean():.0%}, by 5 meV
{(changes > APART).mean():.0%}; lower {(changes < -SAME).mean():.0%}, by 5 meV {(changes < -APART).mean():.0%};
{1e3 * changes.mean():+.1f} meV/atom in the mean; {calls["with"]["mean"]:.1f} instead of
{calls["without"]["mean"]:.1f} calls."""


def _kinds(found: dict[str, Any]) -> str:
    return "## The jump, then FIRE, by kind\n\n" + _table("test crystals of", found["by kind"])
