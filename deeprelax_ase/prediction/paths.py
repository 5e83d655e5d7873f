"""A relaxation as a path of crystals, on which no two atoms collide: for movies, and as a first guess for NEB.

The cell goes by the logarithm of its stretch, the atoms by the image dependent pair potential (IDPP) of S. Smidstrup et
al., J. Chem. Phys. 140, 214106 (2014), see :mod:`deeprelax_ase.geometry.idpp`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian, FixedLine, FixedPlane, FixSymmetry
from ase.neighborlist import primitive_neighbor_list
from scipy.spatial.transform import Rotation

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import ConstraintError, OverlappingAtomsError, StructureError
from deeprelax_ase.geometry.idpp import CUTOFF, elastic_band
from deeprelax_ase.graph.checks import MIN_DISTANCE
from deeprelax_ase.prediction.record import Prediction
from deeprelax_ase.prediction.status import INFO_KEYS, forget

if TYPE_CHECKING:
    from pymatgen.core import Structure

#: Fraction of the distance to its nearest neighbour that every atom keeps free, see :func:`relaxation_path`.
CLEARANCE = 0.6

#: Å. How far atoms may move between two points of the path at which distances are checked.
_STRIDE = 0.2

#: Å. How far atoms that collide are pushed off the straight path; and how many pushes are tried.
_PUSH, _PUSHES = 0.3, 4

#: Atoms that come nearer on the straight path than this fraction of what is allowed run right into each other.
_HEAD_ON = 0.5

#: Å. Rounding.
_TINY = 1e-6


class PathError(StructureError):
    """No path leads from one crystal to the other: their atoms differ, or cannot get past each other."""


def relaxation_path(
    initial: Atoms | Crystal | Structure,
    relaxed: Atoms | Crystal | Structure | Prediction,
    n_images: int = 9,
    *,
    clearance: float = CLEARANCE,
) -> list[Atoms]:
    """Crystals on the way from ``initial`` to ``relaxed``.

    >>> write("relaxation.xyz", relaxation_path(atoms, predictor.predict(atoms)))

    Each atom goes from where it is to where it is: periodic images are kept, nothing is wrapped. A part t of the way
    the cell is stretched by the t-th power of the whole stretch, so that the volume goes geometrically; a rotation
    between the two cells, which predictions do not have, goes evenly. Distances between atoms go as evenly as they can.

    No two atoms, or images of atoms, come nearer to each other than ``clearance`` times the distance that either of
    them keeps from its nearest neighbour at both ends. That holds on the images and on the straight lines between them.
    Atoms that run right into each other are pushed aside first, always in the same way. For the rest the path turns and
    moves with the crystal, and keeps the symmetry that both ends share.

    Args:
        initial: the unrelaxed crystal. The images are copies of it in all but geometry: tags, magnetic moments,
            constraints, ``info``. Calculators are not copied.
        relaxed: the same atoms in the same order, relaxed. The last image is a copy of it where it is an ``Atoms``.
        n_images: number of images, both ends included.
        clearance: between 0, where anything goes, and 1.

    Returns:
        ``n_images`` Atoms. The first and the last have the given positions and cells, exactly. Constraints of either
        end hold all along.

    Raises:
        PathError: the crystals have different atoms, or cells of different handedness, or atoms cannot get past each
            other.
        OverlappingAtomsError: atoms overlap at an end.
        ConstraintError: the ends differ where a constraint allows no motion; or a constraint is not of those that can
            be kept: ``FixAtoms`` and ``FixSymmetry``, and in a cell that does not change ``FixCartesian``,
            ``FixedLine`` and ``FixedPlane``.
        StructureError: an end is not a crystal, see :func:`~deeprelax_ase.crystal.validate`.
        ValueError: an option is out of its range.
    """
    if n_images < 2 or n_images != int(n_images):
        raise ValueError(f"{n_images=} must be a whole number of at least 2, as both ends are counted")
    if not 0 <= clearance <= 1:
        raise ValueError(f"{clearance=} must lie between 0 and 1")
    first, last = _ends(initial, relaxed)
    constraints = _constraints(first, last)
    bounds = clearance * np.minimum(_nearest_neighbours(first), _nearest_neighbours(last))
    way = _Way.between(first.cell.array, last.cell.array)
    path = _without_collisions(way, _straight(way, first, last, int(n_images)), bounds, constraints)
    images = [first]
    for t, positions in zip(np.linspace(0, 1, len(path))[1:-1], path[1:-1], strict=True):
        images.append(_with_geometry(first, positions @ way.deformation(t), way.cell(t)))
        forget(images[-1], INFO_KEYS)  # of an end, if of anything
    return [*images, last]


@dataclass(frozen=True, eq=False)
class _Way:
    """The cell on its way. Between the ends positions are given as they are in the reference cell, half-way.

    Attributes:
        reference: (3, 3) Å, the initial cell half stretched and not turned; lattice vectors in rows.
        axes: (3, 3) in columns, along which the cell is stretched.
        strains: (3,) logarithmic, of the whole way.
        turn: (3,) rotation vector of the whole way, after the stretch.
    """

    reference: np.ndarray
    axes: np.ndarray
    strains: np.ndarray
    turn: np.ndarray

    @classmethod
    def between(cls, initial: np.ndarray, relaxed: np.ndarray) -> _Way:
        if np.array_equal(initial, relaxed):
            return cls(initial, np.eye(3), np.zeros(3), np.zeros(3))
        if np.linalg.det(initial) == 0:
            raise PathError(
                "the cell has no volume, so that it cannot be stretched. Give it a vector out of the plane, with "
                "atoms.center(vacuum=10, axis=2)."
            )
        deformation = np.linalg.solve(initial, relaxed)  # relaxed = initial U Q: U stretches, Q turns
        if np.linalg.det(deformation) <= 0:
            raise PathError(
                "one of the cells is right-handed and the other left-handed, so that the crystal would have no volume "
                "half-way. Give both with the same lattice vectors in the same order."
            )
        squares, axes = np.linalg.eigh(deformation @ deformation.T)
        turn = (axes * squares**-0.5) @ axes.T @ deformation
        half = (axes * squares**0.25) @ axes.T
        return cls(initial @ half, axes, np.log(squares) / 2, Rotation.from_matrix(turn).as_rotvec())

    def deformation(self, t: float) -> np.ndarray:
        """(3, 3) what takes rows of coordinates from the reference cell to that at a part ``t`` of the way."""
        stretch = (self.axes * np.exp((t - 0.5) * self.strains)) @ self.axes.T
        return stretch @ Rotation.from_rotvec(t * self.turn).as_matrix()

    def cell(self, t: float) -> np.ndarray:
        """(3, 3) Å, lattice vectors in rows."""
        return self.reference @ self.deformation(t)


def _ends(initial: Any, relaxed: Any) -> tuple[Atoms, Atoms]:
    """Both ends as Atoms of their own."""
    crystal = Crystal.of(initial)
    goal = Crystal.of(relaxed.relaxed if isinstance(relaxed, Prediction) else relaxed)
    first = initial.copy() if isinstance(initial, Atoms) else crystal.to_atoms()
    if not np.array_equal(crystal.numbers, goal.numbers):
        raise PathError(
            f"the crystals have different atoms, {first.symbols} and {goal.to_atoms().symbols}. Each atom of the first "
            "goes to where the atom of the same index is in the second: give both in the same order."
        )
    last = relaxed.copy() if isinstance(relaxed, Atoms) else _with_geometry(first, goal.positions, goal.cell)
    if isinstance(relaxed, Prediction):
        forget(last, INFO_KEYS)  # of an earlier one
        last.info.update(relaxed.info)
    return first, last


def _with_geometry(atoms: Atoms, positions: np.ndarray, cell: np.ndarray) -> Atoms:
    """A copy of ``atoms`` at these positions (N, 3) in this cell (3, 3), both in Å, whatever its constraints say."""
    moved = atoms.copy()
    moved.set_cell(cell, apply_constraint=False)
    moved.set_positions(positions, apply_constraint=False)
    return moved


def _constraints(first: Atoms, last: Atoms) -> list[Any]:
    """The constraints of both ends.

    Raises:
        ConstraintError: a constraint cannot be kept all along, or has not been kept up to the end.
    """
    kept: tuple[type, ...] = (FixAtoms, FixSymmetry)
    if np.array_equal(first.cell, last.cell):  # elsewhere the others mean nothing: the cell carries all atoms along
        kept = (*kept, FixCartesian, FixedLine, FixedPlane)
    constraints = [*first.copy().constraints, *last.copy().constraints]
    for constraint in constraints:
        name = type(constraint).__name__
        if not isinstance(constraint, kept):
            raise ConstraintError(
                f"{name} cannot be kept on the way from one of these cells to the other; "
                f"{', '.join(kind.__name__ for kind in kept)} can. Take it off with atoms.set_constraint()."
            )
        goal = last.positions
        if isinstance(constraint, FixSymmetry):
            goal = last.get_scaled_positions(wrap=False) @ first.cell.array
        moved = first.copy()
        moved.set_constraint(constraint)
        moved.set_positions(goal)
        held = np.flatnonzero(np.abs(moved.positions - goal).max(axis=1) > _TINY)
        if len(held):
            raise ConstraintError(
                f"{name} holds atoms {held[:5].tolist()}, but they have moved in the relaxed crystal. Relax under the "
                "same constraint, or take it off with atoms.set_constraint()."
            )
    return constraints


def _nearest_neighbours(atoms: Atoms) -> np.ndarray:
    """(N,) Å, the distance of each atom from its nearest neighbour, its own images included; at most the cutoff."""
    i, distances = primitive_neighbor_list("id", atoms.pbc, atoms.cell.array, atoms.positions, CUTOFF)
    nearest = np.full(len(atoms), CUTOFF)
    np.minimum.at(nearest, i, distances)
    if nearest.min() < MIN_DISTANCE:
        raise OverlappingAtomsError(
            f"atom {nearest.argmin()} is {nearest.min():.3f} Å away from another one, or from its own image, at an end "
            f"of the path: less than {MIN_DISTANCE} Å. Remove duplicate atoms, or check the cell and the units (Å)."
        )
    return nearest


def _straight(way: _Way, first: Atoms, last: Atoms, n_images: int) -> np.ndarray:
    """(n_images, N, 3) Å, in the reference cell: atoms on straight lines, and those of a ``FixAtoms`` in place."""
    parts = np.linspace(0, 1, n_images)
    undone = [np.linalg.inv(way.deformation(t)) for t in parts]
    start, end = first.positions @ undone[0], last.positions @ undone[-1]
    line = start + parts[:, None, None] * (end - start)
    for constraint in (*first.constraints, *last.constraints):
        if isinstance(constraint, FixAtoms):
            line[:, constraint.index] = first.positions[constraint.index] @ np.array(undone)
    return line


def _without_collisions(way: _Way, line: np.ndarray, bounds: np.ndarray, constraints: list[Any]) -> np.ndarray:
    """(n_images, N, 3) Å, in the reference cell: a path near the straight ``line``.

    Atoms that run right into each other would stay on that line, as nothing pulls them off it. A push chooses a way
    around. Its direction is random, but always the same with respect to the lattice.
    """
    parts = np.linspace(0, 1, len(line))
    deformations = np.array([way.deformation(t) for t in parts])
    along = way.reference / np.linalg.norm(way.reference, axis=1, keepdims=True)
    head_on = [collision for collision in _collisions(way, line, bounds) if collision[0] < _HEAD_ON]
    pushed = np.isin(np.arange(len(bounds)), [collision[-2:] for collision in head_on])
    for attempt in range(_PUSHES):
        push = np.random.default_rng(attempt).normal(scale=_PUSH, size=line[0].shape) @ along * pushed[:, None]
        pushes = np.sin(np.pi * parts)[:, None, None] * push
        path = elastic_band(line, way.reference, deformations, pushes=pushes, constraints=constraints)
        collisions = _collisions(way, path, bounds)
        if not collisions:
            return path
        pushed |= np.isin(np.arange(len(bounds)), [collision[-2:] for collision in collisions])
    _, t, distance, i, j = min(collisions)
    raise PathError(
        f"atoms {i} and {j} come as near to each other as {distance:.2f} Å, {t:.0%} of the way. See that both crystals "
        f"have their atoms in the same order and on the same periodic images; take more than {len(line)} images, or "
        "lower the clearance."
    )


def _collisions(way: _Way, path: np.ndarray, bounds: np.ndarray) -> list[tuple[float, float, float, int, int]]:
    """Pairs nearer than the larger of their ``bounds`` (N,) Å: fraction of it, part of the way, Å, atoms i and j."""
    longest = np.linalg.norm(np.diff(path, axis=0), axis=2).max()
    between = max(1, int(np.ceil(longest / _STRIDE)))
    found = []
    for point in range((len(path) - 1) * between + 1):
        k = min(point // between, len(path) - 2)
        positions = path[k] + (point / between - k) * (path[k + 1] - path[k])
        t = point / between / (len(path) - 1)
        i, j, d = primitive_neighbor_list(
            "ijd", [True] * 3, way.cell(t), positions @ way.deformation(t), bounds.max() + _TINY
        )
        allowed = np.maximum(bounds[i], bounds[j])
        for p in np.flatnonzero(d < allowed - _TINY):
            found.append((float(d[p] / allowed[p]), t, float(d[p]), int(i[p]), int(j[p])))
    return found
