"""ASE reads what a screening wrote, as a format that the package registers with it."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ase.io import read
from ase.io.formats import define_external_io_format, filetype, ioformats

from deeprelax_ase.errors import StructureFileError
from deeprelax_ase.screening import Folder, screen
from deeprelax_ase.screening.rows import atoms_of

ROOT = Path(__file__).parents[2]
GROUP = "ase.ioformats"
ENTRIES = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][GROUP]


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """The formats as ASE has them where the package is installed anew."""
    added = [name for name in ENTRIES if name not in ioformats]
    for name in added:
        define_external_io_format(EntryPoint(name, ENTRIES[name], GROUP))
    yield
    for name in added:
        del ioformats[name]


def test_ase_reads_the_blocks_of_a_screening(xyz, tmp_path, quick):
    out = tmp_path / "out"
    screen([xyz(3)], out, quick, workers=0)
    file = Folder(out).file(0)
    assert filetype(str(file)) == "deeprelax-screening"
    found = read(str(file), ":")
    wanted = list(atoms_of(pq.read_table(file)))
    assert len(found) == len(wanted) == 3
    for atoms, expected in zip(found, wanted, strict=True):
        assert atoms.info["id"] == expected.info["id"]
        assert atoms.info["deeprelax_status"] == expected.info["deeprelax_status"]
        np.testing.assert_array_equal(atoms.positions, expected.positions)
        np.testing.assert_array_equal(atoms.cell.array, expected.cell.array)
    assert read(str(file)).info["id"] == "crystal-2"  # ASE takes the last where it is not told which
    assert read(f"{file}@1").info["id"] == "crystal-1"
    assert [atoms.info["id"] for atoms in read(f"{file}@1:")] == ["crystal-1", "crystal-2"]


def test_another_table_is_refused(tmp_path):
    file = tmp_path / "part-00000000.parquet"
    pq.write_table(pa.table({"a": [1]}), file)
    with pytest.raises(StructureFileError, match="no block of a screening"):
        read(str(file), ":")


def test_it_costs_ase_nothing_heavy():
    (value,) = ENTRIES.values()
    code = (
        f"import sys, {value.partition(':')[0]}; print(*{{'torch', 'pyarrow', 'scipy', 'ase.io'}} & set(sys.modules))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True, timeout=60
    )
    assert told.stdout == "\n"
