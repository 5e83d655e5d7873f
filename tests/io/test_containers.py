"""Folders, archives and files of several structures: each is found, and a damaged one costs itself."""

from __future__ import annotations

import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from ase.io import write

from deeprelax_ase.io.source import open_source, told_left_out
from deeprelax_ase.screening.blocks import table_of
from tests.io.sets import (
    FORMATS,
    NUMBER,
    cifs,
    lines,
    xyz_file,
    zipped,
)
from tests.screening.conftest import some_crystals


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

    def test_names_within_folders_of_any_kind_are_read(self, tmp_path: Path) -> None:
        """As ``tar -cf set.tar ./in ../more`` makes them."""
        with tarfile.open(tmp_path / "set.tar", "w") as archive:
            for name in ("./a.cif", "./in/b.cif", "../more/c.cif"):
                write(tmp_path / "x.cif", some_crystals(1))
                archive.add(tmp_path / "x.cif", name)
        assert names_in(tmp_path / "set.tar") == ["a", "in/b", "../more/c"]

    def test_links_are_what_they_link_to(self, tmp_path: Path) -> None:
        write(tmp_path / "a.cif", some_crystals(1))
        os.link(tmp_path / "a.cif", tmp_path / "hard.cif")
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "soft.cif").symlink_to("../a.cif")
        with tarfile.open(tmp_path / "set.tar.gz", "w:gz") as archive:
            for name in ("a.cif", "hard.cif", "in"):
                archive.add(tmp_path / name, name)
        assert names_in(tmp_path / "set.tar.gz") == ["a", "hard", "in/soft"]

    def test_members_of_one_name_are_all_read(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            archive.writestr("a.cif", TWO_BLOCKS[: TWO_BLOCKS.index("data_second")])
            with pytest.warns(UserWarning, match="Duplicate name"):
                archive.writestr("a.cif", TWO_BLOCKS[: TWO_BLOCKS.index("data_second")].replace("Po1 Po", "Cu1 Cu"))
        read = [frame.atoms for frame in open_source(tmp_path / "set.zip").frames()]
        assert [str(atoms.symbols) for atoms in read if atoms] == ["Po", "Cu"]

    @pytest.mark.parametrize("name", ["b.traj", "b.parquet", "b.db", "b.zip"])
    def test_a_member_that_cannot_be_read_there_says_so(self, tmp_path: Path, name: str) -> None:
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            archive.writestr(name, "any")
        (frame,) = open_source(tmp_path / "set.zip").frames()
        assert f"set.zip:{name} cannot be read (files of this format are not read within archives" in str(frame.error)


class TestLeftOut:
    """Whatever is not read is a row, or told among what is left out; archives do as folders do."""

    NAMES = (".hidden.cif", "._a.cif", "__MACOSX/a.cif", ".git/a.cif", "README.md", "b.parquet", "info.json")

    @pytest.fixture(params=["folder", "set.zip", "set.tar", "set.tar.gz"])
    def place(self, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        folder = tmp_path / "folder"
        for name in self.NAMES:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("nothing")
        write(folder / "a.cif", some_crystals(1))
        path = tmp_path / request.param
        if path.suffix == ".zip":
            with zipfile.ZipFile(path, "w") as archive:
                for file in folder.rglob("*"):
                    archive.write(file, file.relative_to(folder))
        elif path != folder:
            with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as packed:
                packed.add(folder, ".")
        return path

    def test_all_are_named(self, place: Path) -> None:
        assert names_in(place) == ["a"]
        told = [name.removeprefix(f"{place}")[1:].removeprefix("./") for name in open_source(place).left_out()]
        assert sorted(told) == sorted(self.NAMES)

    def test_in_a_few_words(self) -> None:
        assert told_left_out([]) == ""
        assert told_left_out(["a.zip:b"]) == "1 file is left out, hidden or of a format that is not read there: a.zip:b"
        assert told_left_out(list("abcd")).startswith("4 files are left out")
        assert told_left_out(list("abcd")).endswith(": a, b, c, ...")

    def test_an_archive_of_nothing_else_says_so(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            archive.writestr("in/README.md", "nothing")
        (frame,) = open_source(tmp_path / "set.zip").frames()
        assert "holds no structure (1 file is left out" in str(frame.error)
        assert "set.zip:in/README.md)" in str(frame.error)

    def test_in_folders_what_is_no_file(self, tmp_path: Path) -> None:
        write(tmp_path / "a.cif", some_crystals(1))
        (tmp_path / "gone.cif").symlink_to("nowhere.cif")
        os.mkfifo(tmp_path / "pipe.cif")
        assert names_in(tmp_path) == ["a"]
        assert open_source(tmp_path).left_out() == [f"{tmp_path}/gone.cif", f"{tmp_path}/pipe.cif"]
