"""A crystal before and after, in three dimensions: what a page draws, as plain numbers, colours and labels."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from ase.data import chemical_symbols, covalent_radii
from ase.data.colors import jmol_colors
from plotly.colors import sample_colorscale

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

#: Radius of a drawn atom: so many Å, and so much of its covalent radius.
_RADIUS, _RADIUS_PER_RADIUS = 0.1, 0.4

#: Fractional coordinates so near to zero are on a face of the cell, and are drawn on the opposite one too.
_ON_FACE = 0.02

#: Plasma without its palest end, which white swallows.
_COLOURS = sample_colorscale("Plasma", np.linspace(0, 0.85, 12))

#: Å. The colours span at least so much, so that bonds that are all alike look alike.
_SPAN = 0.01

#: Colour of bonds whose uncertainty is not shown.
_GREY = "#b5b5b5"


@dataclass(frozen=True, eq=False)
class _Bonds:
    """B bonds of a drawn crystal: atoms i and j, the cell of j, and uncertainties in Å where they are known."""

    i: np.ndarray
    j: np.ndarray
    offset: np.ndarray
    uncertainty: np.ndarray


def before_and_after(
    initial: Crystal, relaxed: Crystal, uncertainty: Uncertainty | None = None
) -> tuple[dict[str, Any], float]:
    """The unrelaxed crystal with arrows, and the relaxed one with its bonds in colours of their uncertainty.

    Args:
        initial: the unrelaxed crystal.
        relaxed: the same atoms in the same periodic images.
        uncertainty: of the bonds; without it there are none.

    Returns:
        The scene, and how many times too long its arrows are. A scene holds ``views``, of each a ``title``, its
        ``cell`` (3, 3), ``atoms`` (label, x, y, z, radius, colour), ``bonds`` (the ends, colour, label) and ``arrows``
        (start, tip), all in Å; ``elements``, the colour of each; and ``scale``, the colours of the uncertainties from
        ``low`` to ``high``.
    """
    moves = relaxed.positions - initial.fractional_positions @ relaxed.cell
    largest = float(np.linalg.norm(moves, axis=1).max())
    longer = float(np.clip(_ARROW / largest, 1.0, _MOST)) if largest > 1e-6 else 1.0
    shifts = np.floor(initial.fractional_positions + 1e-3)  # the same for both, so that atoms stay where they are
    start, end = (c.with_geometry(c.positions - shifts @ c.cell, c.cell) for c in (initial, relaxed))
    bonds = None if uncertainty is None else _bonds(relaxed, uncertainty, shifts.astype(int))
    views = [_view("unrelaxed", start, bonds, coloured=False), _view("relaxed", end, bonds, coloured=True)]
    views[0]["arrows"] = _arrows(start.positions, moves * longer)
    return _scene(initial.numbers, views, bonds), longer


def alone(crystal: Crystal) -> dict[str, Any]:
    """The scene of a crystal that nothing was predicted for, see :func:`before_and_after`."""
    return _scene(crystal.numbers, [_view("unrelaxed", crystal, None, coloured=False)], None)


def _scene(numbers: np.ndarray, views: list[dict[str, Any]], bonds: _Bonds | None) -> dict[str, Any]:
    elements = {chemical_symbols[n]: _colour(n) for n in np.unique(numbers).tolist()}
    scene: dict[str, Any] = {"views": views, "elements": elements}
    if bonds is not None and len(bonds.i):
        low, high = _colour_range(bonds.uncertainty)
        scene["scale"] = {"low": f"{low:.3f}", "high": f"{high:.3f}", "colours": _COLOURS}
    return scene


def _view(title: str, crystal: Crystal, bonds: _Bonds | None, *, coloured: bool) -> dict[str, Any]:
    """Cell, atoms and their copies in the cells around, and bonds."""
    every = np.arange(len(crystal))
    atoms = _balls(crystal.numbers, every, crystal.positions)
    sticks: list[list[Any]] = []
    if bonds is not None:
        if len(crystal) <= _SMALL:
            copies, cells = _copies(crystal, bonds)
            where = crystal.positions[copies] + cells @ crystal.cell
            atoms += _balls(crystal.numbers[copies], copies, where, pale=True)
        sticks = _sticks(crystal, bonds, coloured=coloured)
    return {"title": title, "cell": _rounded(crystal.cell), "atoms": atoms, "bonds": sticks, "arrows": []}


def _balls(numbers: np.ndarray, places: np.ndarray, positions: np.ndarray, *, pale: bool = False) -> list[list[Any]]:
    """Atoms (n,) at ``positions`` (n, 3) Å, in Jmol's colours; ``places`` (n,) are theirs in the crystal."""
    radii = np.round(_RADIUS + _RADIUS_PER_RADIUS * covalent_radii[numbers], 3).tolist()
    told = ", in the next cell" if pale else ""
    rows = zip(numbers.tolist(), places.tolist(), _rounded(positions), radii, strict=True)
    return [[f"{chemical_symbols[n]} {atom}{told}", *where, r, _colour(n, pale=pale)] for n, atom, where, r in rows]


def _colour(number: int, *, pale: bool = False) -> str:
    share = 0.45 if pale else 1.0
    return "#" + "".join(f"{round(255 * (1 - share * (1 - part))):02x}" for part in jmol_colors[number])


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


def _sticks(crystal: Crystal, bonds: _Bonds, *, coloured: bool) -> list[list[Any]]:
    if not len(bonds.i):
        return []
    starts = crystal.positions[bonds.i]
    ends = crystal.positions[bonds.j] + bonds.offset @ crystal.cell
    lengths = np.linalg.norm(ends - starts, axis=1).tolist()
    low, high = _colour_range(bonds.uncertainty)
    steps = np.rint((bonds.uncertainty - low) / (high - low) * (len(_COLOURS) - 1)).astype(int).tolist()
    uncertainties = bonds.uncertainty.tolist()
    told = [f"{a:.3f} Å" + (f" ± {u:.3f} Å" if coloured else "") for a, u in zip(lengths, uncertainties, strict=True)]
    colours = [_COLOURS[step] if coloured else _GREY for step in steps]
    return [[*ends, *rest] for ends, *rest in zip(_rounded(np.hstack([starts, ends])), colours, told, strict=True)]


def _colour_range(uncertainty: np.ndarray) -> tuple[float, float]:
    """Uncertainties, in Å, of the first and the last colour: all of them lie between."""
    low, high = float(uncertainty.min()), float(uncertainty.max())
    low = max(low - max(_SPAN - (high - low), 0) / 2, 0)
    return low, max(high, low + _SPAN)


def _arrows(starts: np.ndarray, moves: np.ndarray) -> list[list[float]]:
    """Start and tip of each move that is long enough to be seen."""
    long = np.linalg.norm(moves, axis=1) > _LEAST
    return _rounded(np.hstack([starts, starts + moves])[long])


def _rounded(numbers: np.ndarray) -> list[Any]:
    """As lists, to a ten thousandth: a page holds many."""
    return np.round(numbers, 4).tolist()
