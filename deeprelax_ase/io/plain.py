"""Plain structures read together: arrays in place of the objects that libraries make of each, where these agree.

Rows of Parquet files and frames of extended XYZ that hold elements, positions and a cell, periodic in all directions,
and nothing that bears on a relaxation besides. All others are left to :func:`~deeprelax_ase.io.reading.read`, which
also says what is wrong with one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from deeprelax_ase.io.documents import STRUCTURE_KEYS
from deeprelax_ase.io.frame import ID_KEYS, StructureRef, name_in

if TYPE_CHECKING:
    import pyarrow as pa

    from deeprelax_ase.io.parquet import RowRef


class PlainFrames(NamedTuple):
    """Structures of G of the references, N atoms in all.

    Attributes:
        places: (G,) of the references among all, ascending.
        names: of each, as :func:`~deeprelax_ase.io.reading.read` would name it.
        numbers: (N,) atomic numbers.
        positions: (N, 3) Å.
        cells: (G, 3, 3) Å.
        counts: (G,) atoms of each.
    """

    places: np.ndarray
    names: list[str]
    numbers: np.ndarray
    positions: np.ndarray
    cells: np.ndarray
    counts: np.ndarray


def plain_frames(refs: Sequence[StructureRef], id_key: str | None = None) -> PlainFrames | None:
    """Read the plain structures among ``refs``; None where there are none, or ``refs`` are of several kinds.

    Args:
        refs: any number.
        id_key: see :func:`~deeprelax_ase.io.reading.read`.
    """
    kinds = {ref.kind for ref in refs}
    if kinds == {"xyz"}:
        parts = [_frame(n, ref, id_key) for n, ref in enumerate(refs)]
    elif kinds == {"place"}:
        parts = _rows(refs, id_key)
    else:
        return None
    found = [part for part in parts if part is not None]
    if not found:
        return None
    places, names, *arrays = zip(*found, strict=True)
    return PlainFrames(np.concatenate(places), [n for each in names for n in each], *map(np.concatenate, arrays))


# -- Parquet


def _rows(refs: Sequence[StructureRef], id_key: str | None) -> list[PlainFrames | None]:
    parts, first = [], 0
    for (path, changed, group), run in groupby([ref.content for ref in refs], key=lambda place: place[:3]):
        places: list[RowRef] = list(run)
        here = refs[first : first + len(places)]
        parts.append(_rows_of_group(here, places, (path, changed, group), first, id_key))
        first += len(places)
    return parts


def _rows_of_group(
    refs: Sequence[StructureRef], places: list[RowRef], where: tuple[str, int, int], first: int, id_key: str | None
) -> PlainFrames | None:
    import pyarrow as pa

    from deeprelax_ase.io import parquet

    rows = np.array([place.row for place in places])
    try:
        table = parquet.group_at(*where)
    except Exception:  # whatever a damaged file makes pyarrow raise: who reads a row alone is told
        return None
    table = table.slice(rows[0], len(rows)) if (np.diff(rows) == 1).all() else table.take(rows)
    known = set(table.column_names)
    lists = [table.column(name).combine_chunks() for name in ("numbers", "positions", "cell") if name in known]
    if len(lists) < 3 or not all(pa.types.is_list(each.type) for each in lists):
        return None
    counts, *lengths = (each.value_lengths().fill_null(0).to_numpy(zero_copy_only=False) for each in lists)
    chosen = (counts > 0) & (lengths[0] == 3 * counts) & (lengths[1] == 9)
    for name in ("error", "pbc", "constraints", *STRUCTURE_KEYS):
        if name in known and (name != "error" or pa.types.is_string(table.schema.field(name).type)):
            chosen &= table.column(name).is_null().to_numpy(zero_copy_only=False)
    if not chosen.any():
        return None
    if not chosen.all():
        table, lists = table.filter(chosen), [each.filter(chosen) for each in lists]
    values = [each.flatten() for each in lists]
    if any(each.null_count or not _is_number(each.type) for each in values):
        return None
    keys = [key for key in ((id_key,) if id_key else ID_KEYS) if key in known]
    named = zip(*(table.column(key).to_pylist() for key in keys), strict=True) if keys else [()] * len(table)
    kept = np.flatnonzero(chosen)
    names = [
        name_in(dict(zip(keys, row, strict=True)), id_key) or refs[place].name or refs[place].source
        for place, row in zip(kept.tolist(), named, strict=True)
    ]
    numbers, positions, cells = (each.to_numpy(zero_copy_only=False) for each in values)
    return _frames(kept + first, names, numbers, positions, cells, counts[kept])


def _frames(places: Any, names: list[str], numbers: Any, positions: Any, cells: Any, counts: Any) -> PlainFrames:
    positions, cells = (np.asarray(values, dtype=float) for values in (positions, cells))
    return PlainFrames(
        np.asarray(places), names, np.asarray(numbers), positions.reshape(-1, 3), cells.reshape(-1, 3, 3), counts
    )


def _is_number(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


# -- Extended XYZ

#: A key of the comment and its value, in quotes or without, that all readers understand alike.
_ITEM = re.compile(r'\s*([A-Za-z_]\w*)=(?:"([\w.+\-:/ ]+)"|([\w.+\-:/]+))(?=\s|$)')

#: Columns of the atoms that are read: element and position, and properties that bear on no relaxation.
_COLUMNS = re.compile(r"species:S:1:pos:R:3((?::(?:forces:R:3|magmoms:R:1))*)")

#: Keys that ASE makes more of than a value, or that say that sites are shared.
_MEANINGFUL = ("occupancy", "stress", "stresses", "virial", "virials", "dipole", "charges", "forces", "magmoms", "velo")

_NUMBER = re.compile(r"[\d.+\-eE\s]+")


def _frame(place: int, ref: StructureRef, id_key: str | None) -> PlainFrames | None:
    block: bytes = ref.content
    head, _, rest = block.decode("latin-1").partition("\n")
    comment, _, body = rest.partition("\n")
    simple = block.isascii() and id_key in (None, *ID_KEYS)  # of other names ASE makes numbers
    values = _comment(comment) if simple else None
    if values is None or not set(values).isdisjoint(_MEANINGFUL) or values.get("pbc", "T T T") != "T T T":
        return None
    lattice, columns = values.get("Lattice", ""), _COLUMNS.fullmatch(values.get("Properties", ""))
    if columns is None or not _NUMBER.fullmatch(lattice):
        return None
    tokens, count, width = body.split(), int(head), 4 + sum(int(digit) for digit in columns[1] if digit.isdigit())
    if len(tokens) != width * count or body.rstrip("\n").count("\n") != count - 1:
        return None
    try:
        cell = np.array([float(text) for text in lattice.split()]).reshape(1, 3, 3)
        numbers = np.array([_atomic_numbers()[symbol] for symbol in tokens[::width]])
        rest_of = [[float(text) for text in tokens[first::width]] for first in range(1, width)]
    except (KeyError, ValueError):
        return None
    name = name_in(values, id_key) or ref.name or ref.source
    return _frames([place], [name], numbers, np.array(rest_of[:3]).T, cell, np.array([count]))


def _comment(text: str) -> Mapping[str, str] | None:
    """Read the keys and values of a comment; None where one is not simple, or there twice."""
    values: dict[str, str] = {}
    end, text = 0, text.rstrip()
    while end < len(text):
        item = _ITEM.match(text, end)
        if item is None or item[1] in values:
            return None
        values[item[1]] = item[3] if item[2] is None else item[2]
        end = item.end()
    return values


def _atomic_numbers() -> Mapping[str, int]:
    from ase.data import atomic_numbers

    return atomic_numbers
