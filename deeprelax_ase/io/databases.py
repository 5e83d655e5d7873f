"""ASE databases: read without a change to them, row by row."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeprelax_ase.errors import StructureFileError
from deeprelax_ase.io.frame import ID_KEYS

if TYPE_CHECKING:
    from ase import Atoms


def connect(path: Path) -> Any:
    """The database at ``path``. ASE would make tables in a file that has none, so it has to have them.

    Raises:
        StructureFileError: it is no database of ASE's.
        sqlite3.Error: it is none at all.
    """
    return _connect(str(path), path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _connect(path: str, changed: int) -> Any:
    from ase.db import connect

    if path.endswith(".db"):
        with closing(sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True)) as connection:
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_master WHERE name='systems'").fetchone()
        if not tables:
            raise StructureFileError(f"{path} is no ASE database: it has no table of systems")
    return connect(path)


def atoms_of(row: Any) -> Atoms:
    """The atoms of a row, with its keys in their ``info``, and its name if that is in its data."""
    atoms = row.toatoms()
    atoms.info.update(row.key_value_pairs)
    if not any(key in atoms.info for key in ID_KEYS) and isinstance(row.data, Mapping):
        atoms.info.update({key: row.data[key] for key in ID_KEYS if key in row.data})
    return atoms
