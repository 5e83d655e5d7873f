"""A structure out of each piece of a source, whatever its format: done where it is relaxed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from io import BytesIO, StringIO, TextIOWrapper
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import DeepRelaxError, StructureFileError
from deeprelax_ase.io import parquet
from deeprelax_ase.io.frames import ID_KEYS
from deeprelax_ase.io.sources import StructureRef
from deeprelax_ase.screening.rows import structures_table

if TYPE_CHECKING:
    from ase import Atoms

#: Keys of documents and columns that hold a structure in pymatgen's form.
_STRUCTURE_KEYS = ("structure", "initial_structure")


def table_of(refs: Iterable[StructureRef], *, first_index: int, id_key: str | None = None) -> pa.Table:
    """What the ``pieces`` hold, as rows of :data:`~deeprelax_ase.screening.rows.INPUT`.

    Args:
        pieces: any number.
        first_index: that of the first one.
        id_key: key that names each structure; the first of :data:`~deeprelax_ase.io.frames.ID_KEYS` by default, or
            where there is none of them the name of the file, or the source.
    """
    read = [(ref, *_read(ref, (id_key,) if id_key else ID_KEYS)) for ref in refs]
    return structures_table(
        [structure for _, structure, _ in read],
        ids=[name or ref.name or ref.source for ref, _, name in read],
        sources=[ref.source for ref, _, _ in read],
        first_index=first_index,
    )


def _read(ref: StructureRef, keys: tuple[str, ...]) -> tuple[Any, str]:
    """The structure of a piece, or why there is none, and its name, or nothing."""
    try:
        structure, names = _READERS[ref.kind](ref.content)
    except DeepRelaxError as error:
        return error, ""
    except Exception as error:  # whatever the formats raise
        return StructureFileError(f"{ref.source} cannot be read ({type(error).__name__}: {error})"), ""
    return structure, next((str(names[key]) for key in keys if names.get(key) is not None), "")


def _from_xyz(text: str) -> tuple[Any, dict]:
    from ase.io.extxyz import read_xyz

    atoms = next(read_xyz(StringIO(text), 0))
    return atoms, atoms.info


def _from_path(path: str) -> tuple[Any, dict]:
    from ase.io import read

    atoms: Any = read(path)
    return atoms, atoms.info


def _from_file(content: tuple[str, bytes]) -> tuple[Any, dict]:
    from ase.io import read
    from ase.io.formats import filetype, ioformats

    name, data = content
    file_format = filetype(name.rsplit("/", 1)[-1], read=False)
    stream = BytesIO(data)
    binary = ioformats[file_format].isbinary or file_format == "cif"
    atoms: Any = read(stream if binary else TextIOWrapper(stream, "utf-8"), format=file_format)
    return atoms, atoms.info


def _from_database(content: tuple[str, int]) -> tuple[Any, dict]:
    from ase.db import connect

    path, number = content
    row = connect(path).get(id=number)
    return row.toatoms(), row.key_value_pairs


def _from_line(line: str) -> tuple[Any, dict]:
    return _from_document(json.loads(line))


def _from_document(document: Any) -> tuple[Any, dict]:
    from pymatgen.core import Structure

    if not isinstance(document, dict):
        raise StructureFileError(f"a JSON object was expected, not a {type(document).__name__}")
    held = next((document[key] for key in _STRUCTURE_KEYS if isinstance(document.get(key), dict)), document)
    if "lattice" not in held:
        raise StructureFileError("there is no structure of pymatgen's in it, nor under " + ", ".join(_STRUCTURE_KEYS))
    return Structure.from_dict(held), document


def _from_row(row: dict[str, Any]) -> tuple[Any, dict]:
    if row.get("error"):
        raise StructureFileError(row["error"])
    if isinstance(text := row.get("structure"), str):
        return _from_document({**row, "structure": json.loads(text)})
    if missing := [name for name in ("numbers", "positions", "cell") if row.get(name) is None]:
        raise StructureFileError(f"the columns numbers, positions and cell are needed, or structure; no {missing}")
    positions, cell = (np.asarray(row[name], dtype=float) for name in ("positions", "cell"))
    return Crystal(row["numbers"], positions.reshape(-1, 3), cell.reshape(3, 3)), row


def _from_place(place: parquet.RowRef) -> tuple[Any, dict]:
    return _from_row(parquet.row_at(place))


def _from_frame(content: Atoms | StructureFileError) -> tuple[Any, dict]:
    if isinstance(content, StructureFileError):
        raise content
    return content, content.info


_READERS: dict[str, Callable[[Any], tuple[Any, Mapping[str, Any]]]] = {
    "xyz": _from_xyz,
    "path": _from_path,
    "file": _from_file,
    "database": _from_database,
    "line": _from_line,
    "document": _from_document,
    "row": _from_row,
    "place": _from_place,
    "frame": _from_frame,
}
