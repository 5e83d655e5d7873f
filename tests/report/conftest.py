"""A screening of four crystals, and the page of it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.io import write

from deeprelax_ase.screening.options import RelaxOptions
from tests.report.pages import EVIL

collect_ignore_glob = [] if find_spec("plotly") and find_spec("pyarrow") else ["test_*.py"]


@pytest.fixture(scope="session")
def screened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four crystals, of which one cannot be relaxed, and what their relaxed forms shall be."""
    from deeprelax_ase.screening.run import screen

    folder = tmp_path_factory.mktemp("report")
    given = [bulk("MgO", "rocksalt", a=4.5), bulk("NaCl", "rocksalt", a=5.2), bulk("ZnS", "wurtzite", a=4.0, c=6.6)]
    given[2].rattle(0.05, seed=0)
    broken = bulk("GaAs", "zincblende", a=5.6)
    broken.positions[1] = broken.positions[0]
    given.append(broken)
    for n, atoms in enumerate(given):
        atoms.info["id"] = f"{EVIL}-{n}"
    write(folder / "given.extxyz", given)
    screen([folder / "given.extxyz"], folder / "out", RelaxOptions(device="cpu", recycles=1, members=1), workers=0)
    relaxed = [atoms.copy() for atoms in given]
    relaxed[2].positions += np.random.default_rng(0).normal(0, 0.02, relaxed[2].positions.shape)
    write(folder / "true.extxyz", relaxed)
    return folder


@pytest.fixture(scope="session")
def page(screened: Path) -> Path:
    from deeprelax_ase.report import write_report

    file = screened / "page.html"
    write_report(screened / "out", file, reference=screened / "true.extxyz", show=6, device="cpu")
    return file
