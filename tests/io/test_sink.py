"""Writing crystals: each format holds what was given to it, and is readable after every crystal or at the end."""

from __future__ import annotations

import os
from pathlib import Path

import ase
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.db import connect
from ase.io import read, write
from packaging.version import Version

from deeprelax_ase.errors import OutputError
from deeprelax_ase.io.sink import check_output, open_sink


@pytest.fixture
def crystals() -> list[Atoms]:
    made = [bulk("MgO", "rocksalt", a=4.0 + 0.1 * k) for k in range(3)]
    for k, atoms in enumerate(made):
        atoms.info.update(deeprelax_status="predicted", deeprelax_uncertainty=0.01 * k, source={"row": k})
    return made


def write_all(path: Path, frames: list[Atoms]) -> None:
    writer = open_sink(str(path), check_output(str(path), inputs=[], several=len(frames) > 1))
    for atoms in frames:
        writer.write(atoms)
    writer.close()


needs_xdatcar_of_many_cells = pytest.mark.skipif(
    Version(ase.__version__) < Version("3.28"), reason="this ASE writes one cell for all"
)


@pytest.mark.parametrize(
    "name",
    [
        *("r.extxyz", "r.xyz", "r.xyz.gz", "r.traj", "r.db", "r.json", "r.cif", "r.cif.gz"),
        pytest.param("XDATCAR", marks=needs_xdatcar_of_many_cells),
    ],
)
def test_formats_for_many_crystals(tmp_path, crystals, name):
    write_all(tmp_path / name, crystals)
    found = read(tmp_path / name, index=":")
    assert len(found) == 3
    for atoms, expected in zip(found, crystals, strict=True):
        np.testing.assert_allclose(atoms.cell.cellpar(), expected.cell.cellpar(), rtol=0, atol=1e-6)
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["r.extxyz", "r.traj"])
def test_info_comes_back(tmp_path, crystals, name):
    write_all(tmp_path / name, crystals)
    assert [atoms.info for atoms in read(tmp_path / name, index=":")] == [atoms.info for atoms in crystals]


@pytest.mark.parametrize("name", ["r.db", "r.json"])
def test_a_database_can_be_searched_for_the_keys(tmp_path, crystals, name):
    write_all(tmp_path / name, crystals)
    (row,) = connect(tmp_path / name).select("deeprelax_uncertainty>0.015")
    assert row.deeprelax_status == "predicted"
    assert row.data == {"source": {"row": 2}}


@pytest.mark.parametrize("name", ["POSCAR", "r.vasp", "r.cif", "r.extxyz"])
def test_one_crystal(tmp_path, crystals, name):
    write_all(tmp_path / name, crystals[:1])
    assert read(tmp_path / name).get_chemical_formula() == "MgO"


@pytest.mark.parametrize(
    ("name", "files"),
    [("r-%03d.vasp", ["r-000.vasp", "r-001.vasp", "r-002.vasp"]), ("POSCAR-%d", ["POSCAR-0", "POSCAR-1", "POSCAR-2"])],
)
def test_one_file_each(tmp_path, crystals, name, files):
    write_all(tmp_path / name, crystals)
    assert sorted(file.name for file in tmp_path.iterdir()) == files
    assert read(tmp_path / files[2]).cell.volume == pytest.approx(crystals[2].cell.volume)


@pytest.mark.parametrize("name", ["r.extxyz", "r.xyz", "r.traj", "r.db"])
def test_readable_after_every_crystal(tmp_path, crystals, name):
    writer = open_sink(str(tmp_path / name), check_output(str(tmp_path / name), inputs=[], several=True))
    for k, atoms in enumerate(crystals):
        writer.write(atoms)
        assert len(read(tmp_path / name, index=":")) == k + 1
    writer.close()


@pytest.mark.parametrize("name", ["r.extxyz", "r.traj", "r.db", "r.cif", "r.vasp"])
def test_an_earlier_result_is_replaced(tmp_path, crystals, name):
    write_all(tmp_path / name, crystals[:1])
    write_all(tmp_path / name, crystals[1:2])
    (found,) = read(tmp_path / name, index=":")
    assert found.cell.volume == pytest.approx(crystals[1].cell.volume, rel=1e-6)


def test_a_crystal_that_cannot_be_written_leaves_no_trace(tmp_path, crystals):
    crystals[1].set_array("odd", np.array([1j, 2j]))
    writer = open_sink(str(tmp_path / "r.extxyz"), "extxyz")
    writer.write(crystals[0])
    with pytest.raises(KeyError):
        writer.write(crystals[1])
    writer.write(crystals[2])
    writer.close()
    assert [atoms.info["source"]["row"] for atoms in read(tmp_path / "r.extxyz", index=":")] == [0, 2]


def test_cells_that_ase_would_drop_silently_are_not_lost(tmp_path, monkeypatch, crystals):
    monkeypatch.setattr(ase, "__version__", "3.27.0")
    writer = open_sink(str(tmp_path / "XDATCAR"), "vasp-xdatcar")
    for atoms in crystals:
        writer.write(atoms)
    with pytest.raises(OutputError, match=r"one cell for all crystals.* in .*xdatcar\.extxyz"):
        writer.close()
    assert [file.name for file in tmp_path.iterdir()] == ["xdatcar.extxyz"]
    found = read(tmp_path / "xdatcar.extxyz", index=":")
    for atoms, expected in zip(found, crystals, strict=True):
        np.testing.assert_allclose(atoms.cell.array, expected.cell.array, rtol=0, atol=1e-6)


def test_equal_cells_may_stand_in_any_xdatcar(tmp_path, monkeypatch, crystals):
    monkeypatch.setattr(ase, "__version__", "3.27.0")
    write_all(tmp_path / "XDATCAR", [crystals[0], crystals[0]])
    assert len(read(tmp_path / "XDATCAR", index=":")) == 2


@needs_xdatcar_of_many_cells
def test_a_gathered_format_loses_only_what_it_cannot_hold(tmp_path, crystals):
    writer = open_sink(str(tmp_path / "XDATCAR"), "vasp-xdatcar")
    writer.write(crystals[0])
    with pytest.raises(IndexError):
        writer.write(Atoms())
    writer.write(crystals[2])
    writer.close()
    assert len(read(tmp_path / "XDATCAR", index=":")) == 2


def test_crystals_that_a_format_cannot_hold_together_are_not_lost(tmp_path, monkeypatch, crystals):
    writer = open_sink(str(tmp_path / "r.cif"), "cif")
    for atoms in crystals:
        writer.write(atoms)

    def refuse(name, images, *, format):
        if format == "cif":
            raise ValueError("not these")
        write(name, images, format=format)

    monkeypatch.setattr("ase.io.write", refuse)
    with pytest.raises(OutputError, match=r"not these\)\. They are in .*r\.cif\.extxyz instead"):
        writer.close()
    assert [path.name for path in tmp_path.iterdir()] == ["r.cif.extxyz"]
    assert len(read(tmp_path / "r.cif.extxyz", index=":")) == 3


def test_a_gathered_format_without_crystals_writes_nothing(tmp_path):
    writer = open_sink(str(tmp_path / "r.cif"), "cif")
    writer.close()
    assert list(tmp_path.iterdir()) == []


class TestCheckOutput:
    def test_names_the_format(self, tmp_path):
        assert check_output(str(tmp_path / "a.extxyz"), inputs=[], several=True) == "extxyz"
        assert check_output(str(tmp_path / "CONTCAR"), inputs=[], several=False) == "vasp"
        assert list(tmp_path.iterdir()) == []

    def test_several_crystals_into_a_format_for_one(self, tmp_path):
        with pytest.raises(
            OutputError, match=r"vasp holds one crystal, and there are several.*relaxed\.extxyz.*out-%04d\.vasp"
        ):
            check_output(str(tmp_path / "out.vasp"), inputs=[], several=True)
        assert check_output(str(tmp_path / "out-%04d.vasp"), inputs=[], several=True) == "vasp"

    @pytest.mark.parametrize("output", ["POSCAR", "./POSCAR", "link", "hard", "POSCAR-%d"])
    def test_an_input_is_never_overwritten(self, tmp_path, monkeypatch, crystals, output):
        monkeypatch.chdir(tmp_path)
        write_all(Path("POSCAR"), crystals[:1])
        write_all(Path("POSCAR-7"), crystals[:1])
        Path("link").symlink_to("POSCAR")
        os.link("POSCAR", "hard")
        with pytest.raises(OutputError, match="would overwrite the input"):
            check_output(output, inputs=["POSCAR", str(tmp_path / "POSCAR-7")], several=False)

    def test_an_input_with_an_index_is_one_too(self, tmp_path, crystals):
        write_all(tmp_path / "a.extxyz", crystals)
        with pytest.raises(OutputError, match="would overwrite the input"):
            check_output(str(tmp_path / "a.extxyz"), inputs=[f"{tmp_path / 'a.extxyz'}@0:2"], several=True)

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
    def test_elsewhere(self, tmp_path, name, message):
        if not message:
            assert check_output(str(tmp_path / name), inputs=[], several=False) == "cube"
            return
        with pytest.raises(OutputError, match=message):
            check_output(str(tmp_path / name), inputs=[], several=False)
