"""A crystal before and after, in three dimensions, as figures of plotly."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import plotly.graph_objects as go
from ase.data import chemical_symbols, covalent_radii
from ase.data.colors import jmol_colors
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.evaluation.groups import NON_METALS
from deeprelax_ase.prediction.record import Uncertainty

#: Neighbours count as bonded up to so many times the sum of their covalent radii.
_BONDED = 1.2

#: Å. Arrows of the largest displacement are at least so long, if need be by exaggeration, at most so many times.
_ARROW, _MOST = 1.2, 50.0

#: Å. Moves below this, after exaggeration, are not drawn.
_LEAST = 0.05

#: Crystals with more atoms are not drawn: browsers take too long. Neighbours in other cells are drawn for smaller ones.
LARGEST, _SMALL = 500, 100

#: Pixels, diameter of an atom's marker: a constant, and so much for each Å of its covalent radius.
_MARKER, _MARKER_PER_RADIUS = 6.0, 14.0

#: Fractional coordinates so near to zero are on a face of the cell, and are drawn on the opposite one too.
_ON_FACE = 0.02

_GREY, _RED = "#8a8a8a", "#c0392b"

#: Plasma without its palest end, which white swallows.
_COLOURS = sample_colorscale("Plasma", np.linspace(0, 0.85, 12))


@dataclass(frozen=True, eq=False)
class _Bonds:
    """B bonds of a drawn crystal: atoms i and j, the cell of j, and uncertainties in Å where they are known."""

    i: np.ndarray
    j: np.ndarray
    offset: np.ndarray
    uncertainty: np.ndarray


def before_and_after(
    initial: Crystal, relaxed: Crystal, uncertainty: Uncertainty | None = None
) -> tuple[go.Figure, float]:
    """The unrelaxed crystal with arrows, and the relaxed one with its bonds in colours of their uncertainty.

    Args:
        initial: the unrelaxed crystal.
        relaxed: the same atoms in the same periodic images.
        uncertainty: of the bonds; without it there are none.

    Returns:
        The figure, and how many times too long its arrows are.
    """
    figure = make_subplots(cols=2, specs=[[{"type": "scene"}] * 2], horizontal_spacing=0.01)
    moves = relaxed.positions - initial.fractional_positions @ relaxed.cell
    largest = float(np.linalg.norm(moves, axis=1).max())
    longer = float(np.clip(_ARROW / largest, 1.0, _MOST)) if largest > 1e-6 else 1.0
    shifts = np.floor(initial.fractional_positions + 1e-3)  # the same for both, so that atoms stay where they are
    start, end = (c.with_geometry(c.positions - shifts @ c.cell, c.cell) for c in (initial, relaxed))
    bonds = None if uncertainty is None else _bonds(relaxed, uncertainty, shifts.astype(int))
    figure.add_traces(_drawn(start, bonds, coloured=False), cols=1, rows=1)
    figure.add_traces(_arrows(start.positions, moves * longer), cols=1, rows=1)
    figure.add_traces(_drawn(end, bonds, coloured=True), cols=2, rows=1)
    return _styled(figure, "unrelaxed", "relaxed"), longer


def alone(crystal: Crystal) -> go.Figure:
    """A crystal that nothing was predicted for."""
    figure = make_subplots(specs=[[{"type": "scene"}]])
    figure.add_traces(_drawn(crystal, None, coloured=False))
    return _styled(figure, "unrelaxed")


def _drawn(crystal: Crystal, bonds: _Bonds | None, *, coloured: bool) -> list[Any]:
    """Cell, atoms and their copies in the cells around, and bonds."""
    corners = np.array(list(product((0, 1), repeat=3)))
    edges = [(a, b) for a in range(8) for b in range(a) if np.abs(corners[a] - corners[b]).sum() == 1]
    lines = _segments(np.array([corners[list(edge)] @ crystal.cell for edge in edges]))
    traces = [go.Scatter3d(**lines, mode="lines", line={"color": _GREY, "width": 2}, hoverinfo="skip", name="cell")]
    labels = [
        _label(*atom) for atom in zip(crystal.numbers.tolist(), range(len(crystal)), crystal.positions, strict=True)
    ]
    traces.append(_markers(crystal.numbers, crystal.positions, labels))
    if bonds is None:
        return traces
    atoms, cells = _copies(crystal, bonds) if len(crystal) <= _SMALL else (np.zeros(0, int), np.zeros((0, 3), int))
    if len(atoms):
        told = [f"{labels[n].split('<')[0]}, in the next cell" for n in atoms.tolist()]
        where = crystal.positions[atoms] + cells @ crystal.cell
        traces.append(_markers(crystal.numbers[atoms], where, told, pale=True, name="copies"))
    return [*traces, *_sticks(crystal, bonds, coloured=coloured)]


def _markers(
    numbers: np.ndarray, positions: np.ndarray, labels: list[str], *, pale: bool = False, name: str = "atoms"
) -> go.Scatter3d:
    """Atoms (n,) at ``positions`` (n, 3) Å, in Jmol's colours; each tells its label when it is pointed at."""
    x, y, z = positions.T
    share = 0.45 if pale else 1.0
    colours = np.rint(255 * (1 - share * (1 - jmol_colors[numbers]))).astype(int)
    marker = {
        "size": _MARKER + _MARKER_PER_RADIUS * covalent_radii[numbers],
        "color": [f"rgb({r},{g},{b})" for r, g, b in colours.tolist()],
        "opacity": 1.0,
        "line": {"width": 1, "color": _GREY},
    }
    return go.Scatter3d(
        x=x, y=y, z=z, mode="markers", marker=marker, text=labels, hovertemplate="%{text}<extra></extra>", name=name
    )


def _label(number: int, atom: int, position: np.ndarray) -> str:
    """Of an atom: its element, its place in the crystal and where it is."""
    x, y, z = position
    return f"{chemical_symbols[number]} {atom}<br>{x:.3f}, {y:.3f}, {z:.3f} Å"


def _bonds(crystal: Crystal, uncertainty: Uncertainty, shifts: np.ndarray) -> _Bonds:
    """Bonds of ``crystal`` between atoms that are moved by ``shifts`` (N, 3) cells."""
    i, j = uncertainty.bonds[:, :2].T
    offset = uncertainty.bonds[:, 2:]
    vectors = crystal.positions[j] + offset @ crystal.cell - crystal.positions[i]
    radii = covalent_radii[crystal.numbers]
    bonded = np.linalg.norm(vectors, axis=1) < _BONDED * (radii[i] + radii[j])
    other = np.isin(crystal.numbers, NON_METALS)
    bonded &= other[i] | other[j] | ~other.any()
    offset = offset + shifts[j] - shifts[i]
    bonded &= (i < j) | (offset != 0).any(axis=1)  # in the cell each is there twice
    return _Bonds(i[bonded], j[bonded], offset[bonded], uncertainty.per_bond[bonded])


def _copies(crystal: Crystal, bonds: _Bonds) -> tuple[np.ndarray, np.ndarray]:
    """Atoms (n,) and the cells (n, 3) in which they are drawn again: on opposite faces, and at the ends of bonds."""
    on_face = np.abs(crystal.fractional_positions) < _ON_FACE
    wanted = {
        (atom, *cell)
        for cell in product((0, 1), repeat=3)
        if any(cell)
        for atom in np.flatnonzero(on_face[:, np.flatnonzero(cell)].all(axis=1)).tolist()
    }
    outside = (bonds.offset != 0).any(axis=1)
    wanted |= {tuple(row) for row in np.column_stack([bonds.j, bonds.offset])[outside].tolist()}
    found = np.array(sorted(wanted), dtype=int).reshape(-1, 4)
    return found[:, 0], found[:, 1:]


def _sticks(crystal: Crystal, bonds: _Bonds, *, coloured: bool) -> list[go.Scatter3d]:
    if not len(bonds.i):
        return []
    starts = crystal.positions[bonds.i]
    ends = crystal.positions[bonds.j] + bonds.offset @ crystal.cell
    lengths = np.linalg.norm(ends - starts, axis=1)
    bar = {"title": {"text": "uncertainty of<br>bond lengths (Å)"}, "thickness": 14, "len": 0.85, "tickformat": ".3~g"}
    shade = {"color": np.repeat(bonds.uncertainty, 3), "colorscale": _COLOURS, "showscale": True, "colorbar": bar}
    told = [
        f"{a:.3f} Å ± {u:.3f} Å" if coloured else f"{a:.3f} Å" for a, u in zip(lengths, bonds.uncertainty, strict=True)
    ]
    sticks = go.Scatter3d(
        **_segments(np.stack([starts, ends], axis=1)),
        mode="lines",
        line={"width": 7, **shade} if coloured else {"width": 4, "color": "#b5b5b5"},
        text=np.repeat(told, 3).tolist(),
        hovertemplate="%{text}<extra></extra>",
        name="bonds",
    )
    return [sticks]


def _arrows(starts: np.ndarray, moves: np.ndarray) -> list[go.Scatter3d | go.Cone]:
    long = np.linalg.norm(moves, axis=1) > _LEAST
    if not long.any():
        return []
    starts, moves = starts[long], moves[long]
    tips = starts + moves
    stems = go.Scatter3d(
        **_segments(np.stack([starts, tips], axis=1)),
        mode="lines", line={"color": _RED, "width": 6}, hoverinfo="skip", name="moves",
    )  # fmt: skip
    lengths = np.linalg.norm(moves, axis=1, keepdims=True)
    x, y, z = tips.T
    u, v, w = (moves / lengths * np.minimum(0.45, 0.6 * lengths)).T
    heads = go.Cone(
        x=x, y=y, z=z, u=u, v=v, w=w, sizemode="raw", sizeref=1, anchor="tip", showscale=False,
        colorscale=[[0, _RED], [1, _RED]], hoverinfo="skip", name="heads",
    )  # fmt: skip
    return [stems, heads]


def _segments(pairs: np.ndarray) -> dict[str, np.ndarray]:
    """(S, 2, 3) ends of lines, as plotly takes them: one after the other with a gap behind each."""
    gaps = np.full((len(pairs), 1, 3), np.nan)
    x, y, z = np.concatenate([pairs, gaps], axis=1).reshape(-1, 3).T
    return {"x": x, "y": y, "z": z}


def _styled(figure: go.Figure, *titles: str) -> go.Figure:
    """All views to the same scale, seen from the same side."""
    points = np.concatenate([np.column_stack([t.x, t.y, t.z]) for t in figure.data if t.type != "cone"])
    low, high = np.nanmin(points, axis=0) - 0.1, np.nanmax(points, axis=0) + 0.1
    spans = 2.0 * (high - low) / (high - low).max()
    axes = {
        f"{name}axis": {"visible": False, "range": [a, b], "autorange": False}
        for name, a, b in zip("xyz", low.tolist(), high.tolist(), strict=True)
    }
    figure.update_scenes(
        **axes,
        aspectmode="manual",
        aspectratio=dict(zip("xyz", spans.tolist(), strict=True)),
        camera={"eye": {"x": 0.55, "y": -1.7, "z": 0.5}, "projection": {"type": "orthographic"}},
    )
    figure.update_layout(
        template="plotly_white", height=440, margin={"l": 0, "r": 0, "t": 28, "b": 0}, showlegend=False
    )
    for n, title in enumerate(titles):
        middle = sum(figure.layout["scene" if n == 0 else f"scene{n + 1}"].domain.x) / 2
        figure.add_annotation(
            text=title, x=middle, y=1.0, xref="paper", yref="paper", yanchor="bottom", showarrow=False, font_size=14
        )
    return figure
