"""The page of accuracy and calibration, made of what accuracy.py and ``deeprelax calibrate`` measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import elastic_page
import gradients_page
import kinds_page
import last_stage_page
import limits_page
import relaxed_energy_page
from model_card_page import counted
from shared import read, table

from deeprelax_ase.evaluation.groups import LARGE
from deeprelax_ase.uncertainty.kinds import KINDS

MODELS = {
    "PBE": "`DeepRelax-PBE`",
    "M3GNet": "`DeepRelax-M3GNet` against M3GNet's minima, where they are known",
    "PBE-v0": "`DeepRelax-PBE-v0`, the paper's network",
}

#: Columns: what a result is called, by its key.
PARTS = {
    "pairs_universal, DFT-labelled": "universal, DFT",
    "pairs_universal, all": "universal, all",
    "pairs_xmno, DFT-labelled": "X-Mn-O, DFT",
    "pairs_xmno, all": "X-Mn-O, all",
}

#: Rows: title, key, and decimals of the means.
METRICS = (
    ("coordinates (Å)", "coordinates", 4),
    ("coordinates with cell, eq. (25) (Å)", "cartesian", 3),
    ("bond lengths, eq. (26) (Å)", "bond_length", 4),
    ("lattice, eq. (27) (Å)", "lattice", 4),
    ("cell volume, eq. (28) (Å³)", "volume", 2),
    ("relative volume", "relative_volume", 4),
)

HEAD = """# Accuracy of one shot, and how well it is known

```sh
python benchmarks/accuracy.py pairs_universal.npz pairs_xmno.npz --again 16 --json benchmarks/results/accuracy-PBE.json
deeprelax calibrate DeepRelax-PBE --data 'pairs_*.npz' --recycles 2 --recycles 1 --write \\
    --json benchmarks/results/coverage-PBE.json
```

and likewise for the other models, on the test splits. M3GNet's minima of the generated crystals were found by FIRE in
batches, from each label (`m3gnet_minima.py`: largest force and stress 0.05 eV/Å; 95 of 100 converge near it); those of
the other files come with them. "DFT" are crystals whose label is a published DFT minimum; the other labels are minima
of a potential, and their unrelaxed crystals are further away. Universal: no test crystal's set of elements occurs in
training. X-Mn-O is split by prototype: formulas do occur in training.

Coordinates are the mean absolute Cartesian components of the fractional error in the true cell, to the nearest images
and without the mean drift; "with cell" is the difference of Cartesian positions as the paper prints it. An already
relaxed crystal is the label itself given to the model: how far it moves its atoms, mean component. Calibration took all
validation crystals, and all test crystals tell how it holds."""

CALIBRATION = """## Calibration

Fitted on the validation splits of all files that the level has; share of test crystals whose error lies within its 90 %
bound. Each kind of crystal has factors of its own, for expected errors of up to four sizes: bulk, oxides, layers,
slabs, and defects, which stands for all whose cell is kept. The model tells the kind by the crystal itself and by what
may move. Volumes are those of cells that relax. The law does not know which labels a crystal will be compared with:
bounds are those of all labels together."""


def write_page(results: Path, page: Path) -> None:
    """Write the page of the JSON files in ``results``."""
    found = {name: read(results, f"accuracy-{name}") for name in MODELS}
    measured = {name: part["results"] for name, part in found.items()}
    covered = {name: read(results, f"coverage-{name}")["test"] for name in ("PBE", "M3GNet")}
    parts = [HEAD, *kinds_page.sections(results), *limits_page.sections(results)]
    parts += [*relaxed_energy_page.sections(results), gradients_page.section(results), elastic_page.section(results)]
    parts += last_stage_page.sections(results)
    for name, title in MODELS.items():
        size = f"{counted(found[name]['recycles'], 'recycle')} of {counted(found[name]['members'], 'member')}"
        parts += [f"## {title}, {size}", _errors(measured[name])]
    parts += ["## By the largest displacement of an atom", _displacements(measured["PBE"])]
    parts += [CALIBRATION, _coverage(covered)]
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _errors(found: dict[str, Any]) -> str:
    parts = [found[key] for key in PARTS]
    heads = [f"{name} ({found[key]['crystals']['predicted']:,})" for key, name in PARTS.items()]

    rows = [[title, *(_mean(part[key], digits) for part in parts)] for title, key, digits in METRICS]
    rank = "rank correlation of global uncertainty and bond length error"
    rows += [
        ["match rate", *(f"{p['match']['predicted']:.3f} / {p['match']['unrelaxed']:.3f}" for p in parts)],
        ["median coordinates (Å)", *(_median(p["coordinates"]) for p in parts)],
        ["median relative volume", *(_median(p["relative_volume"]) for p in parts)],
        [rank, *(f"{p['uncertainty_rank_correlation']['predicted']:.2f}" for p in parts)],
        ["an already relaxed crystal moves by (Å)", *(_stays(p, "already_relaxed_moves") for p in parts)],
        ["and its volume changes by", *(_stays(p, "already_relaxed_swells") for p in parts)],
    ]
    return table(["mean over crystals: predicted / unrelaxed", *heads], rows, "l")


def _stays(part: dict[str, Any], key: str) -> str:
    return f"{part[key]['predicted']:.4f}" if key in part else ""


def _mean(row: dict[str, Any], digits: int) -> str:
    return f"{row['predicted']:.{digits}f} / {row['unrelaxed']:.{digits}f} ({row['ratio']:.0%})"


def _median(row: dict[str, Any]) -> str:
    return f"{row['predicted_median']:.4f} / {row['unrelaxed_median']:.4f}"


def _displacements(found: dict[str, Any]) -> str:
    """Errors of the coordinates in bins, of ``DeepRelax-PBE``."""
    bins = {row["from"]: row for part in found.values() for row in part["by_largest_displacement"]}
    rows = []
    for low, any_row in sorted(bins.items()):
        cells = []
        for key in PARTS:
            row = next((r for r in found[key]["by_largest_displacement"] if r["from"] == low), None)
            cells.append("none" if row is None else f"{row['crystals']}: {_bin(row)}")
        rows.append([f"{low:g} to {any_row['to']:g}" if any_row["to"] else f"above {low:g}", *cells])
    text = "`DeepRelax-PBE`, coordinates' error in Å: crystals: mean (median) predicted / mean unrelaxed.\n\n"
    return text + table(["largest displacement (Å)", *PARTS.values()], rows, "l")


def _bin(row: dict[str, Any]) -> str:
    return f"{row['predicted']:.4f} ({row['predicted_median']:.4f}) / {row['unrelaxed']:.4f}"


def _coverage(found: dict[str, dict[str, Any]]) -> str:
    groups = {
        "all": "all",
        **{f"kind: {kind}": kind for kind in KINDS},
        f"over {LARGE} atoms": f"over {LARGE} atoms",
        "intermetallics": "intermetallics",
        "rare elements": "rare elements",
        "pairs_universal": "universal",
        "pairs_xmno": "X-Mn-O",
        "DFT-labelled": "DFT-labelled",
    }
    heads = [f"{name}: {what}" for name in found for what in ("crystals", "coordinates", "volume")]
    rows = []
    for key, title in groups.items():
        cells = []
        for part in found.values():
            row = part.get(key, {"crystals": 0})
            covered = (row.get(f"{quantity} coverage") for quantity in ("coordinates", "volume"))
            cells += [f"{row['crystals']:,}", *("" if share is None else f"{share:.1%}" for share in covered)]
        rows.append([title, *cells])
    for key, title in (("all", "all"), ("DFT-labelled", "DFT-labelled")):
        cells = []
        for part in found.values():
            row = part[key]
            cells += ["", *(f"{row[f'{quantity} rank correlation']:.2f}" for quantity in ("coordinates", "volume"))]
        rows.append([f"rank correlation of expected and true error, {title}", *cells])
    cells = []
    for part in found.values():
        row = part["all"]
        cells += [f"{row['ood']:.1%} out of distribution"]
        cells += [f"{row[f'{q} expected']:.3f} / {row[f'{q} error']:.3f}" for q in ("coordinates", "volume")]
    rows.append(["mean expected / true error, all", *cells])
    return table(["", *heads], rows, "l")
