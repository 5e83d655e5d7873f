"""The paper's tables and figures on our data, beside its own, as one page.

python benchmarks/paper/page.py

makes ``README.md`` and the figures beside it of what benchmarks/paper/measure.py left in ``benchmarks/results``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from figures import draw_correlations, draw_distributions, draw_energies, draw_structures
from published import COLUMNS, CORRELATIONS, TABLES

from deeprelax_ase.evaluation.benchmark_page import table

#: Our set for each of the paper's tables, and the rows that we have beyond its own.
OURS = {
    "table 1, X-Mn-O": ("xmno", ("PaiNN-Cartesian", "EGNN-Cartesian", "DeepRelax-mended", "DeepRelaxE3")),
    "table 2, Materials Project": (
        "universal",
        ("PaiNN-Cartesian", "EGNN-Cartesian", "Cryslator", "DeepRelax-mended", "DeepRelaxE3"),
    ),
    "table 3, C2DB": (
        "monolayers",
        ("PaiNN-Cartesian", "EGNN-Cartesian", "Cryslator", "DeepRelaxE3", "DeepRelaxE3T"),
    ),
    "table 4, X-Mn-O": ("xmno", ()),
}

#: What our sets are called on the page.
SETS = {"xmno": "X-Mn-O", "universal": "universal", "monolayers": "monolayers"}

#: Decimals of each column, and its head.
_HEADS = {
    "cartesian": ("coordinates (Å)", 3),
    "bond_length": ("bond lengths (Å)", 3),
    "lattice": ("lattice (Å)", 3),
    "volume": ("volume (Å³)", 2),
    "match": ("match rate (%)", 1),
    "coordinates": ("coordinates, cell and images apart (Å)", 3),
    "rotation_free_lattice": ("lattice, without rotation (Å)", 3),
    "rmsd": ("RMSD", 3),
}

#: Columns of the second table of each set, most of which the paper does not have.
_MORE = ("coordinates", "rotation_free_lattice", "match", "rmsd")

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results"

#: What we read off the tables is written by hand, in a file of its own.
READING = HERE / "reading.md"


def write_page(folder: Path = HERE) -> None:
    """Write the page, ``README.md``, and its figures into ``folder``."""
    report, energies, structures, times, images = (
        json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("tables", "energies", "structures", "bench-M3GNet", "images")
    )
    rows = {(row["data"], row["model"], row["seed"]): row for row in report["rows"]}
    ends = {metric: (_HEADS[metric][0], end) for metric, end in report["bins"].items()}
    draw_distributions(rows, SETS, ends, folder / "figure2.svg")
    draw_energies(energies, folder / "figure4.svg")
    draw_correlations(rows, SETS, folder / "figure5.svg")
    parts = [
        _head(report, images),
        *(_table(title, rows) for title in TABLES),
        *(_more(data, rows) for data in SETS if any(key[0] == data for key in rows)),
        _times(times),
        _FIGURE_2,
        _figure_3(draw_structures(structures, folder)),
        _figure_4(energies),
        _figure_5(rows),
        _transfer(rows),
        READING.read_text(encoding="utf-8").strip(),
    ]
    (folder / "README.md").write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")


def _head(report: dict[str, Any], images: dict[str, Any]) -> str:
    pairs = "; ".join(
        f"{SETS[data]} {n['train']:,} / {n['validation']:,} / {n['test']:,}" for data, n in report["pairs"].items()
    )
    budget, plain = report["budget"], report["budget"]["paper's and direct networks"]
    ours = budget["end-to-end network"]
    return f"""# The paper's tables and figures on our data

Tables 1 to 4 and S1 and figures 2 to 5 of [arXiv:2404.00865](https://arxiv.org/abs/2404.00865). The first command makes
this page of `benchmarks/results`; the others measure anew, hours on one GPU:

```sh
python benchmarks/paper/page.py
python benchmarks/paper/train.py --data DIR --out runs/tables
python benchmarks/paper/measure.py --data DIR --predictions runs/tables
```

Every row of ours is trained by the same budget: {budget["steps"]:,} steps of {plain["atoms_per_batch"]:,} atoms, one
run each, AdamW with a cosine schedule (peak rate {plain["learning_rate"]:g}, of the end-to-end network
{ours["learning_rate"]:g}), the weights that do best on the validation split, no augmentation but for the end-to-end
network. Pairs (training / validation / test): {pairs}. The sets are not the paper's: X-Mn-O is split by
prototype and not at random, universal stands for the Materials Project and is split by chemical system, the
monolayers stand for C2DB and are relaxed under M3GNet ([data](data/README.md)). So errors can be compared within a set
only. In brackets: the improvement over the Dummy, which is the unrelaxed crystal.

PaiNN and EGNN predict coordinates and lattice directly; Cryslator predicts the cell first and the positions in it with
a second network (on PaiNN's blocks, without its translation of features between encoders). Coordinates are measured
from where the cell carries the atoms; "Cartesian" rows measure them from the unrelaxed positions, as in the paper.

{_images(images)}"""


def _images(found: dict[str, Any]) -> str:
    """What has become of figures since another measure of the coordinates."""
    sets = {SETS[data]: rows for data, rows in found["sets"].items()}
    dummy, ours = (
        "; ".join(f"{name} {r[of]['nearest']:.4f} instead of {r[of]['circular mean']:.4f}" for name, r in sets.items())
        for of in ("Dummy", "DeepRelax-PBE")
    )
    changed = ", ".join(f"{rows['Dummy']['changed']} of {rows['Dummy']['crystals']:,}" for rows in sets.values())
    return f"""\
Networks of tables 1 to 4 and their errors are those of commit c9aaa18; their predictions are not kept. One column has
another measure today, "coordinates, cell and images apart" in the tables that tell more: it was taken to images about
the circular mean, and is taken to the nearest ones. Of the unrelaxed crystals {changed}
change by more than 0.0001 Å. Means (Å) of the Dummy: {dummy}.
Those of `DeepRelax-PBE` with earlier weights, one recycle, on the same crystals: {ours}.
All other columns and figures are measured today as they were."""


def _table(title: str, rows: dict[tuple[str, str, int], dict[str, Any]]) -> str:
    """Rows of the paper, ours, and those that only we have."""
    data, extra = OURS[title]
    paper = TABLES[title]
    columns = [c for n, c in enumerate(COLUMNS) if n < len(next(iter(paper.values())))]
    heads = " | ".join(f"{_HEADS[c][0]}: ours | paper's" for c in columns)
    lines = [f"## Ours beside {title}", "", f"| {SETS[data]} | {heads} |", "| --- |" + " ---: |" * (2 * len(columns))]
    for model in (*paper, *extra):
        row = rows.get((data, model, 0))
        cells = []
        for n, column in enumerate(columns):
            cells.append(_ours(row, rows.get((data, "Dummy", 0)), column))
            cells.append(_papers(paper, model, n))
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _value(row: dict[str, Any] | None, column: str) -> float | None:
    found = (row or {}).get("metrics", {}).get(column)
    return None if found is None else found["predicted"] * (100 if column == "match" else 1)


def _ours(row: dict[str, Any] | None, dummy: dict[str, Any] | None, column: str) -> str:
    value, start = _value(row, column), _value(dummy, column)
    if value is None:
        return "not trained" if row is None else ""
    text = f"{value:.{_HEADS[column][1]}f}"
    return text if start is None or row is dummy else f"{text} ({gain(start, value, column):+.0f} %)"


def _papers(paper: dict[str, tuple[float | None, ...]], model: str, n: int) -> str:
    value = paper[model][n] if model in paper else None
    if value is None:
        return ""
    start = paper["Dummy"][n]
    return f"{value:g}" if model == "Dummy" or start is None else f"{value:g} ({gain(start, value, COLUMNS[n]):+.0f} %)"


def gain(start: float, value: float, column: str) -> float:
    """Improvement over the Dummy in per cent: of an error how much is gone, of the match rate how much it grew."""
    return 100 * ((value - start) if column == "match" else (start - value)) / start


def _more(data: str, rows: dict[tuple[str, str, int], dict[str, Any]]) -> str:
    """What the paper does not report."""
    heads = [_HEADS[c][0] for c in _MORE] + ["rank correlation of uncertainty", "parameters", "recycles"]
    lines = [f"### More on {SETS[data]}", "", "| | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * len(heads)]
    for (where, model, seed), row in rows.items():
        if where != data:
            continue
        name = model if seed == 0 else f"{model}, seed {seed}"
        cells = ["" if (v := _value(row, c)) is None else f"{v:.{_HEADS[c][1]}f}" for c in _MORE]
        rank = row["metrics"].get("uncertainty_rank_correlation", {}).get("predicted")
        cells.append("" if rank is None or np.isnan(rank) else f"{rank:.2f}")
        cells.append(f"{row['parameters']:,}" if "parameters" in row else "")
        cells.append(str(row["recycles"]) if "recycles" in row else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _times(found: dict[str, Any]) -> str:
    return f"""## Table S1: the time of one relaxation, beside iterative M3GNet

{found["crystals"]} test crystals of the universal pairs, {found["atoms"] / found["crystals"]:.1f} atoms on average,
one after the other but for the predictions, on {found["environment"]["threads"]} CPU thread
([how it was measured](../bench.md)). {" ".join(found["notes"])}

{table(found)}"""


_FIGURE_2 = """## Figure 2: distributions of the errors

![Histograms of the errors of coordinates, lattice and volume](figure2.svg)

Test crystals by their errors; the last bin holds everything beyond."""


def _figure_3(files: list[Path]) -> str:
    pictures = "\n".join(f"![A crystal unrelaxed, predicted and relaxed]({file.name})" for file in files)
    return f"""## Figure 3: crystals with strontium and barium

{pictures}

Of the X-Mn-O test crystals the first of ten atoms or more with each, of which an atom moves by a tenth of an Å and the
volume changes by a tenth; predicted by `DeepRelax-PBE`."""


def _figure_4(found: dict[str, Any]) -> str:
    means, medians = found["mean_absolute_error"], found["median_absolute_error"]
    return f"""## Figure 4: energies

![Energies of unrelaxed, predicted and relaxed crystals](figure4.svg)

{found["crystals"]} X-Mn-O test crystals, energies under M3GNet instead of DFT, predictions of `{found["model"]}`. From
the relaxed crystal the energy of the unrelaxed one is {means["unrelaxed"]:.3f} eV/atom away on average, that of the
predicted one {means["predicted"]:.3f}; the medians are {medians["unrelaxed"]:.3f} and {medians["predicted"]:.3f}. The
paper has 32.51 and 5.97 eV (a crystal, in DFT)."""


def _figure_5(rows: dict[tuple[str, str, int], dict[str, Any]]) -> str:
    lines = ["| | ours | paper's |", "| --- | ---: | ---: |"]
    for data, papers in CORRELATIONS.items():
        found = next(r["figure 5"] for (d, _, _), r in rows.items() if d == data and "figure 5" in r)
        lines.append(f"| {SETS[data]} | {found['spearman']:.2f} | {papers} |")
    correlations = "\n".join(lines)
    return f"""## Figure 5: global uncertainty against the error of the bond lengths

Ensembles of the paper's network, eq. (24). Spearman's rank correlation:

{correlations}

![Hexagonal bins of error and uncertainty](figure5.svg)

Its panels (d) and (e), uncertainty bond by bond, are the 3D views of `deeprelax report`."""


def _transfer(rows: dict[tuple[str, str, int], dict[str, Any]]) -> str:
    """How fast the networks of table 3 learn, with and without the transfer: figure S2."""
    lines = []
    for model in ("DeepRelax", "DeepRelaxE3"):
        scratch, moved = (rows.get(("monolayers", name, 0)) for name in (model, f"{model}T"))
        if scratch is None or moved is None or not scratch.get("curve"):
            continue
        least = min(error for _, error in scratch["curve"])
        reached = next((step for step, error in moved["curve"] if error <= least), None)
        best = next(step for step, error in scratch["curve"] if error == least)
        lines.append(
            f"- {model}: from random weights the validation error is least ({least:.3f}) after {best:,} steps; "
            + (
                f"from the universal network it is below that after {reached:,}."
                if reached
                else "the other stays above."
            )
        )
    return "\n".join(["### What the transfer is worth in steps", "", *lines]) if lines else ""


if __name__ == "__main__":
    write_page()
