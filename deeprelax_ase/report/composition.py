"""Composition of the crystals: a periodic table of how often elements occur and how well they do, and kinds."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from ase.data import atomic_names, chemical_symbols

from deeprelax_ase.evaluation.groups import first_that_fits
from deeprelax_ase.report.outcome import Outcome

#: Noble gases end the periods.
_ENDS = (2, 10, 18, 36, 54, 86, 118)


class Kind(NamedTuple):
    """Crystals of one chemistry: how many, how many of them are uncertain, and medians that are NaN if not known."""

    name: str
    crystals: int
    uncertain: int
    error: float
    volume_error: float
    true_error: float


def kinds_of(outcome: Outcome) -> list[Kind]:
    """The kinds that occur; those whose elements are not known are of none."""
    known = np.asarray(outcome.elements.any(axis=1))
    masks = first_that_fits(lambda numbers: np.logical_or.reduce([outcome.present(n) for n in numbers]), known)
    errors = (outcome.numbers["error"], outcome.numbers["volume_error"], outcome.true_errors)
    return [
        Kind(name, int(mask.sum()), int(outcome.uncertain[mask].sum()), *(_median(values[mask]) for values in errors))
        for name, mask in masks.items()
        if mask.any()
    ]


def element_maps(outcome: Outcome) -> dict[str, go.Figure]:
    """Periodic tables by caption: crystals that hold each element, and the median of what is expected of these."""
    counts = np.zeros(119)
    medians = np.full(119, np.nan)
    doubt = outcome.numbers[outcome.doubt]
    for number in range(1, 119):
        present = outcome.present(number)
        counts[number] = present.sum()
        medians[number] = _median(doubt[present])
    if not counts.any():
        return {}
    told = "expected error" if outcome.doubt == "error" else "uncertainty"
    counts = np.where(counts, counts, np.nan)
    caption = f"Elements: crystals that hold each ({_ends(counts, '{:,.0f}')})"
    maps = {caption: _periodic_table(counts, "%{z:,} crystals")}
    if np.isfinite(medians).any():
        caption = f"Elements: median {told} of these ({_ends(medians, '{:.3f} Å')})"
        maps[caption] = _periodic_table(medians, "%{z:.3f} Å")
    return maps


def _ends(values: np.ndarray, form: str) -> str:
    """The values of the first and the last colour of a periodic table."""
    return f"pale {form.format(np.nanmin(values))}, dark {form.format(np.nanmax(values))}"


def periodic_place(number: int) -> tuple[int, int]:
    """Column (1 to 18) and line of an element in a periodic table; lanthanides and actinides have lines 8 and 9."""
    if 57 <= number <= 70 or 89 <= number <= 102:
        return (number - 54, 8) if number < 89 else (number - 86, 9)
    period = next(n for n, end in enumerate(_ENDS, start=1) if number <= end)
    before_end = _ENDS[period - 1] - number
    if before_end <= (15 if period >= 4 else 5) and (period > 1 or number == 2):
        return 18 - before_end, period
    return number - (_ENDS[period - 2] if period > 1 else 0), period


def _periodic_table(values: np.ndarray, told: str) -> go.Figure:
    """Colour each element by ``values`` (119,), by their logarithms where they span more than a decade."""
    places = [periodic_place(number) for number in range(1, 119)]
    known = values[np.isfinite(values)]
    colour = np.log10(values) if len(known) and known.min() > 0 and known.max() > 10 * known.min() else values
    grids = [np.full((9, 18), np.nan) for _ in range(2)]
    names = np.full((9, 18), "", dtype=object)
    for number, (column, line) in enumerate(places, start=1):
        names[line - 1, column - 1] = atomic_names[number]
        for grid, source in zip(grids, (colour, values), strict=True):
            grid[line - 1, column - 1] = source[number]
    axes: dict[str, Any] = {"x": list(range(1, 19)), "y": list(range(1, 10))}
    figure = go.Figure(
        go.Heatmap(
            **axes, z=grids[0], customdata=np.dstack([grids[1], names]), colorscale="YlOrRd", showscale=False,
            xgap=1, ygap=1, hoverongaps=False,
            hovertemplate=f"%{{customdata[1]}}: {told.replace('z', 'customdata[0]')}<extra></extra>",
        )
    )  # fmt: skip
    low, high = (np.nanmin(colour), np.nanmax(colour)) if len(known) else (0.0, 1.0)
    dark = colour[1:] > low + 0.7 * max(high - low, 1e-9)
    inks = np.where(np.isfinite(values[1:]), np.where(dark, "#fff", "#222"), "#999").tolist()
    x, y = zip(*places, strict=True)
    figure.add_scatter(
        x=x, y=y, text=chemical_symbols[1:119], mode="text", textfont={"color": inks, "size": 10}, hoverinfo="skip"
    )
    figure.update_layout(
        template="plotly_white", height=300, margin={"l": 4, "r": 4, "t": 4, "b": 4}, showlegend=False,
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", modebar_bgcolor="rgba(0,0,0,0)",
    )  # fmt: skip
    figure.update_xaxes(visible=False, range=[0.4, 18.6], fixedrange=True)
    figure.update_yaxes(visible=False, range=[9.6, 0.4], fixedrange=True)
    return figure


def _median(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else float("nan")
