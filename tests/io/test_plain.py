"""Plain structures are read together as the readers read each; whatever is not plain is left to those."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write
from hypothesis import given
from hypothesis import strategies as st

from deeprelax_ase.io.frame import StructureRef
from deeprelax_ase.io.plain import plain_frames
from deeprelax_ase.io.reading import read
from deeprelax_ase.io.source import open_source

LATTICE = 'Lattice="4 0 0 0 4.5 0 0.1 0 5"'
PROPERTIES = "Properties=species:S:1:pos:R:3"
ATOMS = "Mg 0.0 0.0 0.0\nO 2.0 2.25 -2.5e-1\n"


def assert_read_alike(refs: list[StructureRef], *, places: list[int], id_key: str | None = None) -> None:
    """The plain ones are at these ``places``, and are what the readers make of them, to the last bit."""
    frames = plain_frames(refs, id_key)
    assert places == ([] if frames is None else frames.places.tolist())
    if frames is None:
        return
    ends = np.cumsum(frames.counts)
    for n, place in enumerate(places):
        alone, atoms = read(refs[place], id_key=id_key), slice(ends[n] - frames.counts[n], ends[n])
        assert alone.name == frames.names[n]
        assert alone.atoms is not None
        assert alone.atoms.pbc.all()
        assert not alone.atoms.constraints
        np.testing.assert_array_equal(alone.atoms.numbers, frames.numbers[atoms])
        np.testing.assert_array_equal(alone.atoms.positions, frames.positions[atoms])
        np.testing.assert_array_equal(alone.atoms.cell.array, frames.cells[n])


def frame(comment: str, atoms: str = ATOMS) -> StructureRef:
    return StructureRef("file.extxyz@0", "xyz", f"2\n{comment}\n{atoms}".encode())


@pytest.mark.parametrize(
    "comment",
    [
        f"{LATTICE} {PROPERTIES}",
        f'{LATTICE} {PROPERTIES} pbc="T T T"',
        f'{PROPERTIES} id=mp-12 {LATTICE} source="prototype 12" energy=-1.25',
        f'{LATTICE} {PROPERTIES} material_id="two words" id=other',
        f"{LATTICE} {PROPERTIES} id=0012",
        f"{LATTICE} {PROPERTIES} id=T name=1e3",
    ],
)
def test_simple_comments_are_read_as_by_ase(comment: str) -> None:
    assert_read_alike([frame(comment)], places=[0])
    assert_read_alike([frame(comment)], places=[0], id_key="id")
    assert_read_alike([frame(comment)], places=[], id_key="energy")


def test_further_columns_are_passed_over() -> None:
    atoms = "Mg 0 0 0 0.1 0.2 0.3 1\nO 2 2 2 0.1 0.2 0.3 -1\n"
    assert_read_alike([frame(f"{LATTICE} {PROPERTIES}:forces:R:3:magmoms:R:1", atoms)], places=[0])


@pytest.mark.parametrize(
    ("comment", "atoms"),
    [
        (f'{LATTICE} {PROPERTIES} pbc="T T F"', ATOMS),
        (f'{LATTICE} {PROPERTIES} occupancy="half"', ATOMS),
        (f'{LATTICE} {PROPERTIES} stress="1 2 3 4 5 6"', ATOMS),
        (f"{LATTICE} {PROPERTIES} id=a id=b", ATOMS),
        (f"{LATTICE} {PROPERTIES} id= name=b", ATOMS),
        (f'{LATTICE} {PROPERTIES} tags={{1 2}} name="b c"', ATOMS),
        (f"{LATTICE} {PROPERTIES} name=Mgö", ATOMS),
        (f"{LATTICE} {PROPERTIES}:move_mask:L:1", "Mg 0 0 0 T\nO 2 2 2 F\n"),
        (PROPERTIES, ATOMS),
        ('Lattice="4 0 0 0 4 0 0 0" ' + PROPERTIES, ATOMS),
        (f"{LATTICE} {PROPERTIES}", "Xx 0 0 0\nO 2 2 2\n"),
        (f"{LATTICE} {PROPERTIES}", "Mg 0 0\nO 2 2 2 1\n"),
        (f"{LATTICE} {PROPERTIES}", "Mg 0 0 zero\nO 2 2 2\n"),
        (f"{LATTICE} {PROPERTIES}", f"{ATOMS}VEC1 4 0 0\n"),
    ],
)
def test_what_is_not_plain_is_left_to_the_readers(comment: str, atoms: str) -> None:
    assert_read_alike([frame(comment, atoms)], places=[])


@given(
    st.lists(st.text(st.characters(codec="ascii", exclude_characters="\n\r"), max_size=12), max_size=3),
    st.sampled_from(["", "id=", 'name="', "x=", "material_id="]),
)
def test_whatever_a_comment_says_it_is_read_alike_or_left(words: list[str], key: str) -> None:
    ref = frame(f"{LATTICE} {PROPERTIES} {key}{' '.join(words)}")
    found = plain_frames([ref])
    if found is not None:
        assert_read_alike([ref], places=[0])


def rows(tmp_path: Path, **columns: object) -> list[StructureRef]:
    """References to three rows of two atoms each, with ``columns`` added or put in place of their own."""
    plain: dict[str, object] = {
        "id": ["a", "", None],
        "numbers": [[12, 8]] * 3,
        "positions": [[0.0, 0, 0, 2, 2.25, 2.5 + n] for n in range(3)],
        "cell": [[4.0, 0, 0, 0, 4.5, 0, 0, 0, 5]] * 3,
    }
    pq.write_table(pa.table({**plain, **columns}), tmp_path / "rows.parquet", row_group_size=2)
    return list(open_source(tmp_path / "rows.parquet").refs())


def test_rows_of_a_table_over_its_groups(tmp_path: Path) -> None:
    refs = rows(tmp_path)
    assert_read_alike(refs, places=[0, 1, 2])
    assert_read_alike(refs[::2], places=[0, 1])
    assert_read_alike(refs, places=[0, 1, 2], id_key="numbers")


@pytest.mark.parametrize(
    ("column", "values", "places"),
    [
        ("error", [None, "it is broken", None], [0, 2]),
        ("error", [0.1, 0.2, 0.3], [0, 1, 2]),
        ("pbc", [None, None, [True, True, False]], [0, 1]),
        ("numbers", [[12, 8], None, []], [0]),
        ("positions", [[0.0, 0, 0, 2, 2.25, 2.5], [0.0, 0, 0], None], [0]),
        ("numbers", [["Mg", "O"]] * 3, []),
        ("structure", [None, "{}", None], [0, 2]),
    ],
)
def test_other_rows_are_left_to_the_reader(column: str, values: list, places: list[int], tmp_path: Path) -> None:
    assert_read_alike(rows(tmp_path, **{column: values}), places=places)


def test_sources_of_other_formats_have_none(tmp_path: Path, xyz: Callable[[], Path]) -> None:
    write(tmp_path / "one.cif", bulk("Cu"))
    refs = list(open_source(tmp_path / "one.cif").refs())
    assert plain_frames(refs) is None
    assert plain_frames([*refs, frame(f"{LATTICE} {PROPERTIES}")]) is None
    assert plain_frames([]) is None


def test_what_ase_writes_is_plain(tmp_path: Path) -> None:
    given = [bulk("NaCl", "rocksalt", a=5.5), Atoms("CO", [[0, 0, 0], [0, 0, 1.1]], cell=[9, 9, 9], pbc=True)]
    given[0].info |= {"material_id": "mp-1", "volume": 41.6}
    write(tmp_path / "two.extxyz", given)
    assert_read_alike(list(open_source(tmp_path / "two.extxyz").refs()), places=[0, 1])
