"""Where results may go: what cannot work is refused before the work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write

from deeprelax_ase.errors import OutputError
from deeprelax_ase.io.output import check_output
from deeprelax_ase.io.source import open_source


@pytest.fixture
def crystals() -> list[Atoms]:
    return [bulk("MgO", "rocksalt", a=4.0 + 0.1 * k) for k in range(3)]


def test_names_the_format(tmp_path):
    assert check_output(str(tmp_path / "a.extxyz"), inputs=[], several=True) == "extxyz"
    assert check_output(str(tmp_path / "CONTCAR"), inputs=[], several=False) == "vasp"
    assert list(tmp_path.iterdir()) == []


def test_several_crystals_into_a_format_for_one(tmp_path):
    with pytest.raises(
        OutputError, match=r"vasp holds one crystal, and there are several.*relaxed\.extxyz.*out-%s\.vasp"
    ):
        check_output(str(tmp_path / "out.vasp"), inputs=[], several=True)
    assert check_output(str(tmp_path / "out-%04d.vasp"), inputs=[], several=True) == "vasp"


@pytest.mark.parametrize("output", ["POSCAR", "./POSCAR", "link", "hard", "POSCAR-%d", "POSCAR-%s"])
def test_an_input_is_never_overwritten(tmp_path, monkeypatch, crystals, output):
    monkeypatch.chdir(tmp_path)
    write(Path("POSCAR"), crystals[:1])
    write(Path("POSCAR-7"), crystals[:1])
    Path("link").symlink_to("POSCAR")
    os.link("POSCAR", "hard")
    with pytest.raises(OutputError, match="would overwrite the input"):
        check_output(output, inputs=[open_source("POSCAR"), open_source(tmp_path / "POSCAR-7")], several=False)


def test_an_input_with_an_index_is_one_too(tmp_path, crystals):
    write(tmp_path / "a.extxyz", crystals)
    with pytest.raises(OutputError, match="would overwrite the input"):
        check_output(str(tmp_path / "a.extxyz"), inputs=[open_source(f"{tmp_path / 'a.extxyz'}@0:2")], several=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "is a folder. Give the name of a file in it"),
        ("no/where.cif", "does not exist. Make it first"),
        ("result", "ASE knows no format for"),
        ("result.docx", "ASE knows no format for"),
        ("result.cube.gz", ""),
        ("OUTCAR", "ASE reads vasp-out but does not write it"),
    ],
)
def test_elsewhere(tmp_path, name, message):
    if not message:
        assert check_output(str(tmp_path / name), inputs=[], several=False) == "cube"
        return
    with pytest.raises(OutputError, match=message):
        check_output(str(tmp_path / name), inputs=[], several=False)


@pytest.mark.parametrize("name", ["r.traj.gz", "r.db.gz", "r.json.gz", "r.db.xz"])
def test_formats_that_cannot_be_read_when_compressed(tmp_path, name):
    with pytest.raises(OutputError, match=r"cannot be written compressed\. Give .*r\.(traj|db|json) instead"):
        check_output(str(tmp_path / name), inputs=[], several=True)


def test_a_place_where_nothing_can_be_written():
    with pytest.raises(OutputError, match="nothing can be written in /proc"):
        check_output("/proc/r.extxyz", inputs=[], several=True)


def test_a_file_in_the_folder_that_is_read(tmp_path, crystals):
    write(tmp_path / "a.cif", crystals[0])
    with pytest.raises(OutputError, match="lies in the input"):
        check_output(str(tmp_path / "relaxed.extxyz"), inputs=[open_source(tmp_path)], several=True)
