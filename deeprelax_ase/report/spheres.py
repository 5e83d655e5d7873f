"""Atoms as shaded spheres: one mesh of plotly's for each kind of atom."""

from __future__ import annotations

from functools import cache

import numpy as np
import plotly.graph_objects as go
from ase.data import chemical_symbols, covalent_radii
from ase.data.colors import jmol_colors

#: Spheres of more atoms than this are coarser.
_MANY = 80

_LIGHT = {"ambient": 0.65, "diffuse": 0.6, "specular": 0.25, "roughness": 0.5}


def radius(number: int) -> float:
    """Å, of the sphere for an atom of this atomic number: small enough to leave the bonds free."""
    return 0.12 + 0.32 * float(covalent_radii[number])


def spheres(
    numbers: np.ndarray, positions: np.ndarray, labels: list[str], *, pale: bool = False, name: str = "atoms"
) -> list[go.Mesh3d]:
    """A mesh for each element.

    Args:
        numbers: (n,) atomic numbers.
        positions: (n, 3) Å.
        labels: of each, shown when it is pointed at.
        pale: in lighter colours.
        name: of the meshes.
    """
    corners, faces = _sphere(fine=len(numbers) <= _MANY)
    meshes = []
    for number in np.unique(numbers).tolist():
        here = np.flatnonzero(numbers == number)
        x, y, z = (positions[here, None] + radius(number) * corners).reshape(-1, 3).T.astype(np.float32)
        i, j, k = (faces + len(corners) * np.arange(len(here))[:, None, None]).reshape(-1, 3).T
        text = [labels[n] for n in here.tolist() for _ in corners]
        mesh = go.Mesh3d(
            x=x, y=y, z=z, i=i, j=j, k=k, color=_colour(number, pale), lighting=_LIGHT, text=text,
            hovertemplate="%{text}<extra></extra>", name=name,
        )  # fmt: skip
        meshes.append(mesh)
    return meshes


def _colour(number: int, pale: bool) -> str:
    share = 0.45 if pale else 1.0
    red, green, blue = (round(255 * (1 - share * (1 - part))) for part in jmol_colors[number])
    return f"rgb({red},{green},{blue})"


def label(number: int, atom: int, position: np.ndarray) -> str:
    """Of an atom: its element, its place in the crystal and where it is."""
    x, y, z = position
    return f"{chemical_symbols[number]} {atom}<br>{x:.3f}, {y:.3f}, {z:.3f} Å"


@cache
def _sphere(*, fine: bool) -> tuple[np.ndarray, np.ndarray]:
    """Corners (c, 3) at distance 1 and faces (f, 3) of an icosahedron; ``fine``, of one with its faces divided."""
    golden = (1 + 5**0.5) / 2
    base = np.array([(0, s, t * golden) for s in (1, -1) for t in (1, -1)], dtype=float)
    corners = np.concatenate([np.roll(base, shift, axis=1) for shift in range(3)])
    near = np.linalg.norm(corners[:, None] - corners, axis=2) < 2.1  # the edges are 2 long
    faces = [
        (a, b, c)
        for a in range(12)
        for b in range(a + 1, 12)
        for c in range(b + 1, 12)
        if near[a, b] and near[b, c] and near[a, c]
    ]
    if fine:
        corners, faces = _divided(corners, faces)
    corners, turned = corners / np.linalg.norm(corners, axis=1, keepdims=True), np.array(faces)
    inward = np.linalg.det(corners[turned]) < 0
    turned[inward] = turned[inward][:, ::-1]  # all one way round, as the shading needs it
    return corners, turned


def _divided(corners: np.ndarray, faces: list[tuple[int, int, int]]) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """Each face as four, with the middles of its edges."""
    corners = corners / np.linalg.norm(corners, axis=1, keepdims=True)
    edges = {pair: 0 for a, b, c in faces for pair in ((a, b), (b, c), (a, c))}
    places = {pair: len(corners) + n for n, pair in enumerate(edges)}
    middles = [(corners[a] + corners[b]) / 2 for a, b in edges]
    divided = []
    for a, b, c in faces:
        ab, bc, ac = places[a, b], places[b, c], places[a, c]
        divided += [(a, ab, ac), (b, ab, bc), (c, ac, bc), (ab, bc, ac)]
    return np.concatenate([corners, middles]), divided
