"""A crystal before and after, in three dimensions, as figures of plotly."""

from __future__ import annotations

from itertools import product

import numpy as np
import plotly.graph_objects as go
from ase.data import chemical_symbols, covalent_radii
from ase.data.colors import jmol_colors
from plotly.subplots import make_subplots

from deeprelax_ase.prediction import Prediction
from deeprelax_ase.structure import Crystal

#: Neighbours count as bonded up to so many times the sum of their covalent radii.
_BONDED = 1.2

#: Atomic numbers of what is no metal. Between metals bonds are drawn where there is nothing else.
_NO_METALS = (1, 2, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 33, 34, 35, 36, 52, 53, 54, 85, 86)

#: Å. Arrows of the largest displacement are at least so long, if need be by exaggeration, at most so many times.
_ARROW, _MOST = 0.6, 50.0

#: Crystals with more atoms are not drawn: browsers take too long.
LARGEST = 500


def before_and_after(prediction: Prediction) -> tuple[go.Figure, float]:
    """The unrelaxed crystal with arrows, and the relaxed one with its bonds in colours of their uncertainty.

    Returns:
        The figure, and by how much its arrows are too long.
    """
    figure = make_subplots(
        cols=2,
        specs=[[{"type": "scene"}, {"type": "scene"}]],
        subplot_titles=("unrelaxed", "relaxed"),
        horizontal_spacing=0.02,
    )
    moves = prediction.displacements
    largest = float(np.linalg.norm(moves, axis=1).max())
    longer = float(np.clip(_ARROW / largest, 1.0, _MOST)) if largest > 1e-6 else 1.0
    figure.add_traces(
        [*drawn(prediction.initial), *_arrows(prediction.initial.positions, moves * longer)], cols=1, rows=1
    )
    figure.add_traces([*drawn(prediction.relaxed), *_bonds(prediction)], cols=2, rows=1)
    return _styled(figure), longer


def alone(crystal: Crystal) -> go.Figure:
    """A crystal that nothing was predicted for."""
    return _styled(go.Figure(drawn(crystal)))


def drawn(crystal: Crystal) -> list[go.Scatter3d]:
    """Its cell and atoms."""
    corners = np.array(list(product((0, 1), repeat=3)))
    edges = [(a, b) for a in range(8) for b in range(a) if np.abs(corners[a] - corners[b]).sum() == 1]
    lines = _segments(np.array([corners[list(edge)] @ crystal.cell for edge in edges]))
    cell = go.Scatter3d(**lines, mode="lines", line={"color": "#888", "width": 2}, hoverinfo="skip", name="cell")
    x, y, z = crystal.positions.T
    atoms = go.Scatter3d(
        x=x,
        y=y,
        z=z,
        mode="markers",
        marker={
            "size": 12 * covalent_radii[crystal.numbers] + 2,
            "color": [_colour(number) for number in crystal.numbers],
            "line": {"color": "#333", "width": 1},
            "opacity": 1.0,
        },
        text=[f"{chemical_symbols[number]} {n}" for n, number in enumerate(crystal.numbers)],
        hovertemplate="%{text}<br>%{x:.3f}, %{y:.3f}, %{z:.3f} Å<extra></extra>",
        name="atoms",
    )
    return [cell, atoms]


def _bonds(prediction: Prediction) -> list[go.Scatter3d]:
    uncertainty, crystal = prediction.uncertainty, prediction.relaxed
    i, j = uncertainty.bonds[:, :2].T
    ends = crystal.positions[j] + uncertainty.bonds[:, 2:] @ crystal.cell
    lengths = np.linalg.norm(ends - crystal.positions[i], axis=1)
    radii = covalent_radii[crystal.numbers]
    bonded = lengths < _BONDED * (radii[i] + radii[j])
    other = np.isin(crystal.numbers, _NO_METALS)
    bonded &= other[i] | other[j] | ~other.any()
    bonded &= (i < j) | (uncertainty.bonds[:, 2:] != 0).any(axis=1)  # in the cell each is there twice
    if not bonded.any():
        return []
    lines = _segments(np.stack([crystal.positions[i][bonded], ends[bonded]], axis=1))
    colours = np.repeat(uncertainty.per_bond[bonded], 3)
    told = [f"{a:.3f} Å ± {u:.3f} Å" for a, u in zip(lengths[bonded], uncertainty.per_bond[bonded], strict=True)]
    bar = {"title": {"text": "bond,<br>± Å"}, "thickness": 12, "len": 0.8}
    line = {"color": colours, "colorscale": "Plasma", "width": 5, "showscale": True, "colorbar": bar}
    text = np.repeat(told, 3).tolist()
    return [
        go.Scatter3d(**lines, mode="lines", line=line, text=text, hovertemplate="%{text}<extra></extra>", name="bonds")
    ]


def _arrows(starts: np.ndarray, moves: np.ndarray) -> list[go.Scatter3d | go.Cone]:
    long = np.linalg.norm(moves, axis=1) > 0.02
    if not long.any():
        return []
    starts, moves = starts[long], moves[long]
    tips = starts + moves
    stems = _segments(np.stack([starts, tips], axis=1))
    x, y, z = tips.T
    u, v, w = (moves / np.linalg.norm(moves, axis=1, keepdims=True)).T
    red = "#c0392b"
    heads = go.Cone(
        x=x, y=y, z=z, u=u, v=v, w=w, sizemode="absolute", sizeref=0.25, anchor="tip", showscale=False,
        colorscale=[[0, red], [1, red]], hoverinfo="skip",
    )  # fmt: skip
    return [go.Scatter3d(**stems, mode="lines", line={"color": red, "width": 5}, hoverinfo="skip", name="moves"), heads]


def _segments(pairs: np.ndarray) -> dict[str, np.ndarray]:
    """(S, 2, 3) ends of lines, as plotly takes them: one after the other with a gap behind each."""
    gaps = np.full((len(pairs), 1, 3), np.nan)
    x, y, z = np.concatenate([pairs, gaps], axis=1).reshape(-1, 3).T
    return {"x": x, "y": y, "z": z}


def _colour(number: int) -> str:
    red, green, blue = (round(255 * part) for part in jmol_colors[number])
    return f"rgb({red},{green},{blue})"


def _styled(figure: go.Figure) -> go.Figure:
    hidden = {"visible": False}
    figure.update_scenes(
        xaxis=hidden, yaxis=hidden, zaxis=hidden, aspectmode="data", camera_eye={"x": 1.9, "y": 1.3, "z": 0.7}
    )
    figure.update_layout(
        template="plotly_white", height=420, margin={"l": 0, "r": 0, "t": 30, "b": 0}, showlegend=False
    )
    return figure
