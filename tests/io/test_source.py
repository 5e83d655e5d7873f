"""Sources: every structure is there, in order, under its name, and any part of them can be asked for."""

from __future__ import annotations

import gzip
import pickle
import re

import pytest
from ase.build import bulk
from ase.db import connect
from ase.io import write
from hypothesis import given
from hypothesis import strategies as st

from deeprelax_ase.errors import SourceError, StructureFileError
from deeprelax_ase.io.frame import Frame
from deeprelax_ase.io.reading import read
from deeprelax_ase.io.source import open_source, read_frames


def lattice_parameters(frames: list[Frame]) -> list[float]:
    return [round((4 * frame.atoms.cell.volume) ** (1 / 3), 6) for frame in frames if frame.atoms is not None]


def test_all_frames_in_order(xyz):
    frames = list(read_frames(str(xyz)))
    assert lattice_parameters(frames) == [4.0, 4.1, 4.2, 4.3, 4.4]
    assert [frame.label for frame in frames] == [f"{xyz}@{k}" for k in range(5)]


@pytest.mark.parametrize("ending", ["extxyz", "xyz", "xyz.gz", "traj", "cif", "db", "json"])
def test_every_format_gives_all_frames(tmp_path, crystals, ending):
    path = tmp_path / f"set.{ending}"
    write(path, crystals)
    assert lattice_parameters(list(read_frames(str(path)))) == [4.0, 4.1, 4.2, 4.3, 4.4]


@pytest.mark.parametrize("ending", ["extxyz", "traj", "cif", "db", "json"])
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
    assert open_source(name).count() == len(frames)


def test_info_arrays_and_energies_are_kept(tmp_path):
    atoms = bulk("Fe", cubic=True)
    atoms.info["name"] = "bcc iron"
    atoms.set_initial_magnetic_moments([2.2, 2.2])
    write(tmp_path / "fe.extxyz", atoms)
    (frame,) = read_frames(str(tmp_path / "fe.extxyz"))
    assert frame.atoms.info["name"] == "bcc iron"
    assert frame.atoms.get_initial_magnetic_moments().tolist() == [2.2, 2.2]


def test_reading_is_lazy(xyz, crystals):
    with xyz.open("a") as file:
        file.write("2\n" * 10_000_000)
    frames = read_frames(f"{xyz}@0:2")
    assert next(frames).error is None
    assert len(list(frames)) == 1


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("POSCAR", "not a POSCAR\nat all\n"),
        ("broken.cif", "data_x\nloop_\n_atom_site_label\n"),
        ("broken.traj", "- of Ulm\x00\x00"),
        ("broken.json", "{"),
        ("unknown", "?"),
        ("empty.extxyz", ""),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:ase")
def test_an_unreadable_file_is_one_frame_with_an_error(tmp_path, file, content):
    (tmp_path / file).write_text(content, encoding="latin-1")
    (frame,) = read_frames(str(tmp_path / file))
    assert frame.atoms is None
    assert isinstance(frame.error, StructureFileError)
    assert file in str(frame.error)


@pytest.mark.parametrize("content", ["", "\n", "data_x\n"])
def test_a_cif_without_a_structure_says_so(tmp_path, content):
    (tmp_path / "empty.cif").write_text(content)
    (frame,) = read_frames(str(tmp_path / "empty.cif"))
    assert "empty.cif cannot be read (no structure was found in it)" in str(frame.error)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("POSCAR", "DO\n1\n4 0 0\n0 4 0\n0 0 4\nD O\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"),
        ("d.extxyz", '1\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3\nD 0 0 0\n'),
    ],
)
def test_isotopes_are_told_what_to_be_written_as(tmp_path, file, content):
    (tmp_path / file).write_text(content)
    (frame,) = read_frames(str(tmp_path / file))
    assert "'D' is no chemical symbol in this format: write H for isotopes of hydrogen" in str(frame.error)


def test_truncated_compressed_file(tmp_path, xyz):
    packed = tmp_path / "set.xyz.gz"
    packed.write_bytes(gzip.compress(xyz.read_bytes() * 50)[:-20])
    frames = list(read_frames(str(packed)))
    assert frames[-1].atoms is None
    assert "EOFError" in str(frames[-1].error)
    assert open_source(packed).count() == len(frames)


@pytest.mark.parametrize("index", ["99", "-6", "7:9"])
def test_an_index_outside_is_told(xyz, index):
    (frame,) = read_frames(f"{xyz}@{index}")
    assert frame.atoms is None
    assert str(frame.error) == f"{xyz}@{index} holds no structure. Check the file and the index."
    assert open_source(f"{xyz}@{index}").count() == 1


def test_labels_of_a_selection_say_where_in_the_file(xyz):
    frames = list(read_frames(f"{xyz}@1:3"))
    assert [frame.label for frame in frames] == [f"{xyz}@1", f"{xyz}@2"]
    assert lattice_parameters(list(read_frames([frame.label for frame in frames]))) == [4.1, 4.2]


def test_a_file_for_one_crystal_is_labelled_and_named_by_its_name(tmp_path, crystals):
    write(tmp_path / "mp-1.vasp", crystals[0])
    (frame,) = read_frames(tmp_path / "mp-1.vasp")
    assert frame.label == str(tmp_path / "mp-1.vasp")
    assert frame.name == frame.atoms.info["name"] == "mp-1"


def test_several_sources_one_after_the_other(tmp_path, xyz, crystals):
    write(tmp_path / "POSCAR", crystals[0])
    names = [f"{xyz}@1", str(tmp_path / "missing.cif"), str(tmp_path / "POSCAR")]
    frames = list(read_frames(names))
    assert lattice_parameters(frames) == [4.1, 4.0]
    assert "no such file or folder" in str(frames[1].error)


def test_database_query(tmp_path, crystals):
    path = tmp_path / "set.db"
    with connect(path) as database:
        for k, atoms in enumerate(crystals):
            database.write(atoms, run=k)
    assert lattice_parameters(list(read_frames(f"{path}@run>2"))) == [4.3, 4.4]
    assert open_source(f"{path}@run>2").count() == 2
    (frame,) = read_frames(f"{path}@id=4")
    assert frame.label == f"{path}@id=4"


def test_a_part_of_a_folder(tmp_path, crystals):
    for number, atoms in enumerate(crystals):
        write(tmp_path / f"{number}.cif", atoms)
    source = open_source(f"{tmp_path}@1:-1")
    assert [frame.name for frame in source.frames()] == ["1", "2", "3"]
    assert source.count() == 3


def test_a_part_is_another_source_than_the_whole(xyz):
    digests = {open_source(f"{xyz}{index}").digest() for index in ("", "@0:2", "@0:3", "@0")}
    assert len(digests) == 4
    assert open_source(xyz).digest() == open_source(str(xyz)).digest()


def test_references_are_read_by_another_process(xyz):
    refs = pickle.loads(pickle.dumps(list(open_source(xyz).refs())))
    assert lattice_parameters([read(ref) for ref in refs]) == [4.0, 4.1, 4.2, 4.3, 4.4]


def test_a_file_that_goes_away_stops_the_reading(tmp_path, crystals):
    """Its structures are not at fault, and a run that goes on finds them again."""
    for number, atoms in enumerate(crystals):
        write(tmp_path / f"{number}.cif", atoms)
    source = open_source(tmp_path)
    refs = list(source.refs())
    (tmp_path / "3.cif").rename(tmp_path / "away")
    with pytest.raises(SourceError, match=r"3\.cif cannot be read now: No such file"):
        read(refs[3])
    with pytest.raises(SourceError):
        list(source.refs())
    with pytest.raises(SourceError):
        source.count()
    with pytest.raises(SourceError):
        source.digest()
    (tmp_path / "away").rename(tmp_path / "3.cif")
    assert read(refs[3]).error is None


def test_an_error_of_the_system_travels_between_processes(tmp_path):
    error = pickle.loads(pickle.dumps(SourceError(2, "gone")))
    assert isinstance(error, SourceError)
    assert str(error) == "gone"


class TestOpenSource:
    def test_a_file_whose_name_holds_the_sign_wins(self, tmp_path, crystals):
        path = tmp_path / "POSCAR@3"
        write(path, crystals[0], format="vasp")
        (frame,) = open_source(path).frames()
        assert len(frame.atoms) == 2

    def test_missing_file(self):
        with pytest.raises(StructureFileError, match=r"nowhere\.cif: no such file or folder\. Check the name"):
            open_source("nowhere.cif@2")

    @pytest.mark.parametrize("index", ["first", "1:two", "::0", "1:2:3:4", ""])
    def test_wrong_index(self, xyz, index):
        message = f"the index {index!r} is not understood. Write @3 for one structure"
        with pytest.raises(StructureFileError, match=re.escape(message)):
            open_source(f"{xyz}@{index}")
