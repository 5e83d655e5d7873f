"""Extended XYZ: a damaged frame costs itself alone, wherever the damage is."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from ase.build import bulk
from ase.io import write
from ase.io.extxyz import write_xyz
from hypothesis import given
from hypothesis import strategies as st

from deeprelax_ase.io import xyz
from deeprelax_ase.io.frame import Frame, name_in
from deeprelax_ase.io.source import open_source, read_frames

CASES = Path(__file__).parents[3] / "shared" / "cases" / "inputs"


def lattice_parameters(frames: list[Frame]) -> list[float]:
    return [round((4 * frame.atoms.cell.volume) ** (1 / 3), 6) for frame in frames if frame.atoms is not None]


def damage(path: Path, old: str, new: str, *, frame: int) -> None:
    """Replace ``old`` by ``new`` in one frame of four lines."""
    lines = path.read_text().splitlines(keepends=True)
    text = "".join(lines[4 * frame : 4 * frame + 4])
    assert old in text
    path.write_text("".join(lines[: 4 * frame]) + text.replace(old, new) + "".join(lines[4 * frame + 4 :]))


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
    assert open_source(xyz).count() == 5


def test_a_file_that_ends_early_loses_its_last_frame_only(xyz):
    text = xyz.read_text().splitlines(keepends=True)
    xyz.write_text("".join(text[:-1]))
    frames = list(read_frames(str(xyz)))
    assert lattice_parameters(frames) == [4.0, 4.1, 4.2, 4.3]
    assert "the file ends after 1 of 2 atoms" in str(frames[4].error)
    assert open_source(xyz).count() == 5


def test_a_lost_beginning_of_a_frame_costs_that_frame(xyz):
    damage(xyz, "2\n", "two\n", frame=3)
    frames = list(read_frames(xyz))
    assert lattice_parameters(frames) == [4.0, 4.1, 4.2, 4.4]
    assert "a number of atoms was expected, not 'two'" in str(frames[3].error)
    assert open_source(xyz).count() == 5


@pytest.mark.parametrize("frame", [0, 2, 4])
def test_a_line_too_many_costs_the_frame_that_has_it(xyz, frame):
    damage(xyz, "Mg ", "O 0 0 0\nMg ", frame=frame)
    frames = list(read_frames(xyz))
    assert [n for n, found in enumerate(frames) if found.error] == [frame]
    assert "1 lines more than its 2 atoms" in str(frames[frame].error)
    assert open_source(xyz).count() == 5


@pytest.mark.parametrize("frame", [0, 2])
def test_a_line_too_few_costs_the_frame_that_lacks_it(xyz, frame):
    lines = xyz.read_text().splitlines(keepends=True)
    del lines[4 * frame + 3]
    xyz.write_text("".join(lines))
    frames = list(read_frames(xyz))
    assert [n for n, found in enumerate(frames) if found.error] == [frame]
    assert "the frame ends after 1 of 2 atoms" in str(frames[frame].error)


@given(st.lists(st.tuples(st.integers(0, 29), st.sampled_from(["delete", "double", "junk", "99"])), max_size=4))
def test_whatever_is_damaged_the_frames_far_from_it_are_read(tmp_path_factory, changes):
    """Each frame of three atoms has five lines; damage may cost its own frame, and the next one."""
    text = StringIO()
    write(text, [bulk("Cu").repeat((3, 1, 1)) for _ in range(6)], format="extxyz")
    lines = text.getvalue().splitlines(keepends=True)
    for line, change in sorted(changes, reverse=True):
        lines[line : line + 1] = {"delete": [], "double": lines[line : line + 1] * 2}.get(change, [f"{change}\n"])
    path = tmp_path_factory.getbasetemp() / "changed.extxyz"
    path.write_text("".join(lines))
    frames = list(read_frames(path))
    touched = {line // 5 for line, _ in changes}
    safe = [n for n in range(6) if not {n - 1, n} & touched]
    assert sum(frame.error is None for frame in frames) >= len(safe)


@pytest.mark.skipif(not CASES.exists(), reason="the cases are not here")
@pytest.mark.parametrize(("name", "bad"), [("extra_line", 1), ("latin1", 0)])
def test_the_cases(name, bad):
    frames = list(read_frames(CASES / f"{name}.extxyz"))
    assert len(frames) == 200
    assert sum(frame.error is not None for frame in frames) == bad


def test_names_of_another_encoding_are_escaped(tmp_path):
    path = tmp_path / "set.extxyz"
    write(path, [bulk("Cu"), bulk("Ag")])
    path.write_bytes(path.read_bytes().replace(b'pbc="T T T"', b'pbc="T T T" material_id=caf\xe9', 1))
    first, second = read_frames(path)
    assert first.name == first.atoms.info["material_id"] == "caf\\udce9"
    assert second.error is None


@pytest.mark.parametrize("name", ["007", "True", "1e5", "T", "3.10", "mp-1", '"1 2"'])
def test_names_stay_as_they_are_written(tmp_path, name):
    path = tmp_path / "set.extxyz"
    write(path, bulk("Cu"))
    path.write_text(path.read_text().replace('pbc="T T T"', f'pbc="T T T" material_id={name}'))
    (frame,) = read_frames(path)
    assert frame.name == frame.atoms.info["material_id"] == name.strip('"')


def test_blank_lines_between_frames_lose_nothing(xyz):
    lines = xyz.read_text().splitlines(keepends=True)
    xyz.write_text("\n" + "".join(lines[:4]) + "\n \n" + "".join(lines[4:]) + "\n")
    assert lattice_parameters(list(read_frames(str(xyz)))) == [4.0, 4.1, 4.2, 4.3, 4.4]


def test_lattice_vectors_as_lines_after_the_atoms(tmp_path):
    vectors = "VEC1 4.0 0 0\nVEC2 0 4.1 0\nVEC3 0 0 4.2\n"
    (tmp_path / "old.xyz").write_text(f"1\n\nPo 0 0 0\n{vectors}1\n\nPo 0 0 0\n{vectors}")
    frames = list(read_frames(str(tmp_path / "old.xyz")))
    assert [frame.atoms.cell.lengths().tolist() for frame in frames] == [[4.0, 4.1, 4.2]] * 2


def test_empty_values_are_empty() -> None:
    """As ASE writes them, which reads the next key as the value, so that it loses that too."""
    written = StringIO()
    atoms = bulk("Cu")
    atoms.info |= {"id": "", "note": "", "energy": 2.5, "told": "a= b=c"}
    write_xyz(written, [atoms])
    assert " id= note= " in written.getvalue()
    found = xyz.parse(written.getvalue().encode())
    assert {key: found.info[key] for key in ("id", "note", "told")} == {"id": "", "note": "", "told": "a= b=c"}
    assert found.pbc.all()
    assert name_in(found.info | {"name": "copper"}) == "copper"
    for end in (b"id=", b'id=""', b'id="" '):
        bare = b'1\nProperties=species:S:1:pos:R:3 Lattice="4 0 0 0 4 0 0 0 4" %s\nCu 0 0 0\n' % end
        assert xyz.parse(bare).info == {"id": ""}
