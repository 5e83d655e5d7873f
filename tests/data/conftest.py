"""Relaxation pairs in every form that is read, made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write

#: Rock salts, each with its own name.
COMPOUNDS = {"a": ("Mg", "O", 4.2), "b": ("Ca", "O", 4.8), "c": ("Na", "Cl", 5.6), "d": ("Li", "F", 4.0)}


def unrelaxed(name: str) -> Atoms:
    first, second, length = COMPOUNDS[name]
    atoms = bulk(f"{first}{second}", "rocksalt", a=length * 1.05, cubic=True)
    atoms.rattle(0.08, seed=ord(name))
    return atoms


def relaxed(name: str) -> Atoms:
    first, second, length = COMPOUNDS[name]
    return bulk(f"{first}{second}", "rocksalt", a=length, cubic=True)


def shuffled(atoms: Atoms, seed: int = 0) -> Atoms:
    """The same crystal, its atoms in another order and other images."""
    rng = np.random.default_rng(seed)
    other = atoms[rng.permutation(len(atoms))]
    other.positions += rng.integers(-1, 2, size=(len(atoms), 3)) @ other.cell.array
    return other


@pytest.fixture
def pairs() -> dict[str, tuple[Atoms, Atoms]]:
    return {name: (unrelaxed(name), relaxed(name)) for name in COMPOUNDS}


@pytest.fixture
def cifs(tmp_path: Path, pairs) -> Path:
    """The layout of the published DeepRelax data; the last pair's atoms are in another order."""
    folder = tmp_path / "cifs"
    (folder / "CIF").mkdir(parents=True)
    for name, (first, last) in pairs.items():
        write(folder / "CIF" / f"{name}_unrelaxed.cif", first)
        write(folder / "CIF" / f"{name}_relaxed.cif", shuffled(last) if name == "d" else last)
    for part, names in (("train", "ab"), ("val", "c"), ("test", "d")):
        rows = "".join(f"{n},{name}\n" for n, name in enumerate(names))
        (folder / f"{part}.csv").write_text(f",atoms_id\n{rows}", encoding="utf-8")
    return folder
