"""Rows that take long to make, kept in a file by key: those that it holds are read, the others made and added."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.io.placing import placed

#: Å. Crystals that differ by less are one: matrix products round differently from machine to machine.
SAME = 1e-6

#: Columns of rows: each row of a column is an array of one dimension or more, of any length.
Columns = dict[str, list[np.ndarray]]

#: Ending of the names of arrays that say how long each row of a column is.
_LENGTHS = " lengths"


def crystal_key(crystal: Crystal, *more: object) -> str:
    """Digest the ``crystal``, to :data:`SAME`, and whatever ``more`` a row depends on."""
    digest = hashlib.sha256(str(more).encode())
    digest.update(crystal.numbers.tobytes())
    digest.update(bytes(crystal.pbc))
    for lengths in (crystal.positions, crystal.cell):
        digest.update(np.rint(lengths / SAME).astype(np.int64).tobytes())
    return digest.hexdigest()[:32]


def kept_rows(
    file: Path | None, keys: Sequence[str], make: Callable[[list[int]], Mapping[str, Sequence[np.ndarray]]]
) -> Columns:
    """The rows of n ``keys``, in their order.

    Args:
        file: npz file to keep them in; made where it is not there. None to keep nothing.
        keys: of the rows.
        make: makes the rows of the keys at these places, a list for each column.
    """
    kept = _read(file) if file is not None and file.exists() else {}
    known = {str(key): row for row, (key,) in enumerate(kept.pop("keys", []))}
    missing = list({keys[n]: n for n in reversed(range(len(keys))) if keys[n] not in known}.values())[::-1]
    if missing:
        for name, rows in make(missing).items():
            kept.setdefault(name, []).extend(rows)
        known |= {keys[n]: row for row, n in enumerate(missing, len(known))}
        if file is not None:
            _write(file, kept | {"keys": [np.array([key]) for key in known]})
    return {name: [rows[known[key]] for key in keys] for name, rows in kept.items()}


def _read(file: Path) -> Columns:
    with np.load(file, allow_pickle=False) as arrays:
        names = [name for name in arrays.files if not name.endswith(_LENGTHS)]
        return {name: np.split(arrays[name], np.cumsum(arrays[name + _LENGTHS])[:-1]) for name in names}


def _write(file: Path, columns: Columns) -> None:
    arrays: dict[str, Any] = {name: np.concatenate(rows) for name, rows in columns.items()}
    arrays |= {name + _LENGTHS: np.array([len(row) for row in rows]) for name, rows in columns.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    with placed(file) as part, part.open("wb") as stream:
        np.savez_compressed(stream, **arrays)
