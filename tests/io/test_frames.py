"""Reading frames: every frame is there, in order, under its name, and a damaged one costs itself alone."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk
from ase.db import connect
from ase.io import write
from hypothesis import given
from hypothesis import strategies as st

from deeprelax_ase.errors import StructureFileError
from deeprelax_ase.io.frames import Frame, count_frames, read_frames, split_index


@pytest.fixture
def crystals() -> list[Atoms]:
    """Five copies of rocksalt that differ in their lattice parameter, 4.0 to 4.4 Å."""
    return [bulk("MgO", "rocksalt", a=4.0 + 0.1 * k) for k in range(5)]


@pytest.fixture
def xyz(tmp_path: Path, crystals: list[Atoms]) -> Path:
    path = tmp_path / "set.extxyz"
    write(path, crystals)
    return path


def lattice_parameters(frames: list[Frame]) -> list[float]:
    return [round((4 * frame.atoms.cell.volume) ** (1 / 3), 6) for frame in frames if frame.atoms is not None]


def damage(path: Path, old: str, new: str, *, frame: int) -> None:
    """Replace ``old`` by ``new`` in one frame of four lines."""
    lines = path.read_text().splitlines(keepends=True)
    text = "".join(lines[4 * frame : 4 * frame + 4])
    assert old in text
    path.write_text("".join(lines[: 4 * frame]) + text.replace(old, new) + "".join(lines[4 * frame + 4 :]))


def test_all_frames_in_order(xyz):
    frames = list(read_frames(str(xyz)))
    assert lattice_parameters(frames) == [4.0, 4.1, 4.2, 4.3, 4.4]
    assert [frame.label for frame in frames] == [f"{xyz}@{k}" for k in range(5)]


@pytest.mark.parametrize("ending", ["extxyz", "xyz", "xyz.gz", "traj", "cif", "db", "json"])
def test_every_format_gives_all_frames(tmp_path, crystals, ending):
    path = tmp_path / f"set.{ending}"
    write(path, crystals)
    assert lattice_parameters(list(read_frames(str(path)))) == [4.0, 4.1, 4.2, 4.3, 4.4]


@pytest.mark.parametrize("ending", ["extxyz", "traj", "cif"])
@pytest.mark.parametrize(
    ("index", "expected"),
    [
        ("0", [4.0]),
        ("3", [4.3]),
        ("-1", [4.4]),
        ("-5", [4.0]),
        (":", [4.0, 4.1, 4.2, 4.3, 4.4]),
        ("1:3", [4.1, 4.2]),
        ("::2", [4.0, 4.2, 4.4]),
        ("-2:", [4.3, 4.4]),
        (":-2", [4.0, 4.1, 4.2]),
        ("-4:4:2", [4.1, 4.3]),
        ("::-1", [4.4, 4.3, 4.2, 4.1, 4.0]),
    ],
)
def test_index_picks_what_python_picks(tmp_path, crystals, ending, index, expected):
    path = tmp_path / f"set.{ending}"
    write(path, crystals)
    assert lattice_parameters(list(read_frames(f"{path}@{index}"))) == pytest.approx(expected)


@given(start=st.integers(-7, 7), stop=st.one_of(st.none(), st.integers(-7, 7)), step=st.integers(1, 3))
def test_any_slice_of_xyz(tmp_path_factory, start, stop, step):
    path = tmp_path_factory.getbasetemp() / "slices.extxyz"
    if not path.exists():
        write(path, [bulk("MgO", "rocksalt", a=4.0 + 0.1 * k) for k in range(5)])
    name = f"{path}@{start}:{'' if stop is None else stop}:{step}"
    expected = [4.0, 4.1, 4.2, 4.3, 4.4][start:stop:step]
    frames = list(read_frames(name))
    assert lattice_parameters(frames) == pytest.approx(expected)
    assert len(frames) == max(len(expected), 1)  # an empty selection is an error, told in one frame
    assert count_frames([name]) == len(frames)


def test_info_arrays_and_energies_are_kept(tmp_path):
    atoms = bulk("Fe", cubic=True)
    atoms.info["name"] = "bcc iron"
    atoms.set_initial_magnetic_moments([2.2, 2.2])
    write(tmp_path / "fe.extxyz", atoms)
    (frame,) = read_frames(str(tmp_path / "fe.extxyz"))
    assert frame.atoms.info["name"] == "bcc iron"
    assert frame.atoms.get_initial_magnetic_moments().tolist() == [2.2, 2.2]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Mg ", "Xx "),
        (
            "0.00000000",
            "zero",
        ),
        ("Lattice=", 'Lattice="1 2" x='),
    ],
)
def test_a_damaged_frame_costs_itself_alone(xyz, old, new):
    damage(xyz, old, new, frame=2)
    frames = list(read_frames(str(xyz)))
    assert [frame.error is None for frame in frames] == [True, True, False, True, True]
    assert lattice_parameters(frames) == [4.0, 4.1, 4.3, 4.4]
    assert frames[2].label == f"{xyz}@2"
    assert f"{xyz}@2 cannot be read" in str(frames[2].error)
    assert count_frames([str(xyz)]) == 5


def test_a_file_that_ends_early_loses_its_last_frame_only(xyz):
    text = xyz.read_text().splitlines(keepends=True)
    xyz.write_text("".join(text[:-1]))
    frames = list(read_frames(str(xyz)))
    assert lattice_parameters(frames) == [4.0, 4.1, 4.2, 4.3]
    assert "the file ends after 1 of 2 atoms" in str(frames[4].error)
    assert count_frames([str(xyz)]) == 5


def test_a_lost_beginning_of_a_frame_ends_the_file_and_says_so(xyz):
    damage(xyz, "2\n", "two\n", frame=3)
    frames = list(read_frames(str(xyz)))
    assert lattice_parameters(frames) == [4.0, 4.1, 4.2]
    assert "a number of atoms was expected, not 'two'" in str(frames[3].error)
    assert "Frames after it, if any, were not read" in str(frames[3].error)
    assert len(frames) == 4


def test_blank_lines_between_frames_lose_nothing(xyz):
    lines = xyz.read_text().splitlines(keepends=True)
    xyz.write_text("\n" + "".join(lines[:4]) + "\n \n" + "".join(lines[4:]) + "\n")
    assert lattice_parameters(list(read_frames(str(xyz)))) == [4.0, 4.1, 4.2, 4.3, 4.4]


def test_lattice_vectors_as_lines_after_the_atoms(tmp_path):
    vectors = "VEC1 4.0 0 0\nVEC2 0 4.1 0\nVEC3 0 0 4.2\n"
    (tmp_path / "old.xyz").write_text(f"1\n\nPo 0 0 0\n{vectors}1\n\nPo 0 0 0\n{vectors}")
    frames = list(read_frames(str(tmp_path / "old.xyz")))
    assert [frame.atoms.cell.lengths().tolist() for frame in frames] == [[4.0, 4.1, 4.2]] * 2


def test_reading_is_lazy(xyz):
    damage(xyz, "2\n", "two\n", frame=1)
    frames = read_frames(str(xyz))
    assert next(frames).error is None
    assert next(frames).error is not None


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("POSCAR", "not a POSCAR\nat all\n"),
        ("broken.cif", "data_x\nloop_\n_atom_site_label\n"),
        ("broken.traj", "- of Ulm\x00\x00"),
        ("broken.json", "{"),
        ("unknown", "?"),
        ("empty.extxyz", ""),
        ("latin1.xyz", "1\n\u00e9\nPo 0 0 0\n"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:ase")
def test_an_unreadable_file_is_one_frame_with_an_error(tmp_path, file, content):
    (tmp_path / file).write_text(content, encoding="latin-1")
    (frame,) = read_frames(str(tmp_path / file))
    assert frame.atoms is None
    assert isinstance(frame.error, StructureFileError)
    assert file in str(frame.error)


def test_truncated_compressed_file(tmp_path, xyz):
    packed = tmp_path / "set.xyz.gz"
    packed.write_bytes(gzip.compress(xyz.read_bytes() * 50)[:-20])
    frames = list(read_frames(str(packed)))
    assert frames[-1].atoms is None
    assert "EOFError" in str(frames[-1].error)
    assert count_frames([str(packed)]) == len(frames)


def test_a_folder_is_no_file(tmp_path):
    (frame,) = read_frames(str(tmp_path))
    assert "is a folder. Give the files in it" in str(frame.error)


@pytest.mark.parametrize("index", ["99", "-6", "7:9"])
def test_an_index_outside_is_told(xyz, index):
    (frame,) = read_frames(f"{xyz}@{index}")
    assert frame.atoms is None
    assert str(frame.error) == f"{xyz}@{index} holds no structure. Check the file and the index."


def test_labels_of_a_selection_say_where_in_it(xyz):
    assert [frame.label for frame in read_frames(f"{xyz}@1:3")] == [f"{xyz}@1:3[0]", f"{xyz}@1:3[1]"]


def test_a_file_for_one_crystal_is_labelled_by_its_name(tmp_path, crystals):
    write(tmp_path / "POSCAR", crystals[0])
    (frame,) = read_frames(str(tmp_path / "POSCAR"))
    assert frame.label == str(tmp_path / "POSCAR")
    assert frame.atoms.get_chemical_formula() == "MgO"


def test_database_query(tmp_path, crystals):
    path = tmp_path / "set.db"
    with connect(path) as database:
        for k, atoms in enumerate(crystals):
            database.write(atoms, run=k)
    assert lattice_parameters(list(read_frames(f"{path}@run>2"))) == [4.3, 4.4]


class TestSplitIndex:
    def test_path_and_index(self, xyz):
        assert split_index(str(xyz)) == (str(xyz), slice(None))
        assert split_index(f"{xyz}@3") == (str(xyz), 3)
        assert split_index(f"{xyz}@0:10") == (str(xyz), slice(0, 10))

    def test_a_file_whose_name_holds_the_sign_wins(self, tmp_path, crystals):
        path = tmp_path / "a@3"
        write(path, crystals[0], format="vasp")
        assert split_index(str(path)) == (str(path), slice(None))

    def test_missing_file(self):
        with pytest.raises(StructureFileError, match=r"nowhere\.cif: no such file\. Check the name and the folder"):
            split_index("nowhere.cif@2")

    @pytest.mark.parametrize("index", ["first", "1:two", "::0", "1:2:3:4", ""])
    def test_wrong_index(self, xyz, index):
        message = f"the index {index!r} is not understood. Write @3 for one frame"
        with pytest.raises(StructureFileError, match=re.escape(message)):
            split_index(f"{xyz}@{index}")


class TestCountFrames:
    def test_adds_up(self, tmp_path, xyz, crystals):
        write(tmp_path / "POSCAR", crystals[0])
        assert count_frames([str(xyz), str(tmp_path / "POSCAR"), f"{xyz}@-1"]) == 7

    def test_says_when_it_would_have_to_read_everything(self, tmp_path, xyz, crystals):
        write(tmp_path / "set.cif", crystals)
        assert count_frames([str(xyz), str(tmp_path / "set.cif")]) is None
