"""Distributions and errors as charts of plotly; crystals are counted first, so that a page of millions stays small."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import plotly.graph_objects as go

from deeprelax_ase.evaluation.metrics import share_within
from deeprelax_ase.report.outcome import Outcome
from deeprelax_ase.uncertainty.calibration import COVERAGE

#: Titles of the numbers of each crystal, as :func:`shown` tells them.
TITLES = {
    "error": "expected error of the coordinates (Å)",
    "volume_error": "expected error of the volume (%)",
    "uncertainty": "uncertainty (Å)",
    "volume_change": "change of the volume (%)",
    "energy_relaxed": "predicted energy when relaxed (eV/atom)",
}

#: Label of the displacements.
MOVES = "root mean square displacement of the atoms (Å)"

#: Columns of a histogram at the most, and of a two-dimensional one.
_BINS, _CELLS = 60, 50

#: Crystals of the highest bar, below which every count has its line: an axis would show halves of crystals.
_FEW = 6

#: What lies further from the middle half of the values than so many times its width is counted in one bar.
_TAIL = 3.0

#: Crystals of a point of the calibration curve, at the least, and points at the most.
_LEAST, _POINTS = 5, 12

#: Å. Smaller errors, as symmetry makes them, count as this where axes are logarithmic.
FLOOR = 1e-4

#: Shares of errors that a bound is to cover.
SHARES = np.linspace(0.05, 0.95, 19)

_BLUE, _RED, _PALE = "#3b7fc4", "#d1493a", "#9aa5b1"
_GRID = "rgba(128,128,128,0.25)"


def charts(outcome: Outcome) -> dict[str, go.Figure]:
    """Figures by caption; those that there are no numbers for are left out."""
    made: dict[str, go.Figure] = {}
    if outcome.has_reference:
        expected, true = outcome.numbers[outcome.doubt], outcome.true_errors
        made["True error against what was expected"] = error_map(expected, true, TITLES[outcome.doubt])
        volumes = 100 * outcome.numbers["volume_error"], 100 * outcome.true_volume_errors
        if (np.isfinite(volumes[0]) & np.isfinite(volumes[1])).any():
            caption = "True error of the volume against what was expected"
            made[caption] = error_map(*volumes, TITLES["volume_error"], "true error (%)")
        made["Calibration: mean errors"] = calibration(expected, true, outcome.doubt)
        if outcome.doubt == "error":
            made["Calibration: how many errors lie within their bounds"] = coverage_chart(outcome)
    for name, title in TITLES.items():
        values = shown(outcome, name)
        if len(values):
            made[f"Distribution: {title}"] = histogram(values, title)
    if len(outcome.displacements):
        of = "" if len(outcome.displacements) == len(outcome) else f", of a sample of {len(outcome.displacements):,}"
        made[f"Distribution: {MOVES}{of}"] = histogram(outcome.displacements, MOVES)
    return made


def shown(outcome: Outcome, name: str) -> np.ndarray:
    """The known values of one of :data:`TITLES`, in its unit: relative ones in per cent."""
    values = outcome.numbers[name][np.isfinite(outcome.numbers[name])]
    return 100 * values if name.startswith("volume") else values


def histogram(values: np.ndarray, title: str) -> go.Figure:
    """Draw the distribution of values over the crystals; what lies far out is counted in a pale bar at its end."""
    low, high = bulk_of(values)
    inside = values[(values >= low) & (values <= high)]
    bins = int(np.clip(2 * np.sqrt(len(values)), 10, _BINS))
    counts, edges = np.histogram(inside, bins=bins, range=(low, high if high > low else low + 1e-6))
    width = float(edges[1] - edges[0])
    told = [f"{a:.3g} to {b:.3g}" for a, b in pairwise(edges)]
    bars = _bars(_middles(edges), counts, width, _BLUE, told)
    figure = go.Figure(bars)
    for beyond, sign, end in ((values[values < low], -1, low), (values[values > high], 1, high)):
        if len(beyond):
            reach = f"{beyond.min():.3g} to {beyond.max():.3g}"
            figure.add_trace(_bars(np.array([end + sign * width]), np.array([len(beyond)]), width, _PALE, [reach]))
    middle = float(np.median(values))
    middle = 0.0 if abs(middle) < width / 100 else middle  # rounding is not told
    line = {"line_dash": "dash", "line_color": "#888"}
    figure.add_vline(x=middle, annotation_text=f"median {middle:.3g}", **line)
    if len(inside) < len(values):
        far = values[(values < low) | (values > high)]
        text = f"pale: {len(far):,} beyond, up to {far[np.abs(far).argmax()]:.3g}"
        place = {"x": 1, "y": 1, "xref": "paper", "yref": "paper", "xanchor": "right", "yanchor": "bottom"}
        figure.add_annotation(text=text, showarrow=False, font_size=11, **place)
    _styled(figure, title, "crystals").update_yaxes(tickformat=",d", dtick=1 if counts.max() < _FEW else None)
    return figure


def bulk_of(values: np.ndarray) -> tuple[float, float]:
    """Ends of the axis that shows ``values``: all of them, or without tails that would leave the rest in one bar."""
    lower, upper = np.quantile(values, [0.25, 0.75])
    reach = _TAIL * (upper - lower) or 3 * float(np.std(values))
    return max(float(values.min()), lower - reach), min(float(values.max()), upper + reach)


def _bars(x: np.ndarray, counts: np.ndarray, width: float, colour: str, told: list[str]) -> go.Bar:
    """Bars of a histogram that tell what they count when they are pointed at."""
    return go.Bar(
        x=x, y=counts, width=width, marker={"color": colour, "line": {"width": 0}}, customdata=told,
        hovertemplate="%{customdata}: %{y:,} crystals<extra></extra>",
    )  # fmt: skip


def error_map(expected: np.ndarray, true: np.ndarray, x_title: str, y_title: str = "true error (Å)") -> go.Figure:
    """Draw the number of crystals by expected and true error, on logarithmic axes, with the means."""
    x, y = logarithms(expected, true)
    counts, x_edges, y_edges = np.histogram2d(x, y, bins=_CELLS)
    shown: Any = np.where(counts > 0, np.log10(np.maximum(counts, 1)), np.nan).T
    title = {"text": "crystals", "side": "right"}
    bar = {"title": title, **_decades(0.0, float(np.nanmax(shown)), fine=True), "thickness": 14}
    heat = go.Heatmap(
        x=_middles(x_edges), y=_middles(y_edges), z=shown, customdata=counts.T, colorscale="Viridis", colorbar=bar,
        hovertemplate="%{customdata} crystals<extra></extra>",
    )  # fmt: skip
    figure = go.Figure(heat)
    x_ends, y_ends = ([float(edges[0]), float(edges[-1])] for edges in (x_edges, y_edges))
    ends = [min(x_ends[0], y_ends[0]), max(x_ends[1], y_ends[1])]
    figure.add_scatter(x=ends, y=ends, mode="lines", line={"color": "#888", "dash": "dash"}, hoverinfo="skip")
    means = np.log10(np.maximum(curve(expected, true), FLOOR))
    figure.add_scatter(x=means[:, 0], y=means[:, 1], mode="lines+markers", line_color=_RED, name="means")
    _styled(figure, x_title, y_title)
    for update, (low, high) in ((figure.update_xaxes, x_ends), (figure.update_yaxes, y_ends)):
        margin = 0.03 * (high - low)
        update(**_decades(low, high, fine=high - low < 2), range=[low - margin, high + margin], zeroline=False)
    return figure


def calibration(expected: np.ndarray, true: np.ndarray, name: str) -> go.Figure:
    """Mean true error of crystals that expect about the same."""
    points = curve(expected, true)
    figure = go.Figure(go.Scatter(x=points[:, 0], y=points[:, 1], mode="lines+markers", line_color=_RED, name="means"))
    most = float(points.max()) if points.size else 1.0
    figure.add_scatter(x=[0, most], y=[0, most], mode="lines", line={"color": "#888", "dash": "dash"}, hoverinfo="skip")
    return _styled(figure, f"mean {TITLES[name]}", "mean true error (Å)")


def coverage_chart(outcome: Outcome) -> go.Figure:
    """Share of the true errors below a bound against the share that it is to cover."""
    shares = 100 * coverages(outcome.numbers["error"], outcome.true_errors)
    figure = go.Figure(go.Scatter(x=100 * SHARES, y=shares, mode="lines+markers", line_color=_RED, name="exponential"))
    if (share := coverage(outcome)) is not None:
        figure.add_scatter(
            x=[100 * COVERAGE],
            y=[100 * share],
            mode="markers",
            marker={"size": 13, "color": _BLUE, "symbol": "diamond"},
            name="stored bounds",
        )
    figure.add_scatter(x=[0, 100], y=[0, 100], mode="lines", line={"color": "#888", "dash": "dash"}, hoverinfo="skip")
    return _styled(figure, "errors that are to lie below (%)", "errors that do (%)")


def curve(expected: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(P, 2) mean expected and mean true error in groups of equally many crystals, in the order of the first."""
    known = np.isfinite(expected) & np.isfinite(true)
    order = np.argsort(expected[known])
    groups = np.array_split(order, max(1, min(_POINTS, len(order) // _LEAST)))
    return np.array([[expected[known][g].mean(), true[known][g].mean()] for g in groups if len(g)]).reshape(-1, 2)


def coverages(expected: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(19,) shares of the true errors that lie below bounds for 5, 10, ... 95 % of them.

    The bounds are those of exponentially distributed errors, as which the expected ones are fitted.
    """
    known = np.isfinite(expected) & np.isfinite(true)
    bounds = -np.log1p(-SHARES) * expected[known][:, None]
    return (true[known][:, None] <= bounds).mean(axis=0)


def coverage(outcome: Outcome) -> float | None:
    """Share of the true errors below their bounds, which promise nine in ten; None if none is known."""
    bounds, true = outcome.numbers["error_bound"], outcome.true_errors
    known = np.isfinite(bounds) & np.isfinite(true)
    return share_within(true[known], bounds[known]) if known.any() else None


def logarithms(expected: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Decadic logarithms of both where both are known; errors below :data:`FLOOR` count as that."""
    known = np.isfinite(expected) & np.isfinite(true)
    return np.log10(np.maximum(expected[known], FLOOR)), np.log10(np.maximum(true[known], FLOOR))


def _decades(low: float, high: float, *, fine: bool = False) -> dict[str, list]:
    """Ticks at powers of ten, or with ``fine`` at 1, 2 and 5 times these, of an axis of decadic logarithms."""
    powers = range(int(np.floor(low)), int(np.ceil(high)) + 1)
    values = [step * 10.0**power for power in powers for step in ((1, 2, 5) if fine else (1,))]
    values = [value for value in values if 10**low * 0.999 <= value <= 10**high * 1.001]
    return {"tickvals": np.log10(values).tolist(), "ticktext": [f"{value:g}" for value in values]}


def _middles(edges: np.ndarray) -> np.ndarray:
    return (edges[:-1] + edges[1:]) / 2


def _styled(figure: go.Figure, x: str, y: str) -> go.Figure:
    figure.update_layout(
        template="plotly_white",
        height=380,
        margin={"l": 60, "r": 20, "t": 24, "b": 50},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        xaxis_title=x,
        yaxis_title=y,
        showlegend=False,
        modebar_bgcolor="rgba(0,0,0,0)",
        bargap=0,
    )
    figure.update_xaxes(gridcolor=_GRID, zerolinecolor=_GRID)
    figure.update_yaxes(gridcolor=_GRID, zerolinecolor=_GRID)
    return figure
