"""Distributions and errors as charts of plotly; crystals are counted first, so that a page of millions stays small."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from deeprelax_ase.report.outcome import Outcome

#: Titles of the numbers of each crystal.
TITLES = {
    "error": "expected error of the coordinates (Å)",
    "uncertainty": "uncertainty (Å)",
    "volume_change": "relative change of the volume",
}

#: Columns of a histogram, and of a two-dimensional one.
_BINS, _CELLS = 60, 50

#: Crystals of a point of the calibration curve, at the least, and points at the most.
_LEAST, _POINTS = 5, 12

#: Share of the true errors that ``error_bound`` promises to cover.
_PROMISED = 0.9

_BLUE, _RED = "#2f6db5", "#c0392b"


def charts(outcome: Outcome) -> dict[str, go.Figure]:
    """Figures by caption; those that there are no numbers for are left out."""
    made: dict[str, go.Figure] = {}
    if outcome.has_reference:
        doubt = "error" if np.isfinite(outcome.numbers["error"]).any() else "uncertainty"
        made["True error against what was expected"] = error_map(outcome.numbers[doubt], outcome.true_errors, doubt)
        made["Calibration"] = calibration(outcome.numbers[doubt], outcome.true_errors, doubt)
    for name, title in TITLES.items():
        values = outcome.numbers[name][np.isfinite(outcome.numbers[name])]
        if len(values):
            made[f"Distribution: {title}"] = histogram(values, title)
    return made


def histogram(values: np.ndarray, title: str) -> go.Figure:
    """How many crystals have which value; the outermost hundredths share the last bars."""
    low, high = np.quantile(values, [0.005, 0.995])
    counts, edges = np.histogram(
        np.clip(values, low, high), bins=_BINS, range=(low, high if high > low else low + 1e-6)
    )
    bars = go.Bar(x=(edges[:-1] + edges[1:]) / 2, y=counts, width=np.diff(edges), marker_color=_BLUE)
    figure = go.Figure(bars)
    figure.add_vline(x=float(np.median(values)), line_dash="dash", annotation_text=f"median {np.median(values):.3g}")
    return _styled(figure, title, "crystals")


def error_map(expected: np.ndarray, true: np.ndarray, name: str) -> go.Figure:
    """How many crystals have which expected and which true error, on logarithmic axes."""
    x, y = logarithms(expected, true)
    counts, x_edges, y_edges = np.histogram2d(x, y, bins=_CELLS)
    shown: Any = np.where(counts > 0, np.log10(np.maximum(counts, 1)), np.nan).T
    heat = go.Heatmap(
        x=_middles(x_edges), y=_middles(y_edges), z=shown, colorscale="Viridis", colorbar_title="crystals, log₁₀"
    )
    figure = go.Figure(heat)
    ends = [float(min(x_edges[0], y_edges[0])), float(max(x_edges[-1], y_edges[-1]))]
    figure.add_scatter(x=ends, y=ends, mode="lines", line={"color": _RED, "dash": "dash"}, name="equal")
    return _styled(figure, f"log₁₀ of the {TITLES[name]}", "log₁₀ of the true error (Å)")


def calibration(expected: np.ndarray, true: np.ndarray, name: str) -> go.Figure:
    """Mean true error of crystals that expect about the same."""
    points = curve(expected, true)
    figure = go.Figure(
        go.Scatter(x=points[:, 0], y=points[:, 1], mode="lines+markers", line_color=_BLUE, name="crystals")
    )
    most = float(points.max()) if points.size else 1.0
    figure.add_scatter(x=[0, most], y=[0, most], mode="lines", line={"color": _RED, "dash": "dash"}, name="equal")
    return _styled(figure, f"mean {TITLES[name]}", "mean true error (Å)")


def curve(expected: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(P, 2) mean expected and mean true error in groups of equally many crystals, in the order of the first."""
    known = np.isfinite(expected) & np.isfinite(true)
    order = np.argsort(expected[known])
    groups = np.array_split(order, max(1, min(_POINTS, len(order) // _LEAST)))
    return np.array([[expected[known][g].mean(), true[known][g].mean()] for g in groups if len(g)]).reshape(-1, 2)


def coverage(outcome: Outcome) -> float | None:
    """Share of the true errors below their bounds, which promise :data:`_PROMISED`; None if none is known."""
    bounds, true = outcome.numbers["error_bound"], outcome.true_errors
    known = np.isfinite(bounds) & np.isfinite(true)
    return float((true <= bounds)[known].mean()) if known.any() else None


def logarithms(expected: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Decadic logarithms of both where both are known; errors below 1e-4 Å, as symmetry makes them, count as that."""
    known = np.isfinite(expected) & np.isfinite(true)
    return np.log10(np.maximum(expected[known], 1e-4)), np.log10(np.maximum(true[known], 1e-4))


def _middles(edges: np.ndarray) -> np.ndarray:
    return (edges[:-1] + edges[1:]) / 2


def _styled(figure: go.Figure, x: str, y: str) -> go.Figure:
    figure.update_layout(
        template="plotly_white",
        height=380,
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
        xaxis_title=x,
        yaxis_title=y,
        showlegend=False,
    )
    return figure
