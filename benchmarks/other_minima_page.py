"""The page of what other_minima.py measured, and of what was tried to tell jumps that end higher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from shared import filled, read, table

#: Comments around the table in ``docs/trust.md``.
BEGIN, END = "<!-- other_minima: begin -->", "<!-- other_minima: end -->"

#: eV/atom: energies that differ by more are those of other minima.
SAME, APART = 1e-3, 5e-3

#: Relaxations of the unrelaxed crystal and of the jump, as they stand in the results.
HOWS = {
    "fast": "the unrelaxed crystal, the fast finish",
    "BFGS": "the unrelaxed crystal, BFGS",
    "LBFGS": "the unrelaxed crystal, LBFGS",
    "jump, FIRE": "the jump, FIRE",
    "jump, fast": "the jump, the fast finish",
}
STARTS = {
    "unrelaxed, rattled": "the unrelaxed crystal, rattled",
    "jump": "the jump",
    "jump, rattled": "the jump, rattled",
    "jump from rattled": "the jump of the rattled crystal",
}
REFUSED = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)
_COLUMNS = ("from, by", "crystals", "higher", "by 5 meV", "lower", "by 5 meV", "mean (meV/atom)", "calls", "FIRE's")


def write_page(results: Path, page: Path) -> None:
    """Write the page of ``other_minima.json`` and ``other_minima-jumps.json`` in ``results``."""
    starts, jumps = read(results, "other_minima", "other_minima-jumps")
    rows = jumps["rows"]
    notes = dict.fromkeys(starts.get("notes", []) + jumps.get("notes", []))
    page.write_text(
        "\n\n".join([_HEAD, *notes, _finishes(rows), _refused(rows), _areas(rows), _rattled(starts)]) + "\n", "utf-8"
    )


def fill(page: Path, results: Path) -> None:
    """Put the table of :func:`trust_table` between the comments of ``page`` that mark its place."""
    page.write_text(filled(page.read_text(encoding="utf-8"), BEGIN, END, trust_table(results)), encoding="utf-8")


def trust_table(results: Path) -> str:
    """What ``docs/trust.md`` holds of it."""
    starts, jumps = read(results, "other_minima", "other_minima-jumps")
    return table(_COLUMNS, [*_of_finishes(jumps["rows"]), *_of_starts(starts["rows"])])


_HEAD = """# With a calculator: which minimum a jump leads to

A jump that lowers the energy may end in a higher minimum than FIRE finds from the unrelaxed crystal, or in a lower one.
Test crystals, `DeepRelax-M3GNet` under M3GNet. Higher, lower: by more than 1 meV/atom, and by more than 5. Calls: until
0.05 eV/Å; FIRE's from the unrelaxed crystals of the same row."""


def _finishes(rows: list[dict[str, Any]]) -> str:
    return f"""\
## Against FIRE from the unrelaxed crystal

By hand; the rows are kept in `results/other_minima-jumps.json`: 100 crystals of the universal and X-Mn-O test splits,
to 0.01 eV/Å, and {len(rows) - 100} of generated kinds, to 0.02.

{table(_COLUMNS, _of_finishes(rows))}

Optimizers that all begin at the unrelaxed crystal do not agree either: of the first 100 crystals the highest and the
lowest of four are more than 1 meV/atom apart in {_disagree(rows):.0%}. With no jump at all about as many end higher
than FIRE as after a jump with the fast finish, and FIRE itself ends higher in more than 5 % where its start is rattled,
see below."""


def _of_finishes(rows: list[dict[str, Any]]) -> list[list[str]]:
    made = []
    for how, name in HOWS.items():
        of = [r for r in rows if {how, "FIRE"} <= r["energy"].keys()]
        changes = np.array([r["energy"][how] - r["energy"]["FIRE"] for r in of])
        calls = [[r["calls"][key] for r in of if None not in r["calls"].values()] for key in (how, "FIRE")]
        made.append([name, *_cells(changes), *(f"{np.mean(taken):.1f}" for taken in calls)])
    return made


def _disagree(rows: list[dict[str, Any]]) -> float:
    ends = [[r["energy"][how] for how in ("FIRE", "fast", "BFGS", "LBFGS") if how in r["energy"]] for r in rows[:100]]
    return float(np.mean([max(energies) - min(energies) > SAME for energies in ends]))


def _cells(changes: np.ndarray) -> list[str]:
    shares = ((changes > SAME), (changes > APART), (changes < -SAME), (changes < -APART))
    return [f"{len(changes)}", *(f"{100 * share.mean():.0f} %" for share in shares), f"{1e3 * changes.mean():+.1f}"]


def _refused(rows: list[dict[str, Any]]) -> str:
    rows = [row for row in rows if {"jump, FIRE", "FIRE"} <= row["energy"].keys()]
    changes = np.array([row["energy"]["jump, FIRE"] - row["energy"]["FIRE"] for row in rows])
    more = np.array([(r["calls"]["FIRE"] or 300) + 1 - (r["calls"]["jump, FIRE"] or 300) for r in rows])
    order = np.argsort(-_scores(rows, changes > SAME))
    made = []
    for share in REFUSED:
        refused = order[: round(share * len(rows))]
        refused = refused[[rows[n]["jump"] == "kept" for n in refused]] if len(refused) else refused
        left = changes.copy()
        left[refused] = 0.0
        made.append([f"{share:.0%}", *_cells(left)[1:], f"{more[refused].sum() / len(rows):+.1f}"])
    columns = ("refused", "higher", "by 5 meV", "lower", "by 5 meV", "mean (meV/atom)", "calls more")
    return f"""\
## Refusing the jumps that look most like ending higher

By logistic regression on all that is known after the one call at the jump, and three calls on the way; each tenth of
the crystals is judged by what the other nine tell. A jump that is refused costs its call, and FIRE goes on from where
it was. What is lost are as many jumps that end lower.

{table(columns, made)}"""


def _scores(rows: list[dict[str, Any]], higher: np.ndarray) -> np.ndarray:
    """(n,) how much each jump looks like ending ``higher`` (n,), by the other nine tenths of the crystals."""
    inputs = np.array([list(row["features"].values()) for row in rows])
    inputs = np.column_stack([np.ones(len(rows)), (inputs - inputs.mean(axis=0)) / inputs.std(axis=0)])
    scores = np.zeros(len(rows))
    for part in np.array_split(np.random.default_rng(0).permutation(len(rows)), 10):
        others = np.setdiff1d(np.arange(len(rows)), part)
        scores[part] = inputs[part] @ _fitted(inputs[others], higher[others].astype(float))
    return scores


def _fitted(inputs: np.ndarray, target: np.ndarray, decay: float = 10.0) -> np.ndarray:
    weights = np.zeros(inputs.shape[1])
    ridge = decay * np.diag(np.r_[0.0, np.ones(len(weights) - 1)])
    for _ in range(30):
        odds = 1 / (1 + np.exp(-inputs @ weights))
        curvature = (inputs * (odds * (1 - odds))[:, None]).T @ inputs + ridge
        weights -= np.linalg.solve(curvature, inputs.T @ (odds - target) + ridge @ weights)
    return weights


def _areas(rows: list[dict[str, Any]]) -> str:
    rows = [row for row in rows if {"jump, FIRE", "FIRE"} <= row["energy"].keys() and row["jump"] == "kept"]
    higher = np.array([row["energy"]["jump, FIRE"] - row["energy"]["FIRE"] > SAME for row in rows])

    def area(values: np.ndarray) -> float:
        one, other = values[higher][:, None], values[~higher]
        return float(((one > other) + 0.5 * (one == other)).mean())

    names = rows[0]["features"]
    areas = {name: area(np.array([row["features"][name] for row in rows])) for name in names}
    told = "; ".join(f"{name} {value:.2f}" for name, value in sorted(areas.items(), key=lambda item: -item[1]))
    return f'Area under the ROC curve of each for "the jump ends higher": {told}.'


def _rattled(found: dict[str, Any]) -> str:
    how = found["how"]
    return f"""\
## Symmetry

```sh
python benchmarks/other_minima.py pairs_universal.npz pairs_xmno.npz --cache other_minima.jsonl \\
    --json benchmarks/results/other_minima.json
```

A jump keeps the symmetry of the unrelaxed crystal, and so does what follows, but for rounding: it may end at a saddle
that FIRE, with more steps, falls from by chance. Of eleven jumps that ended higher, six went down to FIRE's minimum or
below it once their ends were rattled by 0.02 Å (by hand). FIRE, to {how["minimum at"]} eV/Å, from crystals whose atoms
are rattled by {how["rattled by"]} Å and cells strained by {how["rattled by"] / 10:.1%}; {how["most calls"]} calls at
most, without force-informed steps. A jump that raises the energy is rejected.

{table(_COLUMNS, _of_starts(found["rows"]))}"""


def _of_starts(rows: list[dict[str, Any]]) -> list[list[str]]:
    return [
        [f"{name}, FIRE", *_start(rows, start)]
        for start, name in STARTS.items()
        if any(start in r["ends"] for r in rows)
    ]


def _start(rows: Sequence[dict[str, Any]], start: str) -> list[str]:
    pairs = [
        (row["ends"][start], row["ends"]["unrelaxed"]) for row in rows if {start, "unrelaxed"} <= row["ends"].keys()
    ]
    kept = [start.startswith("unrelaxed") or end["first"]["energy"] <= old["first"]["energy"] for end, old in pairs]
    changes = np.array([end["energy"] - old["energy"] if k else 0.0 for (end, old), k in zip(pairs, kept, strict=True)])
    taken: Callable[[dict[str, Any]], int] = lambda end: end.get("counted", end)["calls"]  # noqa: E731
    calls = np.mean([taken(end) if k else taken(old) + 1 for (end, old), k in zip(pairs, kept, strict=True)])
    return [*_cells(changes), f"{calls:.1f}", f"{np.mean([taken(old) for _, old in pairs]):.1f}"]
