"""The relaxed crystal of a pair in the words of the unrelaxed one: the same atoms, lattice vectors and images."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations, product

import numpy as np

from deeprelax_ase.errors import StructureError
from deeprelax_ase.geometry.stretch import matrix_function
from deeprelax_ase.structure import Crystal

#: How a pair was matched.
HOW = ("as given", "reordered", "other cell setting")

#: Displacements below this part of the distance between atoms, (V/N)^(1/3), leave no doubt about which atom is which.
_CLEAR = 0.4

#: Above this one no mapping is believed but the given order.
_FAR = 0.8

#: Strains of the lattice vectors, as they are given, above which they are tried in another setting.
_LARGE_STRAIN = 0.35

#: Settings whose strains differ by less than this are told apart by how far the atoms move in them.
_AS_STRAINED = 0.02

#: So many of them at most.
_MOST_SETTINGS = 24

#: Rotations (radians) below this are left: they may be what the relaxation did to the cell.
_SMALL_TURN = 1e-3


class MatchError(StructureError):
    """The two crystals of a pair are not the same atoms."""


@dataclass(frozen=True, eq=False)
class Matched:
    """A pair, atom by atom.

    Attributes:
        numbers: (N,) atomic numbers.
        scaled_initial, scaled_relaxed: (N, 3) fractional coordinates, not wrapped, no mean drift between them.
        cell_initial, cell_relaxed: (3, 3) Å; the second is a pure stretch of the first if it was turned at all.
        how: see :data:`HOW`.
        turned: radians by which the relaxed crystal was turned as a whole.
    """

    numbers: np.ndarray
    scaled_initial: np.ndarray
    scaled_relaxed: np.ndarray
    cell_initial: np.ndarray
    cell_relaxed: np.ndarray
    how: str
    turned: float


def match(initial: Crystal, relaxed: Crystal) -> Matched:
    """Map ``relaxed`` onto ``initial``.

    The given order is kept where no atom then moves further than 0.4 of the usual distance between atoms. Otherwise
    atoms of an element are assigned so that they move least, in the given lattice vectors and, by pymatgen, in others.
    A relaxed crystal that is turned as a whole is turned back.

    Raises:
        MatchError: they differ in composition or in the size of the cell, or no mapping is near enough.
    """
    _check_composition(initial, relaxed)
    same_order = np.array_equal(initial.numbers, relaxed.numbers)
    given = _Candidate.of(initial, relaxed.scaled_positions, relaxed.cell, HOW[0]) if same_order else None
    if given is not None and given.strain < _LARGE_STRAIN and given.distance < _CLEAR:
        return _matched(initial, given)
    reordered = _reordered(initial, relaxed, HOW[1]) if given is None or given.strain < _LARGE_STRAIN else None
    near = [c for c in (given, reordered) if c is not None and c.strain < _LARGE_STRAIN and c.distance < _FAR]
    if not near:
        near = [c for c in (_resettled(initial, relaxed),) if c is not None and c.distance < _FAR]
    if near:
        best = min(near, key=lambda c: c.mean)
        kept = (
            given in near and given is not None and given.mean < 1.5 * best.mean
        )  # as good: the order means something
        return _matched(initial, given if kept and given is not None else best)
    if given is not None and given.strain < _LARGE_STRAIN:
        return _matched(initial, given)  # atoms that went far, in an order that fits
    raise MatchError(
        f"no mapping of the {len(initial)} atoms of the relaxed crystal onto the unrelaxed ones moves them by less "
        "than the distance between atoms: these are two different crystals, or in cells that differ too much. Give "
        "both in the same setting, or leave the pair out."
    )


@dataclass(frozen=True, eq=False)
class _Candidate:
    """One mapping: fractional coordinates nearest to the unrelaxed ones, and how far that is.

    Attributes:
        strain: largest logarithmic stretch of the lattice vectors.
        distance, mean: largest and mean displacement over (V/N)^(1/3).
    """

    scaled: np.ndarray
    cell: np.ndarray
    how: str
    strain: float
    distance: float
    mean: float

    @classmethod
    def of(cls, initial: Crystal, scaled: np.ndarray, cell: np.ndarray, how: str) -> _Candidate:
        difference = without_drift(scaled - initial.scaled_positions)
        lengths = np.linalg.norm(difference @ cell, axis=1) / (abs(np.linalg.det(cell)) / len(scaled)) ** (1 / 3)
        stretch = np.linalg.svd(np.linalg.solve(initial.cell, cell), compute_uv=False)
        strain = float(np.abs(np.log(stretch)).max())
        kept = initial.scaled_positions + difference
        return cls(kept, cell, how, strain, float(lengths.max()), float(lengths.mean()))


def without_drift(difference: np.ndarray) -> np.ndarray:
    """(N, 3) fractional differences to the nearest images, less their mean."""
    angle = 2 * np.pi * difference
    drift = np.arctan2(np.sin(angle).mean(axis=0), np.cos(angle).mean(axis=0)) / (2 * np.pi)
    difference = difference - drift
    difference = difference - np.round(difference)
    return difference - difference.mean(axis=0)


def _check_composition(initial: Crystal, relaxed: Crystal) -> None:
    from ase.formula import Formula

    if np.array_equal(np.sort(initial.numbers), np.sort(relaxed.numbers)):
        return
    names = [crystal.to_atoms().get_chemical_formula() for crystal in (initial, relaxed)]
    kinds = [Formula(name).reduce()[0].format("metal") for name in names]
    if kinds[0] == kinds[1]:
        raise MatchError(
            f"the unrelaxed crystal holds {names[0]}, the relaxed one {names[1]}: cells of different size. Give both "
            "as primitive cells, or both as conventional ones."
        )
    raise MatchError(f"the unrelaxed crystal holds {names[0]}, the relaxed one {names[1]}: not the same atoms")


def _reordered(initial: Crystal, relaxed: Crystal, how: str) -> _Candidate | None:
    """The assignment of atoms, in the lattice vectors as they are, that moves them least."""
    start, numbers = initial.scaled_positions, initial.numbers
    end = relaxed.scaled_positions
    rarest = min(set(numbers.tolist()), key=lambda z: (np.sum(numbers == z), z))
    anchor = start[np.flatnonzero(numbers == rarest)[0]]
    best: _Candidate | None = None
    for site in np.flatnonzero(relaxed.numbers == rarest):  # where the origins may lie on each other
        order = _assign(numbers, start, relaxed.numbers, end - (end[site] - anchor), relaxed.cell)
        found = _Candidate.of(initial, end[order], relaxed.cell, how)
        # the first origin leans on one atom: the assignment once more from where the others put it
        shift = np.mean(found.scaled - end[order] - np.round(found.scaled - end[order]), axis=0)
        again = _assign(numbers, start, relaxed.numbers, end + shift, relaxed.cell)
        for candidate in (found, _Candidate.of(initial, end[again], relaxed.cell, how)):
            if best is None or candidate.mean < best.mean:
                best = candidate
    return best


def _assign(
    numbers: np.ndarray, start: np.ndarray, other_numbers: np.ndarray, end: np.ndarray, cell: np.ndarray
) -> np.ndarray:
    """(N,) for each atom at ``start`` that at ``end`` which it becomes; squares of distances summed are least."""
    from scipy.optimize import linear_sum_assignment

    order = np.empty(len(numbers), dtype=int)
    for z in set(numbers.tolist()):
        here, there = np.flatnonzero(numbers == z), np.flatnonzero(other_numbers == z)
        difference = end[None, there] - start[here, None]
        distances = np.linalg.norm((difference - np.round(difference)) @ cell, axis=2)
        rows, columns = linear_sum_assignment(distances**2)
        order[here[rows]] = there[columns]
    return order


def _resettled(initial: Crystal, relaxed: Crystal) -> _Candidate | None:
    """The relaxed crystal in other lattice vectors: of those strained least, the ones in which atoms move least.

    Settings that need a reflection are tried where no other fits: crystals that are their own mirror images have them.
    """
    cells = [change @ relaxed.cell for change in _changes(initial, relaxed)]
    deformations = [np.linalg.solve(initial.cell, cell) for cell in cells]
    strains = np.array([np.abs(np.log(np.linalg.svd(d, compute_uv=False))).max() for d in deformations])
    proper = np.array([np.linalg.det(d) > 0 for d in deformations])
    for chosen in (proper, ~proper):
        fitting = chosen & (strains < _LARGE_STRAIN)
        if not fitting.any():
            continue
        nearest = np.flatnonzero(fitting & (strains < strains[fitting].min() + _AS_STRAINED))
        found = [
            _reordered(initial, Crystal(relaxed.numbers, relaxed.positions, cells[n]), HOW[2])
            for n in nearest[np.argsort(strains[nearest])][:_MOST_SETTINGS]
        ]
        best = min((c for c in found if c is not None), key=lambda c: c.mean, default=None)
        if best is not None and best.distance < _FAR:
            return best
    return None


def _changes(initial: Crystal, relaxed: Crystal) -> list[np.ndarray]:
    """Integer matrices (3, 3) that take the lattice vectors of the relaxed crystal to such like the unrelaxed one's."""
    from pymatgen.core import Lattice

    orders = [np.eye(3)[list(order)] for order in permutations(range(3))]
    changes = [order * np.array(signs)[:, None] for order in orders for signs in product((1, -1), repeat=3)]
    mappings = Lattice(relaxed.cell).find_all_mappings(
        Lattice(initial.cell), ltol=_LARGE_STRAIN, atol=15.0, skip_rotation_matrix=True
    )
    found = {tuple(np.round(change).astype(int).flatten()) for _, _, change in mappings}
    known = {tuple(change.astype(int).flatten()) for change in changes}
    return changes + [np.array(change).reshape(3, 3) for change in sorted(found - known)]


def _matched(initial: Crystal, found: _Candidate) -> Matched:
    """With the relaxed crystal turned back, by the polar decomposition of the deformation."""
    deformation = np.linalg.solve(initial.cell, found.cell)
    stretch = matrix_function(np.sqrt, deformation @ deformation.T)
    turn = np.linalg.solve(stretch, deformation)
    proper = turn * np.sign(np.linalg.det(turn))
    angle = float(np.arccos(np.clip((np.trace(proper) - 1) / 2, -1, 1)))
    mirrored = np.linalg.det(turn) < 0
    cell = initial.cell @ stretch if angle > _SMALL_TURN or mirrored else found.cell
    return Matched(
        initial.numbers, initial.scaled_positions, found.scaled, initial.cell, cell, found.how, angle if angle else 0.0
    )
