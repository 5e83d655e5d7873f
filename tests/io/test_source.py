"""Every format gives the same crystals, in the same order, and damage costs what is damaged."""

from __future__ import annotations

import gzip
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from ase.db import connect
from ase.io import write
from pymatgen.io.ase import AseAtomsAdaptor

from deeprelax_ase.errors import StructureFileError
from deeprelax_ase.io.source import open_source
from deeprelax_ase.screening.blocks import blocks_of, table_of
from deeprelax_ase.screening.rows import structures_table
from tests.screening.conftest import some_crystals

NUMBER = 5


def cifs(folder: Path) -> Path:
    folder.mkdir()
    for n, atoms in enumerate(some_crystals(NUMBER)):
        write(folder / f"crystal-{n}.cif", atoms)
    (folder / "README.txt").write_text("not a crystal")
    return folder


def zipped(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(cifs(path.with_suffix("")).iterdir()):
            archive.write(file, file.name)
    return path


def tarred(path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for file in sorted(cifs(path.with_suffix("")).iterdir()):
            archive.add(file, file.name)
    return path


def database(path: Path) -> Path:
    with connect(path) as db:
        for atoms in some_crystals(NUMBER):
            db.write(atoms, material_id=atoms.info["material_id"])
    return path


def documents() -> list[dict]:
    return [
        {"material_id": a.info["material_id"], "structure": AseAtomsAdaptor.get_structure(a).as_dict()}
        for a in some_crystals(NUMBER)
    ]


def listed(path: Path) -> Path:
    path.write_bytes(gzip.compress(json.dumps(documents()).encode()))
    return path


def mapped(path: Path) -> Path:
    path.write_text(json.dumps({d["material_id"]: d["structure"] for d in documents()}))
    return path


def lines(path: Path) -> Path:
    renamed = [{"material_id": d["material_id"], "initial_structure": d["structure"]} for d in documents()]
    path.write_text("\n".join(map(json.dumps, renamed)) + "\n")
    return path


def parquet(path: Path) -> Path:
    crystals = some_crystals(NUMBER)
    pq.write_table(structures_table(crystals, ids=[a.info["material_id"] for a in crystals]), path)
    return path


def xyz_file(path: Path) -> Path:
    write(path, some_crystals(NUMBER))
    return path


FORMATS: dict[str, Callable[[Path], Path]] = {
    "set.extxyz": xyz_file,
    "cifs": cifs,
    "set.zip": zipped,
    "set.tar.gz": tarred,
    "set.db": database,
    "set.json.gz": listed,
    "set.json": mapped,
    "set.jsonl": lines,
    "set.parquet": parquet,
    "set.traj": xyz_file,
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name: str, tmp_path: Path) -> None:
    source = open_source(str(FORMATS[name](tmp_path / name)))
    refs = list(source.refs())
    assert source.count() == len(refs) == NUMBER
    table = table_of(refs, first_index=0)
    assert table.column("error").null_count == NUMBER, table.column("error").to_pylist()
    assert table.column("id").to_pylist() == [f"crystal-{n}" for n in range(NUMBER)]
    for found, atoms in zip(table.to_pylist(), some_crystals(NUMBER), strict=True):
        assert found["numbers"] == atoms.numbers.tolist()
        volume = abs(np.linalg.det(np.reshape(found["cell"], (3, 3))))
        assert volume == pytest.approx(atoms.get_volume(), rel=1e-4)


@pytest.mark.parametrize("name", FORMATS)
def test_a_change_is_seen(name: str, tmp_path: Path) -> None:
    path = FORMATS[name](tmp_path / name)
    before = open_source(str(path)).digest()
    assert open_source(str(path)).digest() == before
    file = sorted(path.glob("*.cif"))[0] if path.is_dir() else path
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert open_source(str(path)).digest() != before


def test_a_truncated_file_gives_what_is_whole_and_says_where_it_ends(tmp_path: Path) -> None:
    file = xyz_file(tmp_path / "set.extxyz")
    text = file.read_text().splitlines(keepends=True)
    file.write_text("".join(text[:-1]))
    source = open_source(str(file))
    refs = list(source.refs())
    assert source.count() == len(refs) == NUMBER
    table = table_of(refs, first_index=0)
    assert table.column("error").null_count == NUMBER - 1
    assert "beyond its structure 4" in table.column("error").to_pylist()[-1]


@pytest.mark.parametrize("name", ["set.zip", "set.tar.gz", "set.json.gz", "set.json", "set.parquet", "set.db"])
def test_a_broken_file_is_one_row_that_says_so(name: str, tmp_path: Path) -> None:
    path = FORMATS[name](tmp_path / name)
    path.write_bytes(path.read_bytes()[:50])
    source = open_source(str(path))
    table = table_of(source.refs(), first_index=0)
    assert source.count() == len(table) == 1
    assert "cannot be read" in table.column("error").to_pylist()[0]


def test_a_bad_file_among_others_costs_itself(tmp_path: Path) -> None:
    folder = cifs(tmp_path / "cifs")
    (folder / "crystal-2.cif").write_text("data_broken\n_cell_length_a nothing\n")
    table = table_of(open_source(str(folder)).refs(), first_index=0)
    assert [error is None for error in table.column("error").to_pylist()] == [True, True, False, True, True]


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(StructureFileError, match="no such file"):
        open_source(str(tmp_path / "nothing.cif"))
    with pytest.raises(StructureFileError, match="no structure files"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("size", [1, 2, 5, 7])
def test_blocks_cover_all_inputs_once(size: int, tmp_path: Path) -> None:
    sources = [open_source(str(xyz_file(tmp_path / "a.extxyz"))), open_source(str(cifs(tmp_path / "b")))]
    whole = [ref.source for source in sources for ref in source.refs()]
    blocks = dict(blocks_of(sources, size, lambda n: True))
    assert [ref.source for n in sorted(blocks) for ref in blocks[n]] == whole
    for wanted in (0, 1):
        part = dict(blocks_of(sources, size, lambda n, wanted=wanted: n % 2 == wanted))
        assert part == {n: block for n, block in blocks.items() if n % 2 == wanted}
