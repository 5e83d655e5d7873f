"""Writing crystals: each format holds what was given to it, and is readable after every crystal or at the end."""

from __future__ import annotations

import os
from pathlib import Path

import ase
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.db import connect
from ase.io import read, write
from packaging.version import Version

from deeprelax_ase.errors import OutputError
from deeprelax_ase.io.output import check_output
from deeprelax_ase.io.sink import open_sink
from deeprelax_ase.io.source import read_frames


@pytest.fixture
def crystals() -> list[Atoms]:
    made = [bulk("MgO", "rocksalt", a=4.0 + 0.1 * k) for k in range(3)]
    for k, atoms in enumerate(made):
        atoms.info.update(deeprelax_status="accepted", deeprelax_uncertainty=0.01 * k, source={"row": k})
    return made


def write_all(path: Path, frames: list[Atoms], *, overwrite: bool = False) -> None:
    file_format = check_output(str(path), inputs=[], several=len(frames) > 1, overwrite=overwrite)
    writer = open_sink(str(path), file_format, overwrite=overwrite)
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
    assert row.deeprelax_status == "accepted"
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


def test_one_file_each_by_names(tmp_path, crystals):
    """Those that are given, that of the info, or its number; one that is taken has its number too."""
    crystals[2].info["name"] = "mp-1/../odd"
    with open_sink(str(tmp_path / "r-%s.vasp"), "vasp") as sink:
        for atoms, name in zip([*crystals[:3], crystals[0]], ["MgO", "", "", "MgO"], strict=True):
            sink.write(atoms, name)
    assert {file.name for file in tmp_path.iterdir()} == {
        "r-MgO.vasp",
        "r-1.vasp",
        "r-mp-1_.._odd.vasp",
        "r-MgO-3.vasp",
    }
    assert read(tmp_path / "r-1.vasp").cell.volume == pytest.approx(crystals[1].cell.volume)


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
    write_all(tmp_path / name, crystals[1:2], overwrite=True)
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


@pytest.mark.parametrize("name", ["r.extxyz", "r.traj", "r.db", "r.json", "r.cif", "r-%d.vasp"])
def test_what_was_there_stays_until_something_is_written(tmp_path, crystals, name):
    file = tmp_path / name.replace("%d", "0")
    write_all(tmp_path / name, crystals[:1])
    before = file.read_bytes()
    output = str(tmp_path / name)
    file_format = check_output(output, inputs=[], several=False, overwrite=True)
    with open_sink(output, file_format, overwrite=True):
        assert file.read_bytes() == before
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("name", ["r.extxyz", "r.traj", "r.db", "r.json", "r.cif"])
def test_a_whole_file_or_the_one_of_before(tmp_path, crystals, name):
    write_all(tmp_path / name, crystals[:1])
    before = (tmp_path / name).read_bytes()
    file_format = check_output(str(tmp_path / name), inputs=[], several=True, overwrite=True)

    def interrupted():
        with open_sink(str(tmp_path / name), file_format, whole=True, overwrite=True) as sink:
            sink.write(crystals[1])
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert (tmp_path / name).read_bytes() == before
    with open_sink(str(tmp_path / name), file_format, whole=True, overwrite=True) as sink:
        for atoms in crystals:
            sink.write(atoms)
        assert (tmp_path / name).read_bytes() == before
    assert len(read(tmp_path / name, index=":")) == 3
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["r.extxyz", "r.traj", "r.db", "r.json", "r.cif", "r.xyz.gz", "r.cif.gz"])
@pytest.mark.parametrize(
    "identity",
    ["007", "True", "a b", "a\nb\tc", 'quo"te', "back\\slash", " blank ", "a\u2028b\x0bc", "é", "image0", ";x"],
)
def test_names_come_back(tmp_path, crystals, name, identity):
    for atoms in crystals:
        atoms.info["material_id"] = identity
    write_all(tmp_path / name, crystals)
    assert [frame.name for frame in read_frames(tmp_path / name)] == [identity] * 3


def test_names_come_back_from_files_of_one_crystal(tmp_path, crystals):
    crystals[0].info["id"] = "mp 149"
    write_all(tmp_path / "one.cif", crystals[:1])
    write_all(tmp_path / "many-%d.cif", crystals[:1])
    assert [frame.name for frame in read_frames([tmp_path / "one.cif", tmp_path / "many-0.cif"])] == ["mp 149"] * 2


def test_texts_that_extended_xyz_would_lose_come_back(tmp_path, crystals):
    crystals[0].info |= {"empty": "", "feed": "a\x0cb", "pbc note": "x"}
    write_all(tmp_path / "r.extxyz", crystals)
    frame, *_ = read_frames(tmp_path / "r.extxyz")
    assert frame.atoms.info["empty"] == ""
    assert frame.atoms.info["feed"] == "a\x0cb"
    assert frame.atoms.pbc.all()


def test_a_name_with_a_line_break_costs_its_crystal_alone(tmp_path, crystals):
    with open_sink(str(tmp_path / "r.extxyz"), "extxyz") as sink:
        crystals[0].info["two\nlines"] = 1
        with pytest.raises(ValueError, match="line break"):
            sink.write(crystals[0])
        sink.write(crystals[1])
    (frame,) = read_frames(tmp_path / "r.extxyz")
    assert frame.error is None


@pytest.mark.parametrize("name", ["r.extxyz", "r.traj", "r.db", "r.json", "r.cif", "r-%d.vasp"])
def test_what_another_process_has_written_meanwhile_stays(tmp_path, crystals, name):
    file = tmp_path / name.replace("%d", "0")
    sink = open_sink(str(tmp_path / name), check_output(str(tmp_path / name), inputs=[], several=False))
    file.write_text("of another run")
    with pytest.raises(OutputError, match=r"exists already.*overwrite=True"), sink:
        sink.write(crystals[0])
    assert file.read_text() == "of another run"
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_link_leads_to_where_results_go(tmp_path, crystals):
    (tmp_path / "elsewhere").mkdir()
    write_all(tmp_path / "elsewhere" / "r.extxyz", crystals[:1])
    (tmp_path / "r.extxyz").symlink_to(tmp_path / "elsewhere" / "r.extxyz")
    write_all(tmp_path / "r.extxyz", crystals, overwrite=True)
    assert (tmp_path / "r.extxyz").is_symlink()
    assert len(read(tmp_path / "elsewhere" / "r.extxyz", ":")) == 3


def test_results_and_constraints_come_back(tmp_path, crystals):
    forces = np.arange(3.0 * len(crystals[0])).reshape(-1, 3)
    crystals[0].calc = SinglePointCalculator(crystals[0], energy=-1.5, forces=forces)
    crystals[0].set_constraint(FixAtoms([1]))
    crystals[0].info["note"] = "two\nlines"
    write_all(tmp_path / "r.extxyz", crystals[:1])
    (frame,) = read_frames(tmp_path / "r.extxyz")
    assert frame.atoms.get_potential_energy() == -1.5
    np.testing.assert_allclose(frame.atoms.get_forces(apply_constraint=False), forces, rtol=0, atol=1e-8)
    assert frame.atoms.constraints[0].index.tolist() == [1]
    assert frame.atoms.info["note"] == "two\nlines"
    assert crystals[0].info["note"] == "two\nlines"


def test_json_takes_time_in_proportion(tmp_path, crystals):
    """ASE alone writes all rows again for each."""

    def rows_written(number: int) -> int:
        path = tmp_path / f"{number}.json"
        with open_sink(str(path), "json") as sink:
            for _ in range(number):
                sink.write(crystals[0])
            assert not path.exists()
        return len(list(read_frames(path)))

    assert rows_written(200) == 200


def test_a_full_disk_ends_a_database_as_it_does_other_files(tmp_path, crystals):
    (tmp_path / f".part-{os.getpid()}-r.db").mkdir()
    with pytest.raises(OSError), open_sink(str(tmp_path / "r.db"), "db") as sink:  # noqa: PT011
        sink.write(crystals[0])
