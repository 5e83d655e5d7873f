"""The relaxed crystal of a pair in the words of the unrelaxed one: the same atoms, lattice vectors and images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.data.assignment import Kinds, best_order, places_by_element
from deeprelax_ase.data.cells import lattice_changes, nearest_differences, reduced
from deeprelax_ase.errors import StructureError

#: Ways in which a pair was matched.
MATCH_KINDS = ("as given", "reordered", "other cell setting", "mirror image")

#: Displacements below this part of the distance between atoms, (V/N)^(1/3), leave no doubt about which atom is which.
_CLEAR = 0.4

#: Logarithmic strain and radians below which the lattice vectors are the same ones.
_SAME_STRAIN, _SAME_TURN = 0.35, 0.3

#: Other lattice vectors are tried where they are less strained than this.
_LARGE_STRAIN = 0.7

#: The given order and vectors stay unless others have less than this share of their cost.
_TRUST = 0.6

#: Cost beyond which the given order is not believed, and beyond which no other one is.
_FAR, _FAR_OTHERWISE = 1.5, 0.9

#: So many settings are tried at most, fewer where they take more distances between atoms than this.
_MOST_SETTINGS, _MOST_DISTANCES = 48, 300_000_000

#: Rotations (radians) below this are left: they may be what the relaxation did to the cell.
_SMALL_TURN = 1e-3


class MatchError(StructureError):
    """The two crystals of a pair are not the same atoms."""


@dataclass(frozen=True, eq=False)
class Matched:
    """A pair, atom by atom.

    Attributes:
        numbers: (N,) atomic numbers.
        fractional_initial, fractional_relaxed: (N, 3) fractional coordinates, not wrapped, no mean drift between them.
        cell_initial, cell_relaxed: (3, 3) Å; the second is a pure stretch of the first if it was turned at all.
        how: see :data:`MATCH_KINDS`.
        turned: radians by which the relaxed crystal was turned as a whole, besides mirroring.
    """

    numbers: np.ndarray
    fractional_initial: np.ndarray
    fractional_relaxed: np.ndarray
    cell_initial: np.ndarray
    cell_relaxed: np.ndarray
    how: str
    turned: float


def match(initial: Crystal, relaxed: Crystal, *, in_order: bool = False) -> Matched:
    """Map ``relaxed`` onto ``initial``.

    The given order and lattice vectors are kept where the atoms then hardly move. Otherwise atoms of an element are
    assigned so that they move least, in the given lattice vectors and in others that are strained little. The mapping
    of least cost is taken. The cost is the mean displacement, divided by the distance between atoms, plus the strain. A
    relaxed crystal that is turned as a whole is turned back; a mirror image is taken where nothing else fits.

    Args:
        initial: the unrelaxed crystal.
        relaxed: the relaxed one.
        in_order: they are frames of one relaxation, so that order and lattice vectors are right however far atoms go.

    Raises:
        MatchError: they differ in composition or in the size of the cell, or no mapping is near enough.
    """
    _check_composition(initial, relaxed)
    fractional = relaxed.fractional_positions
    same_order = np.array_equal(initial.numbers, relaxed.numbers)
    given = _Candidate.of(initial, fractional, relaxed.cell, MATCH_KINDS[0]) if same_order else None
    if given is not None and (in_order or given.clear):
        return _matched(initial, given)
    search = _Search.of(initial, relaxed)
    best = search.candidate(np.eye(3, dtype=int), MATCH_KINDS[1])
    if not best.clear:
        limit = min(best.cost, _TRUST * given.cost) if given is not None else best.cost
        best = min((best, *search.settings(limit)), key=lambda c: (c.mirrored, round(c.cost, 6)))
    if given is not None and _TRUST * given.cost <= best.cost:
        best = given
    if best.cost > (_FAR if best is given else _FAR_OTHERWISE):
        raise MatchError(
            f"no mapping of the {len(initial)} atoms of the relaxed crystal onto the unrelaxed ones moves them by less "
            "than the distance between atoms: these are two different crystals, or in cells that differ too much. Give "
            "both in the same setting, or leave the pair out."
        )
    return _matched(initial, best)


@dataclass(frozen=True, eq=False)
class _Candidate:
    """One mapping: fractional coordinates nearest to the unrelaxed ones, and how far that is.

    Attributes:
        stretch, turn: (3, 3), the polar factors of the deformation: ``cell = initial_cell @ stretch @ turn``.
        strain: largest logarithmic stretch.
        largest, mean: displacements over (V/N)^(1/3).
    """

    fractional: np.ndarray
    cell: np.ndarray
    how: str
    stretch: np.ndarray
    turn: np.ndarray
    strain: float
    largest: float
    mean: float

    @classmethod
    def of(cls, initial: Crystal, fractional: np.ndarray, cell: np.ndarray, how: str) -> _Candidate:
        difference = nearest_differences(fractional - initial.fractional_positions, cell)
        moved = np.linalg.norm(difference @ cell, axis=1) / _spacing(cell, len(fractional))
        left, stretches, right = np.linalg.svd(np.linalg.solve(initial.cell, cell))
        turn = left @ right
        return cls(
            fractional=initial.fractional_positions + difference,
            cell=cell,
            how=how if np.linalg.det(turn) > 0 else MATCH_KINDS[3],
            stretch=(left * stretches) @ left.T,
            turn=turn,
            strain=float(np.abs(np.log(stretches)).max()),
            largest=float(moved.max()),
            mean=float(moved.mean()),
        )

    @property
    def cost(self) -> float:
        """Number by which mappings are compared."""
        return self.mean + self.strain

    @property
    def mirrored(self) -> bool:
        return self.how == MATCH_KINDS[3]

    @cached_property
    def angle(self) -> float:
        """Radians by which the relaxed crystal is turned, besides mirroring."""
        proper = -self.turn if self.mirrored else self.turn
        sine = np.linalg.norm(proper - proper.T) / np.sqrt(8)  # near 0 the cosine has no digits left
        return float(np.arctan2(sine, (np.trace(proper) - 1) / 2))

    @property
    def clear(self) -> bool:
        """Whether another mapping need not be searched for."""
        return self.largest < _CLEAR and self.strain < _SAME_STRAIN and self.angle < _SAME_TURN and not self.mirrored


def _spacing(cell: np.ndarray, atoms: int) -> float:
    """Å, the usual distance between atoms."""
    return float((abs(np.linalg.det(cell)) / atoms) ** (1 / 3))


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


@dataclass(frozen=True, eq=False)
class _Search:
    """Orders of the atoms in one choice of lattice vectors after the other.

    Attributes:
        initial, relaxed: the two crystals.
        vectors: (3, 3) Å, the reduced lattice vectors of the relaxed one, the same in every setting.
        inverse: (3, 3), from coordinates in its given vectors to such in the reduced ones.
        kinds: for each element the places of its atoms in the one and in the other.
    """

    initial: Crystal
    relaxed: Crystal
    vectors: np.ndarray
    inverse: np.ndarray
    kinds: Kinds

    @classmethod
    def of(cls, initial: Crystal, relaxed: Crystal) -> _Search:
        vectors, change = reduced(relaxed.cell)
        kinds = places_by_element(initial.numbers, relaxed.numbers)
        return cls(initial, relaxed, vectors, np.linalg.inv(change), kinds)

    def candidate(self, change: np.ndarray, how: str) -> _Candidate:
        """The best order in the lattice vectors ``change @ relaxed.cell``."""
        return self._candidate(change, self.best_order(change)[0], how)

    def settings(self, limit: float) -> Iterator[_Candidate]:
        """Ever better ones in other lattice vectors that cost less than ``limit``, those first that are strained least.

        A mirror image is only looked for where no proper mapping is near.
        """
        changes, strains = lattice_changes(self.initial.cell, self.relaxed.cell, min(_LARGE_STRAIN, limit))
        flips = np.linalg.det(changes) * np.linalg.det(self.relaxed.cell) * np.linalg.det(self.initial.cell) < 0
        sites = min(len(here) for here, _ in self.kinds)
        most = int(np.clip(_MOST_DISTANCES / (sites * len(self.initial) ** 2), 1, _MOST_SETTINGS))
        for mirrored in (False, True):
            if mirrored and limit < _FAR_OTHERWISE:
                return
            chosen = np.flatnonzero(flips == mirrored)[:most]
            for change, strain in zip(changes[chosen], strains[chosen], strict=True):
                if strain >= limit:  # not even if no atom moved
                    break
                order, mean = self.best_order(change)
                if mean + strain < limit:
                    limit = mean + strain
                    yield self._candidate(change, order, MATCH_KINDS[2])

    def best_order(self, change: np.ndarray) -> tuple[np.ndarray, float]:
        """(N,) the order in these lattice vectors, and the mean displacement over the distance between atoms."""
        start, end = (
            self.initial.fractional_positions @ change @ self.inverse,
            self.relaxed.fractional_positions @ self.inverse,
        )
        order, mean = best_order(start, end, self.kinds, self.vectors)
        return order, mean / _spacing(self.vectors, len(end))

    def _candidate(self, change: np.ndarray, order: np.ndarray, how: str) -> _Candidate:
        fractional = self.relaxed.fractional_positions[order] @ np.linalg.inv(change)
        return _Candidate.of(self.initial, fractional, change @ self.relaxed.cell, how)


def _matched(initial: Crystal, found: _Candidate) -> Matched:
    """Make the record of the match, with the relaxed crystal turned back."""
    turned = found.angle > _SMALL_TURN or found.mirrored
    cell = initial.cell @ found.stretch if turned else found.cell
    return Matched(
        initial.numbers, initial.fractional_positions, found.fractional, initial.cell, cell, found.how, found.angle
    )
