"""The page of the paper's tables, ours beside its own, and the figures on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from paper_tables import COLUMNS, CORRELATIONS, TABLES

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

#: What we read off the tables is written by hand, in a file of its own.
READING = "tables_reading.md"


def write_page(report: dict[str, Any], page: Path) -> None:
    """Write ``page`` and, beside it, its figures."""
    figures = {2: page.with_name("tables_figure2.svg"), 5: page.with_name("tables_figure5.svg")}
    rows = {(row["data"], row["model"], row["seed"]): row for row in report["rows"]}
    parts = [_head(report)]
    for title in TABLES:
        parts.append(_table(title, rows))
    parts += [_more(data, rows) for data in SETS if any(key[0] == data for key in rows)]
    draw_distributions(rows, report["bins"], figures[2])
    parts.append(_figure_2(figures[2]))
    if draw_correlations(rows, figures[5]):
        parts.append(_figure_5(rows, figures[5]))
    parts.append(_transfer(rows))
    reading = page.with_name(READING)
    if reading.exists():
        parts.append(reading.read_text(encoding="utf-8").strip())
    page.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")


def _head(report: dict[str, Any]) -> str:
    pairs = "; ".join(
        f"{SETS[data]} {n['train']:,} / {n['validation']:,} / {n['test']:,}" for data, n in report["pairs"].items()
    )
    budget, plain = report["budget"], report["budget"]["paper's and direct networks"]
    ours = budget["end-to-end network"]
    return f"""# The paper's tables on our data

Written by

```sh
python benchmarks/tables.py --json benchmarks/results/tables.json --page benchmarks/tables.md
```

from what `benchmarks/tables_train.py` trains and `benchmarks/tables.py` measures. The paper is
[arXiv:2404.00865](https://arxiv.org/abs/2404.00865).

Every row of ours is trained by the same budget: {budget["steps"]:,} steps of {plain["atoms_per_batch"]:,} atoms, one
run each, AdamW with a cosine schedule (peak rate {plain["learning_rate"]:g}, of the end-to-end network
{ours["learning_rate"]:g}), the weights that do best on the validation split, no augmentation but for the end-to-end
network. Pairs (training / validation / test): {pairs}. The sets are not the paper's: X-Mn-O is split by
prototype and not at random, universal stands for the Materials Project and is split by chemical system, the
monolayers stand for C2DB and are relaxed under M3GNet. So errors can be compared within a set only. In brackets:
the improvement over the Dummy, which is the unrelaxed crystal."""


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


def _figure_2(figure: Path) -> str:
    return f"""## Figure 2: distributions of the errors

![Histograms of the errors of coordinates, lattice and volume]({figure.name})

Test crystals by their errors; the last bin holds everything beyond."""


def _figure_5(rows: dict[tuple[str, str, int], dict[str, Any]], figure: Path) -> str:
    lines = ["| | ours | paper's |", "| --- | ---: | ---: |"]
    for data, papers in CORRELATIONS.items():
        found = next((r["figure 5"] for (d, _, _), r in rows.items() if d == data and "figure 5" in r), None)
        lines.append(
            f"| {SETS[data]} | {'not trained' if found is None else format(found['spearman'], '.2f')} | {papers} |"
        )
    table = "\n".join(lines)
    return f"""## Figure 5: global uncertainty against the error of the bond lengths

Ensembles of the paper's network, eq. (24). Spearman's rank correlation:

{table}

![Hexagonal bins of error and uncertainty]({figure.name})"""


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


def draw_distributions(rows: dict[tuple[str, str, int], dict[str, Any]], ends: dict[str, float], file: Path) -> None:
    """Figure 2: a row for each set, a column for each quantity."""
    plt = _pyplot()
    sets = [data for data in SETS if (data, "Dummy", 0) in rows]
    figure, axes = plt.subplots(len(sets), len(ends), figsize=(10, 2.6 * len(sets)), squeeze=False)
    for data, line in zip(sets, axes, strict=True):
        for (metric, end), axis in zip(ends.items(), line, strict=True):
            for model, colour in (("Dummy", "#999999"), ("DeepRelax", "#d95f02"), ("DeepRelaxE3", "#1b9e77")):
                row = rows.get((data, model, 0))
                if row is not None:
                    counts = np.array(row["histograms"][metric])
                    edges = np.linspace(0, end, len(counts) + 1)
                    axis.stairs(counts / counts.sum(), edges, color=colour, label=model)
            axis.set_xlabel(f"{_HEADS[metric][0]}")
            axis.set_ylabel(f"share of {SETS[data]}")
    axes[0][0].legend(frameon=False)
    _save(figure, file)


def draw_correlations(rows: dict[tuple[str, str, int], dict[str, Any]], file: Path) -> bool:
    """Figure 5; false if there is no ensemble."""
    found = [(d, row["figure 5"]) for (d, _, _), row in rows.items() if "figure 5" in row]
    if not found:
        return False
    plt = _pyplot()
    figure, axes = plt.subplots(1, len(found), figsize=(4 * len(found), 3.4), squeeze=False)
    for (data, values), axis in zip(found, axes[0], strict=True):
        x, y = (np.maximum(values[name], 1e-4) for name in ("error", "uncertainty"))
        axis.hexbin(x, y, gridsize=35, bins="log", xscale="log", yscale="log", mincnt=1, cmap="viridis")
        axis.set_title(f"{SETS[data]}, rank correlation {values['spearman']:.2f}")
        axis.set_xlabel("error of the bond lengths (Å)")
        axis.set_ylabel("global uncertainty (Å²)")
    _save(figure, file)
    return True


def _pyplot() -> Any:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "deeprelax", "svg.fonttype": "none", "font.size": 8})
    import matplotlib.pyplot as plt

    return plt


def _save(figure: Any, file: Path) -> None:
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
