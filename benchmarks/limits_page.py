"""What limits accuracy, made of what floor.py and large.py measured, and of runs of training of equal length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from floor import ASYMMETRIC, SYMMETRIC
from scipy.optimize import curve_fit
from shared import read, table

FLOOR = """## How near a relaxation itself comes

```sh
PYTHONPATH=benchmarks DEEPRELAX_NEQUIX=nequix-oam-1.pt python benchmarks/floor.py pairs_universal.npz \\
    pairs_xmno.npz pairs_generated_[d-g].npz --json benchmarks/results/floor.json
```

FIRE in batches under Nequix-OAM-1, which made the labels but those of DFT, from the same starts to 0.03 eV/Å (180 steps
at most), beside `DeepRelax-PBE`. Where two relaxations of one start part, the label is one of several minima: no
prediction can be expected to come much nearer. "Moved": every coordinate of the start by 0.01 Å. Energies within 25
meV/atom of the label's, and more than that below it, are those of FIRE from the start."""

LARGE = """## Above 30 and above 100 atoms

```sh
PYTHONPATH=benchmarks DEEPRELAX_NEQUIX=nequix-oam-1.pt python benchmarks/large.py pairs_generated_[d-g].npz \\
    --json benchmarks/results/large.json
```

Nearly all training crystals have 48 atoms at most. Supercells of bulk test crystals relaxed under Nequix-OAM-1:
{converged} of {made} within 500 steps, {atoms[0]} to {atoms[1]} atoms. The first row are the test crystals above 30."""

SCALING = """## What more pairs, parameters and time buy

Trainings of {seconds} s on one H200 each, from random weights, that depart in one thing: mean over the nine kinds of
the test crystals' coordinates, two recycles, {each} crystals of a kind at most, which start at {start:.4f} Å."""


def sections(results: Path) -> list[str]:
    """Parts of the page of accuracy."""
    floor, large, kinds, scaling, learnt = read(results, "floor", "large", "kinds-PBE", "scaling", "learnt")
    return [
        *(FLOOR, _floor(floor, kinds["rows"]), _stable(floor["moved"])),
        *(LARGE.format(**large), _large(large["rows"], kinds["rows"])),
        *(SCALING.format(**scaling), _scaling(scaling["runs"]), _laws(scaling["runs"], learnt)),
    ]


def _stable(rows: dict[str, Any]) -> str:
    """What the moved starts tell of the labels."""
    of, low = ({name: rows[name][key] for name in (SYMMETRIC, ASYMMETRIC)} for key in ("crystals", "lower"))
    return (
        f"From moved starts {low[SYMMETRIC]:.0%} of the {of[SYMMETRIC]:,} symmetric crystals among the nine kinds end "
        f"more than 25 meV/atom below their label, of the {of[ASYMMETRIC]:,} others {low[ASYMMETRIC]:.0%}: a "
        "relaxation keeps the symmetry of its start, and many a label of a symmetric start is a saddle point."
    )


def _floor(floor: dict[str, Any], predicted: dict[str, Any]) -> str:
    heading = ["", "crystals", "FIRE (Å)", "moved (Å)", "`DeepRelax-PBE` (Å)", "start (Å)"]
    heading += ["FIRE within 0.05 Å", "moved", "`DeepRelax-PBE`", "FIRE's calls", "energy within 25 meV/atom", "lower"]
    rows = []
    for name, found in floor["rows"].items():
        if name not in predicted or found["crystals"] != predicted[name]["crystals"]:  # as of other files too
            continue
        sides = found["end"], floor["moved"][name]["end"], predicted[name]["end"], found["start"]
        cells = [f"{side['coordinates mean']:.4f}" for side in sides]
        cells += [f"{side['near']:.0%}" for side in sides[:3]]
        cells += [f"{found['calls']:.0f}", f"{found['within']:.0%}", f"{found['lower']:.0%}"]
        rows.append([name, f"{found['crystals']:,}", *cells])
    return table(heading, rows, "l")


def _large(rows: dict[str, Any], kinds: dict[str, Any]) -> str:
    heading = ["", "crystals", "coordinates (Å)", "median (Å)", "within 0.05 Å"]
    heading += ["relative volume, median", "further off"]
    cells = []
    for name, found in {"test crystals above 30 atoms": kinds["above 30 atoms of these"], **rows}.items():
        end, start = found["end"], found["start"]
        keys = (("coordinates mean", ".4f"), ("coordinates median", ".4f"), ("near", ".0%"))
        both = [f"{end[key]:{form}} / {start[key]:{form}}" for key, form in (*keys, ("relative_volume median", ".2%"))]
        cells.append([name, f"{found['crystals']:,}", *both, f"{found['further off']:.0%}"])
    return table(heading, cells, "l")


def _scaling(runs: list[dict[str, Any]]) -> str:
    rows = [
        [f"{run['pairs']:,}", f"{run['parameters'] / 1e6:.1f} M", f"{run['crystals'] / 1e6:.2f} M"]
        + [f"{run[split]:.4f}" for split in ("test", "validation")]
        for run in runs
    ]
    return table("pairs | parameters | crystals seen | test (Å) | validation (Å)", rows)


def law(sizes: np.ndarray, errors: np.ndarray) -> tuple[float, float, float]:
    """Floor, factor and power of ``floor + factor * size ** -power``, fitted to ``errors`` (n,) of ``sizes`` (n,)."""
    scale = sizes.max()

    def error(size: np.ndarray, floor: float, factor: float, power: float) -> np.ndarray:
        return floor + factor * (size / scale) ** -power

    guess = (errors.min() / 2, errors.min() / 2, 0.2)
    (floor, factor, power), _ = curve_fit(error, sizes, errors, p0=guess, bounds=(0, np.inf), max_nfev=10_000)
    return floor, factor * scale**power, power


def _laws(runs: list[dict[str, Any]], learnt: dict[str, Any]) -> str:
    """What twice the pairs would bring at equal time, and what another hour of training."""
    largest = max(runs, key=lambda run: run["parameters"])
    best = min(runs, key=lambda run: run["test"])
    by_pairs = [run for run in runs if run["parameters"] == best["parameters"]]
    stages = [largest, *learnt["networks"]]
    seen, hour = stages[-1]["crystals"], 3600 * largest["crystals"] / largest["seconds"]
    floor, power, now, twice = _ahead(by_pairs, "pairs", best["pairs"], 2 * best["pairs"])
    last, steeper, today, then = _ahead(stages, "crystals", seen, seen + hour)
    logarithms = [np.log([stage[key] for stage in stages]) for key in ("crystals", "test")]
    slope, offset = np.polyfit(*logarithms, 1)
    alone = [np.exp(offset + slope * np.log(size)) for size in (seen, seen + hour)]
    more = (learnt["aim"] / stages[-1]["test"]) ** (1 / slope)
    big, small = (f"{run['parameters'] / 1e6:.1f} million parameters" for run in (largest, best))
    return " ".join(
        [
            f"By pairs the law is {floor:.4f} Å and a power of {-power:.2f}: in that time twice as many would bring "
            f"{now:.4f} to {twice:.4f} Å.",
            f"By parameters there is none: at equal time {small} do best, and {big} see "
            f"{largest['crystals'] / best['crystals']:.0%} as many crystals.",
            f"By crystals seen, this run of {big} and the stages above, of which all test crystals count, go as "
            f"{last:.4f} Å and a power of {-steeper:.2f}, or as a power of {slope:.3f} alone.",
            f"The next hour of one H200, {hour / 1e6:.0f} million crystals, would so bring {today:.4f} to {then:.4f} "
            f"Å, or {alone[0]:.4f} to {alone[1]:.4f} Å: to {learnt['aim']} Å it would never come, or after {more:.0f} "
            "times as many crystals.",
            "Four and five points with three parameters each: floors are rough.",
        ]
    )


def _ahead(rows: list[dict[str, Any]], key: str, now: float, then: float) -> tuple[float, float, float, float]:
    """Floor and power of the law by ``key``, and its errors at two sizes."""
    floor, factor, power = law(*(np.array([row[name] for row in rows], float) for name in (key, "test")))
    return floor, power, floor + factor * now**-power, floor + factor * then**-power
