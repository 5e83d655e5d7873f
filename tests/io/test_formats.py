"""Every format gives the same crystals, in the same order, and damage costs what is damaged."""

from __future__ import annotations

import gzip
import json
import os
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from ase.db import connect
from ase.io import write
from pymatgen.io.ase import AseAtomsAdaptor

from deeprelax_ase.errors import SourceError, StructureFileError
from deeprelax_ase.io.reading import read
from deeprelax_ase.io.source import open_source
from deeprelax_ase.screening.blocks import table_of
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


def names_in(path: Path) -> list[str]:
    frames = list(open_source(path).frames())
    assert open_source(path).count() == len(frames)
    assert [frame.error for frame in frames] == [None] * len(frames)
    return [frame.name for frame in frames]


TWO_BLOCKS = "data_global\n_journal_name 'none'\n" + "".join(
    f"data_{name}\n_cell_length_a 4\n_cell_length_b 4\n_cell_length_c 4\n_cell_angle_alpha 90\n_cell_angle_beta 90\n"
    "_cell_angle_gamma 90\n_space_group_name_H-M_alt 'P 1'\n_publ_text\n;\ndata_in_a_text\n;\nloop_\n_atom_site_label\n"
    "_atom_site_type_symbol\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\nPo1 Po 0 0 0\n"
    for name in ("first", "second")
)


class TestFolders:
    @pytest.mark.parametrize(
        "file", ["a.cif.gz", "A.CIF", "POSCAR.cif", "a.extxyz", "a.xyz.gz", "a.vasp", "POSCAR_a", "a.traj"]
    )
    def test_every_structure_file_beside_others_is_read(self, tmp_path: Path, file: str) -> None:
        crystals = some_crystals(2)
        write(tmp_path / "z.cif", crystals[0])
        kind = {"POSCAR_a": "vasp", "A.CIF": "cif", "POSCAR.cif": "cif"}.get(file)
        write(tmp_path / file, crystals[1], format=kind)
        assert len(names_in(tmp_path)) == 2

    def test_what_is_hidden_and_what_is_no_structure_is_left_out(self, tmp_path: Path) -> None:
        write(tmp_path / "a.cif", some_crystals(1))
        for name in ("._a.cif", ".hidden.cif", "README.md", "info.json"):
            (tmp_path / name).write_text("nothing")
        (tmp_path / "__MACOSX").mkdir()
        (tmp_path / "__MACOSX" / "a.cif").write_text("nothing")
        assert names_in(tmp_path) == ["a"]

    @pytest.mark.parametrize("ending", ["parquet", "db", "jsonl", "json.gz", "zip"])
    def test_containers_where_there_are_no_structure_files(self, tmp_path: Path, ending: str) -> None:
        (tmp_path / "in").mkdir()
        FORMATS[f"set.{ending}"](tmp_path / "in" / f"set.{ending}")
        for file in (tmp_path / "in" / "set").glob("*"):  # what the archive was made of
            file.unlink()
        assert names_in(tmp_path / "in") == [f"crystal-{n}" for n in range(NUMBER)]

    def test_a_name_that_is_no_utf8_is_escaped(self, tmp_path: Path) -> None:
        write(tmp_path / "a.cif", some_crystals(1))
        os.rename(os.fsencode(tmp_path / "a.cif"), os.fsencode(tmp_path) + b"/caf\xe9.cif")
        assert names_in(tmp_path) == ["caf\\udce9"]
        table = table_of(open_source(tmp_path).refs(), first_index=0)
        assert table.column("source").to_pylist() == [f"{tmp_path}/caf\\udce9.cif"]
        assert len(open_source(tmp_path).digest()) == 32


class TestCif:
    def test_each_block_is_a_structure(self, tmp_path: Path) -> None:
        (tmp_path / "two.cif").write_text(TWO_BLOCKS)
        assert names_in(tmp_path / "two.cif") == ["first", "second"]
        assert names_in(tmp_path) == ["first", "second"]

    def test_in_an_archive_too(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            archive.writestr("two.cif", TWO_BLOCKS)
        assert names_in(tmp_path / "set.zip") == ["first", "second"]

    def test_one_block_with_atoms_has_the_name_of_its_file(self, tmp_path: Path) -> None:
        (tmp_path / "one.cif").write_text(TWO_BLOCKS[: TWO_BLOCKS.index("data_second")])
        assert names_in(tmp_path / "one.cif") == ["one"]


class TestArchives:
    def test_a_damaged_member_costs_itself(self, tmp_path: Path) -> None:
        path = zipped(tmp_path / "set.zip")
        content = bytearray(path.read_bytes())
        place = content.index(b"crystal-2.cif") + 60
        content[place : place + 20] = b"?" * 20
        path.write_bytes(content)
        frames = list(open_source(path).frames())
        assert [frame.error is None for frame in frames] == [True, True, False, True, True]
        assert f"{path}:crystal-2.cif cannot be read" in str(frames[2].error)

    def test_a_damaged_member_that_is_compressed_too(self, tmp_path: Path) -> None:
        path = tmp_path / "set.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(cifs(tmp_path / "set").glob("*.cif")):
                archive.write(file, file.name)
        content = bytearray(path.read_bytes())
        place = content.index(b"crystal-2.cif") + 40
        content[place : place + 40] = b"?" * 40
        path.write_bytes(content)
        assert [frame.error is None for frame in open_source(path).frames()] == [True, True, False, True, True]

    @pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
    def test_a_tar_archive_that_ends_early_gives_what_it_has(self, tmp_path: Path, mode: str) -> None:
        path = tmp_path / f"set.tar{mode[1:].replace(':', '.')}"
        with tarfile.open(path, mode) as archive:
            for atoms in some_crystals(40):
                write(tmp_path / "a.cif", atoms)
                archive.add(tmp_path / "a.cif", f"{atoms.info['material_id']}.cif")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 + 700])
        frames = list(open_source(path).frames())
        sound = [frame.name for frame in frames if frame.error is None]
        assert 5 < len(sound) < 40
        assert sound == [f"crystal-{n}" for n in range(len(sound))]
        assert frames[len(sound)].error is not None
        assert open_source(path).count() == len(frames)

    def test_members_of_several_structures(self, tmp_path: Path) -> None:
        file = xyz_file(tmp_path / "set.extxyz")
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            archive.write(file, "inner/set.extxyz")
            archive.writestr("__MACOSX/inner/._set.extxyz", "nothing")
        assert names_in(tmp_path / "set.zip") == [f"crystal-{n}" for n in range(NUMBER)]
        first, *_ = open_source(tmp_path / "set.zip").refs()
        assert first.source == f"{tmp_path}/set.zip:inner/set.extxyz@0"

    def test_documents_where_there_is_nothing_else(self, tmp_path: Path) -> None:
        with tarfile.open(tmp_path / "set.tar", "w") as archive:
            archive.add(lines(tmp_path / "set.jsonl"), "set.jsonl")
        assert names_in(tmp_path / "set.tar") == [f"crystal-{n}" for n in range(NUMBER)]

    def test_a_format_that_ase_reads_by_name_only(self, tmp_path: Path) -> None:
        (atoms,) = some_crystals(1)
        atoms.info.clear()
        write(tmp_path / "a.res", atoms)
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            archive.write(tmp_path / "a.res", "a.res")
        assert names_in(tmp_path / "set.zip") == ["a"]


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
