"""Rows of Parquet files."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ase.build import bulk

from deeprelax_ase.errors import SourceError
from deeprelax_ase.io import parquet
from deeprelax_ase.io.reading import read
from deeprelax_ase.io.source import open_source
from deeprelax_ase.screening.blocks import table_of
from deeprelax_ase.screening.rows import structures_table

#: More than become Python objects together, and more than a row group.
NUMBER = 620


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "set.parquet"
    crystals = [bulk("Cu", a=3.5 + 0.001 * n) for n in range(NUMBER)]
    pq.write_table(structures_table(crystals, ids=[f"x{n}" for n in range(NUMBER)]), path, row_group_size=300)
    return path


@pytest.mark.parametrize("largest", [0, parquet.LARGEST_GROUP])
def test_every_row_is_read_once_and_in_order(file: Path, largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "LARGEST_GROUP", largest)
    source = open_source(str(file))
    refs = list(source.refs())
    assert {ref.kind for ref in refs} == {"place" if largest else "row"}
    assert source.count() == len(refs) == NUMBER
    table = table_of(refs, first_index=0)
    assert table.column("id").to_pylist() == [f"x{n}" for n in range(NUMBER)]
    assert table.column("cell").to_pylist() == pq.read_table(file).column("cell").to_pylist()
    assert table.column("source").to_pylist()[-1] == f"{file}@{NUMBER - 1}"


def test_a_row_far_away_is_found(file: Path) -> None:
    places = list(parquet.rows_of(file))
    assert [parquet.row_at(places[n])["id"] for n in (619, 3, 299, 300, 0)] == ["x619", "x3", "x299", "x300", "x0"]


def test_a_file_written_anew_is_read_anew(file: Path) -> None:
    (first, *_) = parquet.rows_of(file)
    assert parquet.row_at(first)["id"] == "x0"
    pq.write_table(structures_table([bulk("Ag")], ids=["new"]), file)
    (only,) = parquet.rows_of(file)
    assert parquet.row_at(only)["id"] == "new"


def test_a_damaged_row_group_costs_its_rows_alone(file: Path) -> None:
    content = bytearray(file.read_bytes())
    column = pq.read_metadata(file).row_group(1).column(0)
    start, length = column.data_page_offset, column.total_compressed_size // 2
    content[start : start + length] = b"\xff" * length
    file.write_bytes(content)
    source = open_source(str(file))
    table = table_of(source.refs(), first_index=0)
    wrong = [n for n, error in enumerate(table.column("error").to_pylist()) if error]
    assert source.count() == table.num_rows == NUMBER
    assert wrong == list(range(300, 600))
    assert isinstance(table, pa.Table)


def test_a_file_written_anew_while_it_is_read_stops_the_reading(file: Path) -> None:
    refs = list(open_source(file).refs())
    pq.write_table(structures_table([bulk("Ag")], ids=["new"]), file)
    with pytest.raises(SourceError, match="was written anew while it was read"):
        read(refs[-1])


def test_expected_errors_are_no_messages(tmp_path: Path) -> None:
    """A screening's own results: numbers in ``error``, and texts in ``reason``."""
    table = structures_table([bulk("Cu"), bulk("Ag")], ids=["007", "True"]).drop_columns(["error"])
    table = table.append_column("error", pa.array([0.01, None])).append_column("reason", pa.array([None, "unlike"]))
    pq.write_table(table, tmp_path / "results.parquet")
    frames = list(open_source(tmp_path / "results.parquet").frames())
    assert [frame.error for frame in frames] == [None, None]
    assert [frame.name for frame in frames] == ["007", "True"]


def test_a_row_that_cannot_be_read_keeps_its_name(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a"], "numbers": [[29]], "positions": [[0.0] * 3]}), tmp_path / "set.parquet")
    (frame,) = open_source(tmp_path / "set.parquet").frames()
    assert frame.name == "a"
    assert "no ['cell']" in str(frame.error)


def test_rows_that_cannot_be_reached_have_errors(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a row group that is too large to be kept, damage ends the reading."""
    monkeypatch.setattr(parquet, "LARGEST_GROUP", 0)
    content = bytearray(file.read_bytes())
    column = pq.read_metadata(file).row_group(1).column(0)
    start = column.data_page_offset
    content[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    file.write_bytes(content)
    frames = list(open_source(file).frames())
    assert open_source(file).count() == len(frames) == NUMBER
    assert [frame.error is None for frame in frames[:300]] == [True] * 300
    assert "is damaged before it" in str(frames[-1].error)


def test_numbers_of_rows_that_do_not_add_up(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = SimpleNamespace(num_rows=10**15, total_byte_size=0)
    metadata = SimpleNamespace(num_rows=NUMBER, row_group=lambda number: group)
    monkeypatch.setattr(pq.ParquetFile, "metadata", metadata)
    (frame,) = open_source(file).frames()
    assert f"it says that it has {NUMBER} rows, and [1000000000000000" in str(frame.error)
    assert open_source(file).count() == 1


def test_rows_tell_in_which_directions_they_repeat(tmp_path: Path) -> None:
    layer = bulk("Cu", cubic=True)
    layer.pbc = [True, True, False]
    path = tmp_path / "set.parquet"
    pq.write_table(structures_table([bulk("Ag"), layer]), path)
    found = [read(ref).atoms for ref in open_source(str(path)).refs()]
    assert [atoms.pbc.tolist() for atoms in found if atoms is not None] == [[True] * 3, [True, True, False]]
    assert table_of(open_source(str(path)).refs()).column("pbc").to_pylist() == [None, [True, True, False]]
