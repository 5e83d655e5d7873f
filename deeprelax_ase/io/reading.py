"""A structure out of each reference to one, whatever its format: done where it is relaxed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from io import BytesIO, TextIOWrapper
from itertools import islice, takewhile
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any

import numpy as np

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import DeepRelaxError, SourceError, StructureError, StructureFileError
from deeprelax_ase.io import cif, databases, documents, xyz
from deeprelax_ase.io.constraints import constraints_of
from deeprelax_ase.io.files import File, reachable
from deeprelax_ase.io.frame import ID_KEYS, Frame, StructureRef, name_in, unreadable

if TYPE_CHECKING:
    from ase import Atoms

    from deeprelax_ase.io.parquet import RowRef

#: Values that may name a structure, and the function that makes its atoms.
_Found = tuple[Mapping[str, Any], Callable[[], "Atoms"]]


def read(ref: StructureRef, *, id_key: str | None = None) -> Frame:
    """The frame that ``ref`` refers to; one that cannot be read has an error.

    The ``info`` of its atoms has a name under one of :data:`~deeprelax_ase.io.frame.ID_KEYS`, if there is one.

    Args:
        ref: of any source.
        id_key: key that names the structure; the first of :data:`~deeprelax_ase.io.frame.ID_KEYS` by default, or
            where there is none of them the name of the file, or the source.

    Raises:
        SourceError: the system does not let it be read.
    """
    name, atoms, error = "", None, None
    try:
        with readable(ref):
            values, make = _READERS[ref.kind](ref.content)
            name = name_in(values, id_key)
            atoms = make()
    except SourceError:
        raise
    except DeepRelaxError as told:
        error = told
    if atoms is not None:
        kept = {key: values[key] for key in (id_key, *ID_KEYS) if key and values.get(key) is not None}
        atoms.info.update(kept or ({"name": ref.name} if ref.name else {}))
    return Frame(ref.source, atoms, error, name or ref.name or ref.source)


def values_of(ref: StructureRef) -> Mapping[str, Any]:
    """Read what ``ref`` holds of a structure besides its geometry: its document, row, or ``info``.

    Raises:
        DeepRelaxError: it cannot be read.
    """
    with readable(ref):
        return _READERS[ref.kind](ref.content)[0]


@contextmanager
def readable(ref: StructureRef) -> Iterator[None]:
    """Turn any error of a library into one that names the structure that cannot be read.

    Raises:
        SourceError: the system does not let it be read.
        DeepRelaxError: anything else.
    """
    try:
        with reachable(ref.source):
            yield
    except DeepRelaxError:
        raise
    except Exception as raised:  # whatever the formats raise
        raise unreadable(ref.source, raised) from raised


def _made(atoms: Atoms) -> _Found:
    return atoms.info, lambda: atoms


def _xyz(block: bytes) -> _Found:
    return _made(xyz.parse(block))


def _file(content: tuple[str | bytes, str]) -> _Found:
    """A path, or the content of a member of an archive, and its format by ASE's name for it."""
    from ase.io import read
    from ase.io.formats import ioformats

    where, file_format = content
    if file_format == "cif":
        return _made(cif.parse(_content(where)))
    if file_format == "vasp":
        _refuse_counts(_content(where))
    row = ioformats[file_format]
    atoms_in: Any = partial(read, format=file_format, do_not_split_by_at_sign=True)
    if isinstance(where, str):
        return _made(atoms_in(where))
    if not row.acceptsfd:
        with NamedTemporaryFile() as file:
            Path(file.name).write_bytes(where)
            return _made(atoms_in(file.name))
    stream = BytesIO(where)
    return _made(atoms_in(stream if row.isbinary else TextIOWrapper(stream, "utf-8", "backslashreplace")))


def _content(where: str | bytes) -> bytes:
    if isinstance(where, bytes):
        return where
    with File.on_disk(Path(where)).open() as stream:
        return stream.read()


def _refuse_counts(poscar: bytes) -> None:
    """Refuse a POSCAR that tells of more atoms than bytes, before ASE takes the memory for them."""
    for line in islice(BytesIO(poscar), 5, 7):
        number = sum(map(int, takewhile(bytes.isdigit, line.split())))
        if number > len(poscar):
            raise StructureFileError(f"it tells of {number:,} atoms, and has {len(poscar):,} bytes")


def _database(content: tuple[str, int]) -> _Found:
    path, number = content
    return _made(databases.atoms_of(databases.connect(Path(path)).get(id=number)))


def _line(line: bytes) -> _Found:
    return _document(json.loads(line.decode("utf-8", "surrogateescape")))


def _document(document: Any) -> _Found:
    values = document if isinstance(document, dict) else {}
    return values, lambda: documents.atoms_in(document)


def _row(row: dict[str, Any]) -> _Found:
    return row, lambda: _atoms_of_row(row)


def _atoms_of_row(row: dict[str, Any]) -> Atoms:
    if row.get("error") and isinstance(row["error"], str):  # a number in it is the expected error of a prediction
        raise (StructureError if row.get("refused") is True else StructureFileError)(row["error"])
    if any(row.get(key) is not None for key in documents.STRUCTURE_KEYS):
        return documents.atoms_in(row)
    if missing := [name for name in ("numbers", "positions", "cell") if row.get(name) is None]:
        raise StructureFileError(f"the columns numbers, positions and cell are needed, or structure; no {missing}")
    positions, cell = (np.asarray(row[name], dtype=float) for name in ("positions", "cell"))
    pbc = True if row.get("pbc") is None else row["pbc"]
    held = constraints_of(row.get("constraints"))
    return Crystal(row["numbers"], positions.reshape(-1, 3), cell.reshape(3, 3), pbc, held).to_atoms()


def _place(place: RowRef) -> _Found:
    from deeprelax_ase.io import parquet

    return _row(parquet.row_at(place))


def _frame(content: Atoms | DeepRelaxError) -> _Found:
    if isinstance(content, DeepRelaxError):
        raise content
    return _made(content)


_READERS: dict[str, Callable[[Any], _Found]] = {
    "xyz": _xyz,
    "file": _file,
    "database": _database,
    "line": _line,
    "document": _document,
    "row": _row,
    "place": _place,
    "frame": _frame,
}
