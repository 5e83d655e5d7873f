"""Hypothetical crystals to relax, made from known ones: substituted, strained, with shared sites or defects, and cut.

The same seed makes the same candidates, each from its own stream of random numbers: they may be made in parallel.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count as count_up
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.labelling.lattice import Lattice, layers_of, slab, supercell
from deeprelax_ase.labelling.similarity import Substitutes, is_anion

#: Kinds of candidates, and their shares if nothing else is asked for; those of which no source can be made give way.
SHARES = {
    "substituted": 0.2, "strained": 0.18, "shared": 0.14, "ionic": 0.14, "defect": 0.12, "slab": 0.08, "layer": 0.08,
    "rattled": 0.06,
}  # fmt: skip

#: Draws of elements that are looked through for a chemical system that may be made.
_DRAWS = 96

#: Sources and draws that are tried for one candidate, and Å below which two atoms are taken as one.
_TRIES, _NEAREST = 50, 0.8

#: Share of the layers that stay as they were in their crystal.
_AS_CUT = 0.3

#: |ln| of the volume that the elements say over the volume that a bulk crystal has, at most.
_VOLUME = 0.6


class Candidate(NamedTuple):
    """A crystal to relax.

    Attributes:
        crystal: it.
        source: place of the crystal that it was made from.
        kind: of :attr:`CandidateSettings.shares`.
    """

    crystal: Crystal
    source: int
    kind: str


@dataclass(frozen=True)
class CandidateSettings:
    """Settings of the candidates to make.

    Attributes:
        shares: of each kind: ``substituted`` (alike elements, the lattice kept), ``strained`` (substituted, scaled,
            strained and rattled), ``shared`` (a site shared by two elements), ``ionic`` (as one of these, anions for
            anions), ``defect`` (a vacancy or dopants in a supercell), ``slab`` (cut of a crystal, with vacuum),
            ``layer`` (one of a layered crystal, as it is or with alike elements and rattled), ``rattled`` (the source
            itself, strained and rattled). Slabs and layers repeat in two directions.
        most_atoms: of a candidate.
        supercell: atoms that supercells with shared sites and defects have, about.
        strain: largest standard deviation of the components of strain.
        rattle: Å, largest standard deviation of displacements.
        vacuum: Å above slabs and layers.

    Raises:
        ValueError: a strain or length is negative, or no number.
    """

    shares: Mapping[str, float] = field(default_factory=lambda: dict(SHARES))
    most_atoms: int = 48
    supercell: int = 24
    strain: float = 0.03
    rattle: float = 0.12
    vacuum: float = 15.0

    def __post_init__(self) -> None:
        for name in ("strain", "rattle", "vacuum"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} must be a finite number, 0 or more")


def candidate_tries(
    sources: Sequence[Crystal],
    *,
    seed: int = 0,
    systems: Collection[frozenset[int]] | None = None,
    elements: Collection[int] | None = None,
    settings: CandidateSettings | None = None,
) -> Iterator[Candidate | None]:
    """Candidates without an end, None where trying failed.

    For arguments and errors see :func:`~deeprelax_ase.labelling.distinct_candidates`, which asks for them.
    """
    if systems is not None and elements is not None:
        raise ValueError("systems and elements both say what may be made: give one of them")
    maker = _Maker(sources, _Systems.of(sources, systems, elements), settings or CandidateSettings())
    for k in count_up():
        yield maker.make(np.random.default_rng([seed, k]))


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


def _of_all_elements(volumes: NDArray[np.float64]) -> NDArray[np.float64]:
    """``volumes`` (Z,) with those of the elements that no source holds, by their covalent radii."""
    from ase.data import covalent_radii

    spheres = covalent_radii[: len(volumes)] ** 3
    known = volumes > 0
    return np.where(known, volumes, spheres * np.median(volumes[known] / spheres[known]))


class _Systems(NamedTuple):
    """Chemical systems that may be made: those listed, or all of some elements where there is no list."""

    elements: frozenset[int]
    listed: frozenset[frozenset[int]] | None

    @classmethod
    def of(
        cls,
        sources: Sequence[Crystal],
        systems: Collection[frozenset[int]] | None,
        elements: Collection[int] | None,
    ) -> _Systems:
        if not len(sources):
            raise ValueError("no sources to make candidates of")
        if systems is not None and not len(systems):
            raise ValueError("systems holds no chemical system that may be made; leave it out for those of the sources")
        if elements is not None:
            return cls(frozenset(elements), None)
        given = {frozenset(c.numbers.tolist()) for c in sources} if systems is None else systems
        return cls(frozenset().union(*given), frozenset(given))

    def allow(self, system: frozenset[int]) -> bool:
        return system <= self.elements if self.listed is None else system in self.listed


class _Maker:
    def __init__(self, sources: Sequence[Crystal], systems: _Systems, settings: CandidateSettings) -> None:
        if unknown := set(settings.shares) - set(SHARES):
            known = ", ".join(SHARES)
            raise ValueError(f"unknown kinds of candidates: {', '.join(sorted(unknown))}; known are {known}")
        if min(settings.shares.values(), default=0.0) < 0 or not sum(settings.shares.values()) > 0:
            raise ValueError(f"shares={dict(settings.shares)} must be positive or zero, and one of them positive")
        self.sources, self.settings, self.systems = sources, settings, systems
        elements = np.array(sorted(systems.elements))
        self.substitutes = {ionic: Substitutes(elements, ionic=ionic) for ionic in (False, True)}
        self.volumes = _of_all_elements(atomic_volumes([c for c in sources if c.pbc.all()] or sources))
        shares = np.array(list(settings.shares.values()), float)
        self.kinds, self.shares = list(settings.shares), shares / shares.sum()
        self._layers: dict[int, list[Lattice]] = {}

    def make(self, rng: np.random.Generator) -> Candidate | None:
        kind = self.kinds[rng.choice(len(self.kinds), p=self.shares)]
        for _ in range(_TRIES):
            source = int(rng.integers(len(self.sources)))
            start = self._start(kind, source, rng)
            made = None if start is None else getattr(self, f"_{kind}")(rng, start)
            if made is not None and self._sound(made):
                return Candidate(made.made(), source, kind)
        return None

    def _start(self, kind: str, source: int, rng: np.random.Generator) -> Lattice | None:
        """The lattice that a candidate of that kind is made of; None where the source is not of the right sort."""
        crystal = self.sources[source]
        if kind != "layer":
            return Lattice.of(crystal) if crystal.pbc.all() else None
        if source not in self._layers:
            self._layers[source] = layers_of(crystal, self.settings.vacuum)
        layers = self._layers[source]
        return layers[rng.integers(len(layers))] if layers else None

    def _sound(self, made: Lattice) -> bool:
        if not 0 < len(made.numbers) <= self.settings.most_atoms:
            return False
        if not self.systems.allow(frozenset(made.numbers.tolist())):
            return False
        volume, expected = abs(np.linalg.det(made.cell)), self.volumes[made.numbers].sum()
        if made.is_bulk and (expected == 0 or abs(np.log(expected / volume)) > _VOLUME):
            return False
        apart = made.fractional[:, None] - made.fractional
        distances = np.linalg.norm((apart - np.round(apart)) @ made.cell, axis=-1)
        return bool((distances[~np.eye(len(distances), dtype=bool)] > _NEAREST).all())

    def _substituted(self, rng: np.random.Generator, start: Lattice, *, ionic: bool = False) -> Lattice | None:
        elements, sites = np.unique(start.numbers, return_inverse=True)
        drawn = self._allowed(self.substitutes[ionic].draw(rng, np.tile(elements, (_DRAWS, 1))))
        return None if drawn is None else start._replace(numbers=drawn[sites])

    def _strained(self, rng: np.random.Generator, start: Lattice, *, ionic: bool = False) -> Lattice | None:
        made = self._substituted(rng, start, ionic=ionic)
        return None if made is None else self._disturbed(rng, self._scaled(rng, start, made))

    def _shared(self, rng: np.random.Generator, start: Lattice, *, ionic: bool = False) -> Lattice | None:
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

    def _ionic(self, rng: np.random.Generator, start: Lattice) -> Lattice | None:
        if len(set(is_anion(start.numbers))) < 2:
            return None
        return (self._shared if rng.random() < 0.5 else self._strained)(rng, start, ionic=True)

    def _defect(self, rng: np.random.Generator, start: Lattice) -> Lattice | None:
        start = supercell(rng, start, self.settings.supercell)
        site = rng.integers(len(start.numbers))
        alike = np.flatnonzero(start.numbers == start.numbers[site])
        if len(alike) < 2:
            return None
        if rng.random() < 0.5:
            kept = np.arange(len(start.numbers)) != site
            return start._replace(numbers=start.numbers[kept], fractional=start.fractional[kept])
        elements = np.unique(start.numbers)
        dopants = self.substitutes[rng.random() < 0.5].draw(rng, np.full((_DRAWS, 1), start.numbers[site]))
        drawn = self._allowed(np.concatenate([np.tile(elements, (_DRAWS, 1)), dopants], axis=1))
        if drawn is None:
            return None
        numbers = start.numbers.copy()
        numbers[rng.permutation(alike)[: 1 + (len(alike) > 2 and rng.random() < 0.4)]] = drawn[-1]
        return start._replace(numbers=numbers)

    def _slab(self, rng: np.random.Generator, start: Lattice) -> Lattice | None:
        return slab(rng, start, self.settings.supercell, self.settings.vacuum)

    def _layer(self, rng: np.random.Generator, start: Lattice) -> Lattice | None:
        if rng.random() < _AS_CUT:
            return start
        made = self._substituted(rng, start, ionic=rng.random() < 0.5)
        return None if made is None else self._disturbed(rng, self._scaled(rng, start, made))

    def _rattled(self, rng: np.random.Generator, start: Lattice) -> Lattice | None:
        return self._disturbed(rng, start)

    def _allowed(self, drawn: NDArray[np.integer]) -> NDArray[np.integer] | None:
        """The first of some draws (T, k) whose elements are distinct and make a system that may be made."""
        for row in drawn:
            system = frozenset(row.tolist())
            if len(system) == len(row) and self.systems.allow(system):
                return row
        return None

    def _scaled(self, rng: np.random.Generator, start: Lattice, made: Lattice) -> Lattice:
        """``made`` with more or less the volume that its elements say; layers are scaled in their plane."""
        old, new = self.volumes[start.numbers].sum(), self.volumes[made.numbers].sum()
        if not old or not new:
            return made
        ratio = (new / old) ** rng.choice([0.25, 0.5, 0.75, 1.0]) * np.exp(rng.normal(0, 0.17))
        return made._replace(cell=made.cell * np.where(made.pbc, ratio ** (1 / 3), 1.0)[:, None])

    def _disturbed(self, rng: np.random.Generator, made: Lattice) -> Lattice:
        noise = rng.normal(0, rng.uniform(0, self.settings.strain), (3, 3))
        strain = (noise + noise.T) / 2 * np.outer(made.pbc, made.pbc)  # the normal of a layer is z
        cell = made.cell @ (np.eye(3) + strain)
        moves = rng.normal(0, rng.uniform(0, self.settings.rattle), made.fractional.shape)
        return made._replace(fractional=made.fractional + moves @ np.linalg.inv(cell), cell=cell)
