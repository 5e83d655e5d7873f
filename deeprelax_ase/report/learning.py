"""The page of a loop of learning: how the error falls with the labels, and what each round came to."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import plotly.graph_objects as go

from deeprelax_ase import __version__
from deeprelax_ase.io.placing import placed
from deeprelax_ase.learning import Round

_HEADS = (
    *("round", "crystals labelled", "pairs", "error (Å)", "coordinates (Å)", "lattice (Å)", "volume (Å³)"),
    *("expected before (Å)", "force calls", "dropped"),
)

_STYLE = (
    "body{font:15px sans-serif;max-width:60em;margin:2em auto;padding:0 1em}td,th{text-align:right;padding:.2em .7em}"
)


def write_learning_page(runs: Mapping[str, Sequence[Round]], page: str | os.PathLike) -> None:
    """Write an HTML file that opens without a network, whole or not at all.

    Args:
        runs: rounds by the name of their run, the first of which the page is about; the others stand beside it.
        page: its name.

    Raises:
        OSError: it cannot be written.
    """
    title = escape(next(iter(runs)))
    chart = learning_curve(runs).to_html(full_html=False, include_plotlyjs=True)
    tables = "".join(f"<h2>{escape(name)}</h2>{_table(rounds)}" for name, rounds in runs.items())
    text = (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="generator" content="deeprelax_ase">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>What was learnt in {title}</h1>"
        "<p>Mean error of coordinates and lattice vectors together, on test crystals of compositions that are not "
        f"learnt. The dotted line is that of the crystals as they are.</p>{chart}{tables}"
        f"<p>deeprelax_ase {__version__}</p></body></html>\n"
    )
    with placed(Path(page)) as part:
        part.write_text(text, encoding="utf-8")


def learning_curve(runs: Mapping[str, Sequence[Round]]) -> go.Figure:
    """The error of each run against the crystals that it labelled."""
    figure = go.Figure()
    for name, rounds in runs.items():
        figure.add_scatter(
            x=[one.labelled for one in rounds], y=[one.error for one in rounds], mode="lines+markers", name=name
        )
    first = next(iter(runs.values()))
    figure.add_hline(y=first[0].unrelaxed, line_dash="dot")
    figure.update_layout(
        template="simple_white",
        xaxis_title="crystals labelled",
        yaxis={"title": "error (Å)", "rangemode": "tozero"},
        height=420,
        showlegend=len(runs) > 1,
    )
    return figure


def _table(rounds: Sequence[Round]) -> str:
    rows = [_row(_HEADS, "th"), *(_row(_cells(one), "td") for one in rounds)]
    return f"<table>{''.join(rows)}</table>"


def _row(cells: Sequence[str], kind: str) -> str:
    return f"<tr>{''.join(f'<{kind}>{escape(cell)}</{kind}>' for cell in cells)}</tr>"


def _cells(one: Round) -> tuple[str, ...]:
    errors = (f"{value:.4g}" for value in (one.error, one.coordinates, one.lattice, one.volume))
    expected = "" if one.expected is None else f"{one.expected:.3g}"
    dropped = ", ".join(f"{count} {reason}" for reason, count in one.dropped.items())
    return (str(one.number), f"{one.labelled:,}", f"{one.pairs:,}", *errors, expected, f"{one.force_calls:,}", dropped)
