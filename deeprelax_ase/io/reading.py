"""A structure out of each piece of a source, whatever its format: done where it is relaxed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from io import BytesIO, StringIO, TextIOWrapper
from typing import TYPE_CHECKING, Any

import numpy as np

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import DeepRelaxError, StructureFileError
from deeprelax_ase.io import parquet
from deeprelax_ase.io.frame import ID_KEYS, Frame, StructureRef

if TYPE_CHECKING:
    from ase import Atoms

#: Keys of documents and columns that hold a structure in pymatgen's form.
_STRUCTURE_KEYS = ("structure", "initial_structure")


def read(ref: StructureRef, *, id_key: str | None = None) -> Frame:
    """The frame that ``ref`` refers to; one that cannot be read has an error, and nothing is raised.

    Args:
        ref: of any source.
        id_key: key that names the structure; the first of :data:`~deeprelax_ase.io.frame.ID_KEYS` by default, or
            where there is none of them the name of the file, or the source.
    """
    structure, error, name = None, None, ""
    try:
        structure, names = _READERS[ref.kind](ref.content)
        keys = (id_key,) if id_key else ID_KEYS
        name = next((str(names[key]) for key in keys if names.get(key) is not None), "")
    except DeepRelaxError as told:
        error = told
    except Exception as raised:  # whatever the formats raise
        error = StructureFileError(f"{ref.source} cannot be read ({type(raised).__name__}: {raised})")
    return Frame(ref.source, structure, error, name or ref.name or ref.source)


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
