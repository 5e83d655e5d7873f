"""Five crystals that are told apart by their lattice parameters, and a file of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write


@pytest.fixture
def crystals() -> list[Atoms]:
    """Five copies of rocksalt that differ in their lattice parameter, 4.0 to 4.4 Å."""
    return [bulk("MgO", "rocksalt", a=4.0 + 0.1 * k) for k in range(5)]


@pytest.fixture
def xyz(tmp_path: Path, crystals: list[Atoms]) -> Path:
    path = tmp_path / "set.extxyz"
    write(path, crystals)
    return path
