"""Hypothetical crystals to relax, made from known ones: substituted, strained, with shared sites or defects, and slabs.

The same seed makes the same candidates, each from its own stream of random numbers: they may be made in parallel.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.labelling.similarity import Substitutes, is_anion

#: Draws of elements that are looked through for a chemical system that may be made.
_DRAWS = 96

#: Sources and draws that are tried for one candidate, and Å below which two atoms are taken as one.
_TRIES, _NEAREST = 50, 0.8

#: |ln| of the volume that the elements say over the volume that a bulk crystal has, at most.
_VOLUME = 0.6


class Candidate(NamedTuple):
    """A crystal to relax.

    Attributes:
        crystal: it.
        source: place of the crystal that it was made from.
        kind: of :attr:`CandidateSettings.shares`.
        keeps_cell: its cell is to be kept while it relaxes, as that of a slab.
    """

    crystal: Crystal
    source: int
    kind: str
    keeps_cell: bool


@dataclass(frozen=True)
class CandidateSettings:
    """Settings of the candidates to make.

    Attributes:
        shares: of each kind: ``substituted`` (alike elements, the lattice kept), ``strained`` (substituted, scaled,
            strained and rattled), ``shared`` (a site shared by two elements), ``ionic`` (as one of these, anions for
            anions), ``defect`` (a vacancy or dopants in a supercell), ``slab`` (with vacuum, its cell kept).
        most_atoms: of a candidate.
        supercell: atoms that supercells with shared sites and defects have, about.
        strain: largest standard deviation of the components of strain.
        rattle: Å, largest standard deviation of displacements.
        vacuum: Å above a slab.
    """

    shares: Mapping[str, float] = field(
        default_factory=lambda: {
            "substituted": 0.22, "strained": 0.2, "shared": 0.16, "ionic": 0.16, "defect": 0.16, "slab": 0.1
        }
    )  # fmt: skip
    most_atoms: int = 48
    supercell: int = 24
    strain: float = 0.03
    rattle: float = 0.12
    vacuum: float = 15.0


def make_candidates(
    sources: Sequence[Crystal],
    count: int,
    *,
    seed: int = 0,
    systems: Collection[frozenset[int]] | None = None,
    settings: CandidateSettings | None = None,
) -> Iterator[Candidate]:
    """Up to ``count`` candidates from ``sources``, relaxed crystals: fewer where trying fails.

    Args:
        sources: crystals at rest, of at most 94 as the largest atomic number.
        count: of candidates that are tried.
        seed: of all random numbers.
        systems: sets of atomic numbers that may be made; those of the sources by default. No other is ever made, so
            that what is held out stays so.
        settings: kinds and sizes.

    Raises:
        ValueError: no sources or no systems are given, an element is beyond 94, or a share is negative, of no kind that
            is known, or all of them are zero.
    """
    maker = _Maker(sources, systems, settings or CandidateSettings())
    for k in range(count):
        made = maker.make(np.random.default_rng([seed, k]))
        if made is not None:
            yield made


def atomic_volumes(crystals: Sequence[Crystal]) -> NDArray[np.float64]:
    """(Z,) Å³ by atomic number, what an atom of each element adds to the volume of ``crystals``: a least-squares fit.

    Zero where an element does not occur.
    """
    counts = np.stack([np.bincount(c.numbers, minlength=119) for c in crystals]) / [[len(c)] for c in crystals]
    volumes = np.array([c.volume / len(c) for c in crystals])
    mean = volumes.mean()
    fitted = (
        mean
        + np.linalg.lstsq(
            np.concatenate([counts, 0.1 * np.eye(counts.shape[1])]),
            np.concatenate([volumes - mean, np.zeros(counts.shape[1])]),
        )[0]
    )
    return np.where(counts.any(axis=0), np.maximum(fitted, 0.1 * mean), 0.0)


class _Lattice(NamedTuple):
    """A crystal in the making: numbers (N,), fractional coordinates (N, 3), lattice vectors (3, 3) in rows, Å."""

    numbers: NDArray[np.integer]
    fractional: NDArray[np.float64]
    cell: NDArray[np.float64]


class _Maker:
    def __init__(
        self, sources: Sequence[Crystal], systems: Collection[frozenset[int]] | None, settings: CandidateSettings
    ) -> None:
        if not len(sources):
            raise ValueError("no sources to make candidates of")
        if unknown := set(settings.shares) - {"substituted", "strained", "shared", "ionic", "defect", "slab"}:
            raise ValueError(f"unknown kinds of candidates: {', '.join(sorted(unknown))}")
        if min(settings.shares.values(), default=0.0) < 0 or not sum(settings.shares.values()) > 0:
            raise ValueError(f"shares={dict(settings.shares)} must be positive or zero, and one of them positive")
        if systems is not None and not len(systems):
            raise ValueError("systems holds no chemical system that may be made; leave it out for those of the sources")
        self.sources, self.settings = sources, settings
        self.systems = {frozenset(c.numbers.tolist()) for c in sources} if systems is None else set(systems)
        elements = np.array(sorted(set().union(*self.systems)))
        self.volumes = atomic_volumes(sources)
        self.substitutes = {ionic: Substitutes(elements, ionic=ionic) for ionic in (False, True)}
        shares = np.array(list(settings.shares.values()), float)
        self.kinds, self.shares = list(settings.shares), shares / shares.sum()

    def make(self, rng: np.random.Generator) -> Candidate | None:
        kind = self.kinds[rng.choice(len(self.kinds), p=self.shares)]
        for _ in range(_TRIES):
            source = int(rng.integers(len(self.sources)))
            crystal = self.sources[source]
            start = _Lattice(crystal.numbers, crystal.fractional_positions, crystal.cell)
            made = getattr(self, f"_{kind}")(rng, start)
            if made is not None and self._sound(made, bulk=kind != "slab"):
                crystal = Crystal(made.numbers, made.fractional @ made.cell, made.cell)
                return Candidate(crystal, source, kind, kind == "slab")
        return None

    def _sound(self, made: _Lattice, *, bulk: bool) -> bool:
        if not 0 < len(made.numbers) <= self.settings.most_atoms:
            return False
        if frozenset(made.numbers.tolist()) not in self.systems:
            return False
        volume, expected = abs(np.linalg.det(made.cell)), self.volumes[made.numbers].sum()
        if bulk and (expected == 0 or abs(np.log(expected / volume)) > _VOLUME):
            return False
        apart = made.fractional[:, None] - made.fractional
        distances = np.linalg.norm((apart - np.round(apart)) @ made.cell, axis=-1)
        return bool((distances[~np.eye(len(distances), dtype=bool)] > _NEAREST).all())

    def _substituted(self, rng: np.random.Generator, start: _Lattice, *, ionic: bool = False) -> _Lattice | None:
        elements, sites = np.unique(start.numbers, return_inverse=True)
        drawn = self._allowed(self.substitutes[ionic].draw(rng, np.tile(elements, (_DRAWS, 1))))
        return None if drawn is None else start._replace(numbers=drawn[sites])

    def _strained(self, rng: np.random.Generator, start: _Lattice, *, ionic: bool = False) -> _Lattice | None:
        made = self._substituted(rng, start, ionic=ionic)
        return None if made is None else self._disturbed(rng, self._scaled(rng, start, made))

    def _shared(self, rng: np.random.Generator, start: _Lattice, *, ionic: bool = False) -> _Lattice | None:
        start = supercell(rng, start, self.settings.supercell)
        elements, sites = np.unique(start.numbers, return_inverse=True)
        shareable = np.flatnonzero((np.bincount(sites) > 1) & ~(ionic & is_anion(elements)))
        if not len(shareable):
            return None
        shared = shareable[rng.integers(len(shareable))]
        drawn = self._allowed(
            self.substitutes[ionic].draw(rng, np.tile(np.append(elements, elements[shared]), (_DRAWS, 1)))
        )
        if drawn is None:
            return None
        numbers = drawn[sites]
        places = rng.permutation(np.flatnonzero(sites == shared))
        numbers[places[: rng.integers(1, len(places))]] = drawn[-1]
        made = start._replace(numbers=numbers)
        return self._disturbed(rng, self._scaled(rng, start, made)) if rng.random() < 0.5 else made

    def _ionic(self, rng: np.random.Generator, start: _Lattice) -> _Lattice | None:
        if len(set(is_anion(start.numbers))) < 2:
            return None
        return (self._shared if rng.random() < 0.5 else self._strained)(rng, start, ionic=True)

    def _defect(self, rng: np.random.Generator, start: _Lattice) -> _Lattice | None:
        start = supercell(rng, start, self.settings.supercell)
        site = rng.integers(len(start.numbers))
        alike = np.flatnonzero(start.numbers == start.numbers[site])
        if len(alike) < 2:
            return None
        if rng.random() < 0.5:
            kept = np.arange(len(start.numbers)) != site
            return _Lattice(start.numbers[kept], start.fractional[kept], start.cell)
        elements = np.unique(start.numbers)
        dopants = self.substitutes[rng.random() < 0.5].draw(rng, np.full((_DRAWS, 1), start.numbers[site]))
        drawn = self._allowed(np.concatenate([np.tile(elements, (_DRAWS, 1)), dopants], axis=1))
        if drawn is None:
            return None
        numbers = start.numbers.copy()
        numbers[rng.permutation(alike)[: 1 + (len(alike) > 2 and rng.random() < 0.4)]] = drawn[-1]
        return start._replace(numbers=numbers)

    def _slab(self, rng: np.random.Generator, start: _Lattice) -> _Lattice | None:
        turn = rng.integers(3)
        cell, fractional = np.roll(start.cell, turn, axis=0), np.roll(start.fractional, turn, axis=1)
        fractional = (fractional - [0, 0, rng.random()]) % 1.0
        layers = max(1, self.settings.supercell // len(start.numbers))
        thick = repeated(_Lattice(start.numbers, fractional, cell), (1, 1, layers))
        normal = np.cross(cell[0], cell[1])
        normal = normal / np.linalg.norm(normal) * np.sign(normal @ cell[2])
        positions = thick.fractional @ thick.cell
        heights = positions @ normal
        slab = np.array([cell[0], cell[1], normal * (np.ptp(heights) + self.settings.vacuum)])
        middle = positions + (np.linalg.norm(slab[2]) / 2 - (heights.max() + heights.min()) / 2) * normal
        return _Lattice(thick.numbers, middle @ np.linalg.inv(slab), slab)

    def _allowed(self, drawn: NDArray[np.integer]) -> NDArray[np.integer] | None:
        """The first of some draws (T, k) whose elements are distinct and make a system that may be made."""
        for row in drawn:
            system = frozenset(row.tolist())
            if len(system) == len(row) and system in self.systems:
                return row
        return None

    def _scaled(self, rng: np.random.Generator, start: _Lattice, made: _Lattice) -> _Lattice:
        """``made`` with more or less the volume that its elements say."""
        old, new = self.volumes[start.numbers].sum(), self.volumes[made.numbers].sum()
        if not old or not new:
            return made
        ratio = (new / old) ** rng.choice([0.25, 0.5, 0.75, 1.0]) * np.exp(rng.normal(0, 0.17))
        return made._replace(cell=made.cell * ratio ** (1 / 3))

    def _disturbed(self, rng: np.random.Generator, made: _Lattice) -> _Lattice:
        noise = rng.normal(0, rng.uniform(0, self.settings.strain), (3, 3))
        cell = made.cell @ (np.eye(3) + (noise + noise.T) / 2)
        moves = rng.normal(0, rng.uniform(0, self.settings.rattle), made.fractional.shape)
        return _Lattice(made.numbers, made.fractional + moves @ np.linalg.inv(cell), cell)


def repeated(start: _Lattice, times: Sequence[int]) -> _Lattice:
    """``start`` repeated along its three lattice vectors."""
    shifts = np.stack(np.meshgrid(*map(np.arange, times), indexing="ij"), axis=-1).reshape(-1, 1, 3)
    fractional = ((start.fractional + shifts) / np.array(times)).reshape(-1, 3)
    return _Lattice(np.tile(start.numbers, len(shifts)), fractional, start.cell * np.array(times)[:, None])


def supercell(rng: np.random.Generator, start: _Lattice, atoms: int) -> _Lattice:
    """A supercell of at most about ``atoms``, as even as chance lets it be."""
    times = np.ones(3, int)
    lengths = np.linalg.norm(start.cell, axis=1)
    while len(start.numbers) * times.prod() * 2 <= atoms:
        times[np.argmin(lengths * times + rng.uniform(0, 1.5, 3))] += 1
    return repeated(start, times.tolist())
