"""Crystals of every symmetry."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.spacegroup import crystal as ase_crystal


def rutile() -> Atoms:
    return ase_crystal(
        ("Ti", "O"), [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136, cellpar=[4.594, 4.594, 2.959, 90, 90, 90]
    )


def perovskite() -> Atoms:
    sites = [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)]
    return ase_crystal(("Sr", "Ti", "O"), sites, spacegroup=221, cellpar=[3.905] * 3 + [90] * 3)


def skewed_rocksalt() -> Atoms:
    return make_supercell(bulk("MgO", "rocksalt", a=4.21), [[1, 0, 0], [3, 1, 0], [-2, 1, 2]])


ATOMS: dict[str, tuple[Callable[[], Atoms], int]] = {
    "rocksalt": (lambda: bulk("NaCl", "rocksalt", a=5.64, cubic=True), 225),
    "primitive rocksalt": (lambda: bulk("NaCl", "rocksalt", a=5.64), 225),
    "skewed rocksalt": (skewed_rocksalt, 225),
    "perovskite": (perovskite, 221),
    "hcp": (lambda: bulk("Mg", "hcp", a=3.21, c=5.21), 194),
    "rutile": (rutile, 136),
    "wurtzite": (lambda: bulk("ZnO", "wurtzite", a=3.25, c=5.21, u=0.38), 186),
}
#: Wyckoff positions without a free coordinate; the oxygen of rutile has one, wurtzite is polar.
FIXED = ["rocksalt", "primitive rocksalt", "skewed rocksalt", "perovskite", "hcp"]


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    q = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return q * np.sign(np.linalg.det(q))
