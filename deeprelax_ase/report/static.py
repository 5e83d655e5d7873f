"""Figures for papers, as PNG and SVG: errors against uncertainties, distributions, and crystals before and after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from ase.geometry import cell_to_cellpar
from ase.visualize.plot import plot_atoms
from matplotlib import rc_context
from matplotlib.figure import Figure

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.evaluation.metrics import rank_correlation
from deeprelax_ase.prediction.record import Prediction
from deeprelax_ase.report.charts import MOVES, SHARES, TITLES, bulk_of, coverages, curve, logarithms, shown
from deeprelax_ase.report.outcome import Outcome

_FORMATS = ("png", "svg")


def write_figures(outcome: Outcome, predictions: Mapping[int, Prediction], folder: Path) -> list[Path]:
    """Write what there are numbers for, and some crystals, each in both formats.

    Args:
        outcome: of all crystals.
        predictions: by their position.
        folder: made if need be.

    Returns:
        the files.

    Raises:
        OSError: they cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [file for name, figure in _figures(outcome) for file in _saved(figure, folder / name)]
    for place, prediction in predictions.items():
        files += write_structures(prediction, folder / f"crystal-{place}")
    return files


def write_structures(prediction: Prediction, file: Path, *, reference: Crystal | None = None) -> list[Path]:
    """Write a crystal before and after with its lattice constants, as figure 3 of the paper does.

    Args:
        prediction: of it.
        file: name without an ending.
        reference: the truly relaxed crystal, to stand beside them.
    """
    panels = {"unrelaxed": prediction.initial, "predicted": prediction.relaxed}
    return write_panels(panels | ({} if reference is None else {"relaxed": reference}), file)


def write_panels(panels: Mapping[str, Crystal], file: Path) -> list[Path]:
    """Write crystals side by side, each with its title and its lattice constants; ``file`` has no ending."""
    figure = Figure(figsize=(3.5 * len(panels), 3.6), layout="constrained")
    for axes, (name, crystal) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        plot_atoms(crystal.to_atoms(), axes, rotation="10x,-20y,0z", radii=0.4)
        a, b, c, alpha, beta, gamma = cell_to_cellpar(crystal.cell)
        lengths, angles = f"a, b, c = {a:.2f}, {b:.2f}, {c:.2f} Å", f"α, β, γ = {alpha:.1f}, {beta:.1f}, {gamma:.1f}°"
        axes.set_title(f"{name}\n{lengths}\n{angles}", fontsize=9)
        axes.set_axis_off()
    return list(_saved(figure, file))


def _figures(outcome: Outcome) -> Iterator[tuple[str, Figure]]:
    if outcome.has_reference:
        expected, title = outcome.numbers[outcome.doubt], TITLES[outcome.doubt]
        yield "error-against-expected", _hexagons(expected, outcome.true_errors, title)
        if outcome.doubt == "error":
            yield "coverage", _coverage(expected, outcome.true_errors)
        yield "true-errors", _histogram(outcome.true_errors, "true error of the coordinates (Å)")
    for name, title in TITLES.items():
        if len(values := shown(outcome, name)):
            yield name.replace("_", "-"), _histogram(values, title)
    if len(outcome.displacements):
        yield "displacement", _histogram(outcome.displacements, MOVES)


def _hexagons(expected: np.ndarray, true: np.ndarray, title: str) -> Figure:
    """As figure 5 of the paper, with the curve of the means."""
    figure = Figure(figsize=(4.2, 3.6), layout="constrained")
    axes = figure.subplots()
    x, y = (10**values for values in logarithms(expected, true))
    drawn = axes.hexbin(x, y, gridsize=32, xscale="log", yscale="log", bins="log", mincnt=1, cmap="viridis")
    bar = figure.colorbar(drawn, label="crystals")
    for axis in (bar.ax.yaxis.set_major_formatter, bar.ax.yaxis.set_minor_formatter):
        axis("{x:g}")
    ends = [min(x.min(), y.min()), max(x.max(), y.max())]
    axes.plot(ends, ends, "--", color="0.4", linewidth=1)
    means = curve(expected, true)
    axes.plot(
        means[:, 0], np.maximum(means[:, 1], y.min()), "o-", color="#c0392b", markersize=3, linewidth=1, label="means"
    )
    axes.set(xlabel=title, ylabel="true error (Å)")
    axes.set_title(f"rank correlation {rank_correlation(x, y):.2f}", fontsize=9)
    axes.legend(fontsize=8)
    return figure


def _coverage(expected: np.ndarray, true: np.ndarray) -> Figure:
    """Shares of errors below bounds that promise so many."""
    figure = Figure(figsize=(3.6, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 100], [0, 100], "--", color="0.4", linewidth=1)
    axes.plot(100 * SHARES, 100 * coverages(expected, true), "o-", color="#c0392b", markersize=3, linewidth=1)
    axes.set(xlabel="errors that are to lie below (%)", ylabel="errors that do (%)", aspect="equal")
    return figure


def _histogram(values: np.ndarray, title: str) -> Figure:
    figure = Figure(figsize=(4.2, 3.0), layout="constrained")
    axes = figure.subplots()
    known = values[np.isfinite(values)]
    axes.hist(np.clip(known, *bulk_of(known)), bins=50, color="#2f6db5")
    axes.set(xlabel=title, ylabel="crystals")
    return figure


def _saved(figure: Figure, file: Path) -> Iterator[Path]:
    for ending in _FORMATS:
        target = file.with_name(f"{file.name}.{ending}")
        with rc_context({"svg.hashsalt": file.name}):  # the same numbers make the same file
            figure.savefig(target, dpi=300, metadata={"Date": None} if ending == "svg" else {})
        yield target
