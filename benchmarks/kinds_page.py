"""Accuracy by kind of crystal and energies above minima, made of what kinds.py and minimum_energies.py measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shared import read, table

#: Whose minima the relaxed crystals are, by the end of the result's name.
LEVELS = {"PBE": "Minima of PBE, or of Nequix-OAM-1 where DFT did not relax", "M3GNet": "M3GNet's minima"}

SPLITS = {
    "test": "test (Å)",
    "validation": "validation (Å)",
    "few": "the first 60 validation crystals of each kind (Å)",
    "train": "training crystals (Å)",
}

POTENTIALS = {"m3gnet": "M3GNet", "nequix": "Nequix-OAM-1"}

COMMANDS = """```sh
python benchmarks/kinds.py pairs_universal.npz pairs_xmno.npz pairs_generated_?.npz --match \\
    --json benchmarks/results/kinds-PBE.json
DEEPRELAX_M3GNET=path/to/M3GNet-MP-2021.2.8-PES python benchmarks/minimum_energies.py m3gnet pairs_universal.npz \\
    pairs_xmno.npz pairs_generated_?.npz --model DeepRelax-M3GNet --number 20000 \\
    --json benchmarks/results/minimum_energies-M3GNet.json
PYTHONPATH=benchmarks DEEPRELAX_NEQUIX=nequix-oam-1.pt python benchmarks/minimum_energies.py nequix \\
    pairs_universal.npz pairs_xmno.npz pairs_generated_?.npz --number 20000 \\
    --json benchmarks/results/minimum_energies-Nequix.json
```"""

KINDS = """## By kind of crystal

Test crystals, by what was done to published crystals to make them. Nothing is flagged here, nor left unchanged where
the model expects to do harm: "further off" is the share of crystals whose coordinates end further from the relaxed
ones than they began, by more than 0.0001 Å. After the slash stands the unrelaxed crystal. Match rate: how many
pymatgen's StructureMatcher takes, with its defaults, for the relaxed crystal. Where crystals are left unchanged as by
default the row of universal DFT-labelled crystals has {left:.4f} Å and {volume:.2f} Å³ (below)."""

ENERGIES = """## Energy above the minimum

Energy under a potential above that of its own minimum, which screenings rank by: share of crystals within 25
meV/atom."""

LEARNT = """## What training buys

The stages of the default's training, each the start of the next: coordinates with two recycles, mean over the nine
kinds, and what was learnt from until then. The training crystals of the last column are some of each kind. The
figures of this table were copied by hand from the logs of the runs. The third stage, on the same pairs as the second,
gained nothing; the fourth had twice as many; the fifth, on half of these, was for energies; the sixth had gradients
through the blocks; the seventh is told [below](#the-last-stage-of-training). A fifth of the crystals, whose minimum
lies far from the start, holds two thirds of the error."""


def sections(results: Path) -> list[str]:
    """Parts of the page of accuracy."""
    left = read(results, "accuracy-PBE")["results"]["pairs_universal, DFT-labelled"]
    means = {name: left[key]["predicted"] for name, key in (("left", "coordinates"), ("volume", "volume"))}
    parts = [COMMANDS, KINDS.format(**means)]
    for file in sorted(results.glob("kinds-*.json"), reverse=True):  # PBE first
        found = read(results, file.stem)
        level = LEVELS[file.stem.removeprefix("kinds-")]
        parts += [f"`{found['model']}`, {found['recycles']} recycles. {level}:", _kinds(told_here(found["rows"]))]
    parts.append(ENERGIES)
    for file in sorted(results.glob("minimum_energies-*.json")):
        found = read(results, file.stem)
        which = f"`{found['model']}` under {POTENTIALS[found['potential']]}, {_chosen(found)}:"
        parts += [which, _energies(found["rows"])]
    learnt = read(results, "learnt")
    return [*parts, LEARNT, _learnt(learnt["networks"])]


def told_here(rows: dict[str, Any]) -> dict[str, Any]:
    """Without the families as a whole, of which accuracy.py predicts every crystal."""
    return {name: found for name, found in rows.items() if not name.endswith(", all")}


def _kinds(rows: dict[str, Any]) -> str:
    heading = ["", "crystals", "coordinates (Å)", "median (Å)", "within 0.05 Å", "match rate"]
    heading += ["lengths of the cell (Å)", "relative volume, median", "volume (Å³)", "further off"]
    return table(heading, [[name, *_cells(found)] for name, found in rows.items()], "l")


def _cells(found: dict[str, Any]) -> list[str]:
    end, start = found["end"], found["start"]

    def both(key: str, form: str) -> str:
        return f"{end[key]:{form}} / {start[key]:{form}}"

    moves = start["lengths mean"] > 0
    return [
        f"{found['crystals']:,} of {found['of']:,}",
        both("coordinates mean", ".4f"),
        both("coordinates median", ".4f"),
        both("near", ".0%"),
        both("match", ".1%") if "match" in end else "not measured",
        both("lengths mean", ".3f") if moves else "kept",
        both("relative_volume median", ".2%") if moves else "kept",
        both("volume mean", ".2f") if moves else "kept",
        f"{found['further off']:.0%}",
    ]


def _chosen(found: dict[str, Any]) -> str:
    """Which crystals the rows are of."""
    if found["number"] >= max(row["crystals"] for row in found["rows"].values()):
        return "all test crystals"
    return f"evenly spaced crystals, {found['number']} at most of each label in a row"


def _energies(rows: dict[str, Any]) -> str:
    heading = ["", "crystals", "within 25 meV/atom", "median (meV/atom)", "90 % (meV/atom)"]
    cells = [
        [
            name,
            f"{found['crystals']:,}",
            f"{found['end']['within']:.0%} / {found['start']['within']:.0%}",
            f"{1e3 * found['end']['median']:.1f} / {1e3 * found['start']['median']:.0f}",
            f"{1e3 * found['end']['p90']:.0f}",
        ]
        for name, found in rows.items()
    ]
    return table(heading, cells, "l")


def _learnt(networks: list[dict[str, Any]]) -> str:
    heading = ["stage", "seconds of an H200", "crystals seen", *SPLITS.values()]
    rows = []
    for network in networks:
        errors = [network.get(split) for split in SPLITS]
        texts = ["" if error is None else f"{error:.4f}" for error in errors]
        rows.append([network["name"], f"{network['seconds']:,}", f"{network['crystals'] / 1e6:.1f} M", *texts])
    return table(heading, rows, "l")
