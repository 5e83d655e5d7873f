"""Energies and relaxations of many crystals under a potential, kept in a folder so that they are made once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deeprelax_ase import Crystal
from deeprelax_ase.calculators import get_batched
from deeprelax_ase.evaluation.cached_predictions import Columns, crystal_key, kept_rows
from deeprelax_ase.labelling.relaxer import evaluated
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

    def made(places: list[int]) -> Columns:
        some = [crystals[n] for n in places]
        found = zip(some, evaluated(some, get_batched(potential)), strict=True)
        energies = [np.nan if isinstance(f, Exception) else f.energy / len(c) for c, f in found]
        return {"energies": [np.array([energy]) for energy in energies]}

    keys = [crystal_key(crystal, potential) for crystal in crystals]
    return np.concatenate(kept_rows(cache and cache / "energies.npz", keys, made)["energies"])


def relaxed_under(
    potential: str,
    crystals: Sequence[Crystal],
    strains: Sequence[AllowedStrain | None],
    cache: Path | None = None,
    *,
    fmax: float = FMAX,
    steps: int = STEPS,
) -> Ends:
    """FIRE in batches from n ``crystals``.

    Args:
        potential: as ``get_batched`` takes it.
        crystals: n of them.
        strains: what each cell may do; None where it is kept.
        cache: folder to keep where they end in.
        fmax: eV/Å, where it ends.
        steps: at most.
    """

    def made(places: list[int]) -> Columns:
        some = [(crystals[n], strains[n]) for n in places]
        starts = [BatchedStart(c.numbers, c.positions, c.cell, strain) for c, strain in some]
        found = dict(relax_in_batches(starts, get_batched(potential), fmax=fmax, steps=steps))
        return ends_of_batches([found[k] for k in range(len(starts))])

    keys = [crystal_key(c, potential, fmax, steps, strain) for c, strain in zip(crystals, strains, strict=True)]
    rows = kept_rows(cache and cache / "relaxed.npz", keys, made)
    return Ends(**{name: np.concatenate(part) for name, part in rows.items()})


def ends_of_batches(found: Sequence[BatchedEnd]) -> Columns:
    """The fields of :class:`Ends`, a row for each crystal."""
    energies = [np.nan if end.results is None else end.results.energy / len(end.positions) for end in found]
    return {
        "positions": [end.positions for end in found],
        "cells": [end.cell[None] for end in found],
        "energies": [np.array([energy]) for energy in energies],
        "calls": [np.array([end.calls]) for end in found],
        "converged": [np.array([end.converged]) for end in found],
    }
