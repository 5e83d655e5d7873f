"""Crystals as Arrow tables: the columns that go into a screening and those that come out."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from deeprelax_ase.crystal import Crystal, crystal_as_it_is, crystal_or_error
from deeprelax_ase.errors import DeepRelaxError
from deeprelax_ase.io.constraints import constraints_of
from deeprelax_ase.io.frame import escaped
from deeprelax_ase.prediction.judgement import is_refusal
from deeprelax_ase.prediction.record import labelled_atoms
from deeprelax_ase.prediction.result import COLUMNS, GEOMETRY, RelaxationResult, geometry_of, schema

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

_RESULT = schema()
_REASONS = [pa.field("error", pa.string()), pa.field("refused", pa.bool_())]
_NAMES = [pa.field("index", pa.int64()), pa.field("id", pa.string()), pa.field("source", pa.string())]

#: Rows of crystals to relax, one for each. ``index`` counts them over all inputs; ``id`` is the user's name and
#: may repeat; ``source`` says where it was read; ``numbers`` are atomic numbers (N), ``positions`` (3 N) and ``cell``
#: (9, lattice vectors in rows) are in Å, as they were given; ``pbc`` (3) says in which directions they repeat, where
#: that is not all: such cells get vacuum when they are relaxed. ``constraints`` of the atoms are JSON in ASE's form.
#: ``error`` says why a row cannot be relaxed, and ``refused`` whether the crystal was read, and is the reason.
INPUT = pa.schema([*_NAMES, *(_RESULT.field(name) for name in GEOMETRY), *_REASONS])

#: Rows of results: names as above, and :data:`~deeprelax_ase.prediction.result.COLUMNS`. Where the status is
#: "refused" or "failed", the geometry is the given one.
OUTPUT = pa.schema([*_NAMES, *_RESULT])


def structures_table(
    structures: Iterable[Crystal | Atoms | Structure | DeepRelaxError],
    *,
    ids: Sequence[str] | None = None,
    sources: Sequence[str] | None = None,
    first_index: int = 0,
) -> pa.Table:
    """A table of :data:`INPUT`; structures that cannot be relaxed are rows that say why.

    Args:
        structures: crystals, or the errors in place of those that could not be read.
        ids: of each; its index by default.
        sources: the source of each; nothing by default.
        first_index: index of the first one.

    Raises:
        ValueError: there are more or fewer ids or sources than structures.
    """
    rows = [{"index": first_index + n, **_row(structure)} for n, structure in enumerate(structures)]
    for name, values in (("id", ids), ("source", sources)):
        if values is not None and len(values) != len(rows):
            raise ValueError(f"{len(values)} {name}s, but {len(rows)} structures")
        for row, value in zip(rows, values or itertools.repeat(""), strict=False):
            row[name] = escaped(value)
    if ids is None:
        for row in rows:
            row["id"] = str(row["index"])
    return pa.Table.from_pylist(rows, schema=INPUT)


def _row(structure: Any) -> dict[str, Any]:
    found = structure if isinstance(structure, Exception) else crystal_or_error(structure)
    if isinstance(found, Crystal):
        try:
            return geometry_of(found.as_given)
        except DeepRelaxError as error:  # constraints that cannot be kept
            found = error
    given = crystal_as_it_is(structure)
    drawable = given is not None and len(given) and given.numbers.min() >= 1 and given.numbers.max() <= 118
    told = {"error": escaped(" ".join(str(found).split())), "refused": is_refusal(found)}
    return {**(geometry_of(given) if given is not None and drawable else {}), **told}


def numbered(table: pa.Table, index: Iterable[int | None]) -> pa.Table:
    """``table`` with another column ``index``."""
    return table.set_column(table.schema.get_field_index("index"), INPUT.field("index"), pa.array(index, pa.int64()))


def crystals_of(table: pa.Table) -> list[Crystal | None]:
    """The crystal of each row, unchecked and as it stands there; None where there is none."""
    known = set(table.column_names)  # some ask for a part of the columns
    columns = [_values(table.column(name)) if name in known else [None] * len(table) for name in GEOMETRY]
    return [
        None if n is None or not len(n) else Crystal(n, p, c, True if pbc is None else pbc, constraints_of(held))
        for n, p, c, pbc, held in zip(*columns, strict=True)
    ]


def _values(column: pa.ChunkedArray) -> list[Any]:
    return column.to_pylist() if pa.types.is_string(column.type) else arrays_of(column)


def arrays_of(column: pa.ChunkedArray) -> list[np.ndarray | None]:
    """The list of each row as an array."""
    found: list[np.ndarray | None] = []
    for chunk in column.chunks:
        values = chunk.flatten().to_numpy(zero_copy_only=False)
        lengths = chunk.value_lengths().to_numpy(zero_copy_only=False)
        cuts = np.cumsum(np.nan_to_num(lengths).astype(int))
        missing = chunk.is_null().to_numpy(zero_copy_only=False)
        parts = np.split(values, cuts[:-1]) if len(cuts) else []
        found += [None if gone else part for part, gone in zip(parts, missing, strict=True)]
    return found


def atoms_of(table: pa.Table) -> Iterator[Atoms]:
    """ASE ``Atoms`` of each row of OUTPUT that has a geometry.

    Their ``info`` is that of the :class:`~deeprelax_ase.prediction.result.RelaxationResult`, its other columns,
    likewise with ``deeprelax_`` before their names, and ``index``, ``id`` and ``source`` as they are.
    """
    rows = table.select([name for name in table.column_names if name not in (*GEOMETRY, "forces")]).to_pylist()
    for crystal, row in zip(crystals_of(table), rows, strict=True):
        if crystal is not None:
            info = RelaxationResult.from_columns(row).info
            others = {
                f"deeprelax_{name}" if name in COLUMNS else name: row[name] for name in row if row[name] is not None
            }
            yield labelled_atoms(crystal, {**others, **info})
