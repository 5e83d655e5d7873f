"""Figures 2 to 5 of the paper on our data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.report.static import write_panels

Rows = dict[tuple[str, str, int], dict[str, Any]]


def draw_distributions(rows: Rows, sets: dict[str, str], ends: dict[str, tuple[str, float]], file: Path) -> None:
    """Figure 2: a row for each of the ``sets``, a column for each quantity, with its title and the end of its axis."""
    shown = [data for data in sets if (data, "Dummy", 0) in rows]
    figure = Figure(figsize=(10, 2.6 * len(shown)))
    axes = figure.subplots(len(shown), len(ends), squeeze=False)
    for data, line in zip(shown, axes, strict=True):
        for (metric, (title, end)), axis in zip(ends.items(), line, strict=True):
            for model, colour in (("Dummy", "#999999"), ("DeepRelax", "#d95f02"), ("DeepRelaxE3", "#1b9e77")):
                row = rows.get((data, model, 0))
                if row is not None:
                    counts = np.array(row["histograms"][metric])
                    edges = np.linspace(0, end, len(counts) + 1)
                    axis.stairs(counts / counts.sum(), edges, color=colour, label=model)
            axis.set_xlabel(title)
            axis.set_ylabel(f"share of {sets[data]}")
    axes[0][0].legend(frameon=False)
    _save(figure, file)


def draw_structures(report: dict[str, Any], folder: Path) -> list[Path]:
    """Figure 3: each crystal unrelaxed, predicted and relaxed, with its lattice constants."""
    files = []
    for name, stages in report["structures"].items():
        panels = {stage: Crystal(**values) for stage, values in stages.items()}
        with rc_context({"svg.hashsalt": "deeprelax"}):
            written = write_panels(panels, folder / f"figure3-{name}")
        files += [file for file in written if file.suffix == ".svg"]
        for file in set(written) - set(files):
            file.unlink()  # the page shows the other
    return files


def draw_energies(report: dict[str, Any], file: Path) -> None:
    """Figure 4: box plots of the energies, and of those above the relaxed crystal's."""
    figure = Figure(figsize=(7, 3.2))
    left, right = figure.subplots(1, 2)
    found = {name: np.array(values) for name, values in report["energies"].items()}
    left.boxplot(list(found.values()), tick_labels=list(found), showfliers=False)
    left.set(ylabel="energy (eV/atom)")
    above = [np.maximum(found[name] - found["relaxed"], 1e-5) for name in ("unrelaxed", "predicted")]
    right.boxplot(above, tick_labels=["unrelaxed", "predicted"])
    right.set(ylabel="above the relaxed crystal (eV/atom)", yscale="log")
    _save(figure, file)


def draw_correlations(rows: Rows, sets: dict[str, str], file: Path) -> None:
    """Figure 5 (a to c): error of the bond lengths and global uncertainty of each crystal."""
    found = [(d, row["figure 5"]) for (d, _, _), row in rows.items() if "figure 5" in row]
    figure = Figure(figsize=(4 * len(found), 3.4))
    for (data, values), axis in zip(found, figure.subplots(1, len(found), squeeze=False)[0], strict=True):
        x, y = (np.maximum(values[name], 1e-4) for name in ("error", "uncertainty"))
        axis.hexbin(x, y, gridsize=35, bins="log", xscale="log", yscale="log", mincnt=1, cmap="viridis")
        axis.set_title(f"{sets[data]}, rank correlation {values['spearman']:.2f}")
        axis.set_xlabel("error of the bond lengths (Å)")
        axis.set_ylabel("global uncertainty (Å²)")
    _save(figure, file)


def _save(figure: Figure, file: Path) -> None:
    """The same figures make the same file."""
    with rc_context({"svg.hashsalt": "deeprelax", "svg.fonttype": "none", "font.size": 8}):
        figure.tight_layout()
        figure.savefig(file, metadata={"Date": None})
