"""Every format gives the same crystals, in the same order, and damage costs what is damaged."""

from __future__ import annotations

import sqlite3
from codecs import BOM_UTF8
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from ase.db import connect
from ase.io import write

from deeprelax_ase.errors import SourceError, StructureFileError
from deeprelax_ase.io.reading import read
from deeprelax_ase.io.source import open_source
from deeprelax_ase.screening.blocks import table_of
from tests.io.sets import (
    FORMATS,
    NUMBER,
    cifs,
    database,
    xyz_file,
    zipped,
)
from tests.screening.conftest import some_crystals


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


@pytest.mark.parametrize("name", ["set.extxyz", "cifs", "set.jsonl", "set.json"])
def test_the_mark_of_windows_is_no_damage(name: str, tmp_path: Path) -> None:
    path = FORMATS[name](tmp_path / name)
    for file in path.glob("*.cif") if path.is_dir() else [path]:
        file.write_bytes(BOM_UTF8 + file.read_bytes())
    assert [frame.error for frame in open_source(path).frames()] == [None] * NUMBER


def test_the_mark_of_windows_in_a_member_of_an_archive(tmp_path: Path) -> None:
    file = xyz_file(tmp_path / "set.extxyz")
    with ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("set.extxyz", BOM_UTF8 + file.read_bytes())
    assert [frame.error for frame in open_source(tmp_path / "set.zip").frames()] == [None] * NUMBER


def test_a_truncated_file_gives_what_is_whole_and_says_where_it_ends(tmp_path: Path) -> None:
    file = xyz_file(tmp_path / "set.extxyz")
    text = file.read_text().splitlines(keepends=True)
    file.write_text("".join(text[:-1]))
    source = open_source(str(file))
    refs = list(source.refs())
    assert source.count() == len(refs) == NUMBER
    table = table_of(refs, first_index=0)
    assert table.column("error").null_count == NUMBER - 1
    assert "set.extxyz@4 cannot be read (the file ends after 1 of 2 atoms)" in table.column("error").to_pylist()[-1]


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


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("set.extxyz", b""),
        ("set.json", b"[]"),
        ("set.jsonl", b"\n"),
        ("set.db", b""),
        ("set.cif", b""),
        ("set.zip", b"PK\x05\x06" + bytes(18)),
        ("set.traj", b""),
    ],
)
def test_an_empty_source_is_an_error(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    source = open_source(tmp_path / name)
    (frame,) = source.frames()
    assert frame.atoms is None
    assert name in str(frame.error)
    assert source.count() == 1
    assert (tmp_path / name).read_bytes() == content, "reading wrote to it"


def test_a_database_that_is_not_ases_is_left_as_it_is(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE other (number)")
    before = (tmp_path / "other.db").read_bytes()
    (frame,) = open_source(tmp_path / "other.db").frames()
    assert "is no ASE database" in str(frame.error)
    assert (tmp_path / "other.db").read_bytes() == before


def test_a_database_keeps_its_keys(tmp_path: Path) -> None:
    with connect(tmp_path / "set.db") as db:
        db.write(some_crystals(1)[0], deeprelax_status="accepted", data={"name": "salt"})
    (frame,) = open_source(tmp_path / "set.db").frames()
    assert frame.atoms is not None
    assert frame.atoms.info == {"deeprelax_status": "accepted", "name": "salt"}
    assert frame.name == "salt"


def test_whatever_page_of_a_database_is_damaged_each_row_that_it_tells_of_is_there(tmp_path: Path) -> None:
    path, number = tmp_path / "set.db", 20
    with connect(path) as db:
        for atoms in some_crystals(number):
            db.write(atoms, data={"text": "x" * 1000})
    content = path.read_bytes()
    lost = []
    for page in range(1, len(content) // 4096):
        damaged = tmp_path / f"{page}.db"
        damaged.write_bytes(content[: 4096 * page] + b"?" * 64 + content[4096 * page + 64 :])
        frames = list(open_source(damaged).frames())
        assert open_source(damaged).count() == len(frames)
        lost.append(len([frame for frame in frames if frame.error]) if len(frames) == number else 0)
    assert any(0 < errors < number for errors in lost)


def test_a_database_that_is_locked_is_no_fault_of_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(database(tmp_path / "set.db"))
    refs = list(source.refs())
    monkeypatch.setattr(sqlite3, "connect", partial(_connect_at_once, sqlite3.connect))
    with closing(sqlite3.connect(tmp_path / "set.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(SourceError, match=r"set\.db.* cannot be read now: database is locked"):
            list(open_source(tmp_path / "set.db").refs())
        with pytest.raises(SourceError, match="database is locked"):
            read(refs[0])
    assert read(refs[0]).error is None


def _connect_at_once(connect: Callable, *arguments: object, **options: object) -> sqlite3.Connection:
    return connect(*arguments, **{**options, "timeout": 0})


@pytest.mark.parametrize("name", ["set.traj", "set.zip"])
def test_places_before_the_beginning_of_a_file_are_damage(tmp_path: Path, name: str) -> None:
    """They make the system complain, of what the file holds."""
    path = tmp_path / name
    if name.endswith("traj"):
        write(path, some_crystals(NUMBER))
        content = bytearray(path.read_bytes())
        content[40:48] = (-8).to_bytes(8, "little", signed=True)  # where the table of frames is
    else:
        content = bytearray(zipped(path).read_bytes())
        content[-6:-2] = (len(content) + 100).to_bytes(4, "little")  # where the table of members is
    path.write_bytes(content)
    frames = list(open_source(path).frames())
    assert frames
    assert all(f"{name}" in str(frame.error) and "cannot be read" in str(frame.error) for frame in frames)
