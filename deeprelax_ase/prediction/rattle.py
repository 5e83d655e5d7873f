"""Starts that are rattled: symmetry holds a crystal at a saddle point, and a small push lets it go."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
from ase import Atoms

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.prediction.result import RelaxationResult


def rattled(atoms: Atoms, width: float, seed: int = 0) -> Atoms:
    """A copy of ``atoms``, displaced at random as far as their constraints let them; the cell stays.

    The same elements in the same order are displaced in the same way, wherever they come from.

    Args:
        atoms: are not changed.
        width: Å, standard deviation of each coordinate; 0 for none.
        seed: of the random numbers.
    """
    moved = atoms.copy()
    if width:
        rng = np.random.default_rng([seed, zlib.crc32(atoms.numbers.astype("<i8").tobytes())])
        moved.set_positions(atoms.positions + rng.normal(scale=width, size=(len(atoms), 3)))
    return moved


def rattled_crystal(crystal: Crystal, width: float, seed: int = 0) -> Crystal:
    """The same of a ``crystal``."""
    if not width:
        return crystal
    return crystal.with_geometry(rattled(crystal.to_atoms(), width, seed).positions, crystal.cell)


def unrattled(result: RelaxationResult, given: Crystal | None) -> RelaxationResult:
    """``result`` of a start that may have been rattled: ``given`` it was, and as it was given it is left."""
    if result.initial is None or given is None:
        return result
    return replace(result, initial=given, relaxed=given if result.unchanged else result.relaxed)
