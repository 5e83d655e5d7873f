"""Energies and relaxations of many crystals under a potential, kept in a file so that they are made once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deeprelax_ase import Crystal
from deeprelax_ase.calculators import get_batched
from deeprelax_ase.labelling.relaxation import evaluated
from deeprelax_ase.optimizers import BatchedEnd, BatchedStart, relax_in_batches
from deeprelax_ase.prediction.allowed_strain import AllowedStrain

#: Of the relaxations that made the labels of the pairs: eV/Å, and steps at most.
FMAX, STEPS = 0.03, 180


@dataclass(frozen=True, eq=False)
class Ends:
    """Where n relaxations end.

    Attributes:
        positions: (N, 3) Å; where it failed, where the potential did.
        cells: (n, 3, 3) Å.
        energies: (n,) eV/atom; NaN where it failed.
        calls: (n,) of the potential.
        converged: (n,) bool.
    """

    positions: np.ndarray
    cells: np.ndarray
    energies: np.ndarray
    calls: np.ndarray
    converged: np.ndarray

    def crystals(self, starts: Sequence[Crystal]) -> list[Crystal]:
        """The crystals that ``starts`` have become."""
        split = np.split(self.positions, np.cumsum([len(start) for start in starts])[:-1])
        return [start.with_geometry(*end) for start, *end in zip(starts, split, self.cells, strict=True)]


def energies_under(potential: str, crystals: Sequence[Crystal], cache: Path | None = None) -> np.ndarray:
    """Energies (n,) in eV/atom; NaN where the potential fails. ``potential`` as ``get_batched`` takes it."""

    def measure() -> dict[str, np.ndarray]:
        found = zip(crystals, evaluated(crystals, get_batched(potential)), strict=True)
        return {"energies": np.array([np.nan if isinstance(f, Exception) else f.energy / len(c) for c, f in found])}

    return _kept(cache, f"{potential} {_digest(crystals)}", measure)["energies"]


def relaxed_under(
    potential: str,
    crystals: Sequence[Crystal],
    strains: Sequence[AllowedStrain | None],
    cache: Path | None = None,
    *,
    steps: int = STEPS,
) -> Ends:
    """FIRE in batches from n ``crystals`` to :data:`FMAX`.

    Args:
        potential: as ``get_batched`` takes it.
        crystals: n of them.
        strains: what each cell may do; None where it is kept.
        cache: file.
        steps: at most.
    """

    def measure() -> dict[str, np.ndarray]:
        starts = [BatchedStart(c.numbers, c.positions, c.cell, s) for c, s in zip(crystals, strains, strict=True)]
        found = dict(relax_in_batches(starts, get_batched(potential), fmax=FMAX, steps=steps))
        return ends_of_batches([found[k] for k in range(len(starts))])

    key = f"{potential} {FMAX} {steps} {_digest(crystals, strains)}"
    return Ends(**_kept(cache, key, measure))


def ends_of_batches(found: Sequence[BatchedEnd]) -> dict[str, np.ndarray]:
    """The fields of :class:`Ends`."""
    energies = [np.nan if end.results is None else end.results.energy / len(end.positions) for end in found]
    return {
        "positions": np.concatenate([end.positions for end in found]),
        "cells": np.stack([end.cell for end in found]),
        "energies": np.array(energies),
        "calls": np.array([end.calls for end in found]),
        "converged": np.array([end.converged for end in found]),
    }


def _digest(crystals: Sequence[Crystal], strains: Sequence[AllowedStrain | None] = ()) -> str:
    digest = hashlib.sha256(str(list(strains)).encode())
    for crystal in crystals:
        for values in (crystal.numbers, crystal.positions, crystal.cell):
            digest.update(values.tobytes())
    return digest.hexdigest()


def _kept(cache: Path | None, key: str, measure: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays in ``cache``, made and written where it does not hold those of ``key``."""
    if cache is not None and cache.exists():
        with np.load(cache) as file:
            if str(file["key"]) == key:
                return {name: file[name] for name in file.files if name != "key"}
    arrays = measure()
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(cache, key=np.array(key), allow_pickle=False, **arrays)
    return arrays
