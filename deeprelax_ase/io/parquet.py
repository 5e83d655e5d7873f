"""Rows of Parquet files: told by their place, and read by the process that relaxes them."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from deeprelax_ase.errors import SourceError, StructureFileError

#: Bytes, unpacked, of the largest row group that every process may hold; larger ones are read once, by the first.
LARGEST_GROUP = 2**26

#: Rows that become Python objects together.
_ROWS = 250


class RowRef(NamedTuple):
    """Place of a row.

    Attributes:
        path: the file.
        changed: when it was written last, so that no row of an older file is taken for it.
        group, row: row group, and number within that.
    """

    path: str
    changed: int
    group: int
    row: int


def count_rows(path: Path) -> int:
    """Return the number of rows that the file states.

    Raises:
        StructureFileError: it is damaged: its parts say something else.
    """
    with pq.ParquetFile(path) as file:
        return _number_of_rows(file)


def rows_of(path: Path) -> Iterator[RowRef | dict[str, Any]]:
    """Yield the place of each row, or the row itself where it is in a large row group."""
    changed, name = path.stat().st_mtime_ns, str(path)
    with pq.ParquetFile(path) as file:
        _number_of_rows(file)
        for number in range(file.num_row_groups):
            group = file.metadata.row_group(number)
            if group.total_byte_size <= LARGEST_GROUP:
                yield from (RowRef(name, changed, number, row) for row in range(group.num_rows))
            else:
                for batch in file.iter_batches(batch_size=_ROWS, row_groups=[number]):
                    yield from batch.to_pylist()


def _number_of_rows(file: pq.ParquetFile) -> int:
    told, groups = file.metadata.num_rows, [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    if min(groups, default=0) < 0 or sum(groups) != told:
        raise StructureFileError(f"it says that it has {told} rows, and {groups[:5]} in its parts")
    return told


def row_at(place: RowRef) -> dict[str, Any]:
    """The row there; quick for rows that follow each other."""
    part, number = divmod(place.row, _ROWS)
    return _some_rows(place.path, place.changed, place.group, part)[number]


@lru_cache(maxsize=1)
def _some_rows(path: str, changed: int, group: int, part: int) -> list[dict[str, Any]]:
    return group_at(path, changed, group).slice(part * _ROWS, _ROWS).to_pylist()


@lru_cache(maxsize=1)
def group_at(path: str, changed: int, number: int) -> pa.Table:
    """The rows of a row group of a file that was written last at ``changed``.

    Raises:
        SourceError: it was written anew.
    """
    if Path(path).stat().st_mtime_ns != changed:
        raise SourceError(errno.ESTALE, f"{path} was written anew while it was read. Begin anew with it.")
    with pq.ParquetFile(path) as file:
        return file.read_row_group(number)
