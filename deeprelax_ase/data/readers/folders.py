"""Folders of structure files with tables that say which part of the data a pair belongs to."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from deeprelax_ase.data.readers.raw import DataError, RawPair, Refused, raw_pair
from deeprelax_ase.io import read_frames

#: Files of the splits in the layout of the published DeepRelax data; their column ``atoms_id`` names the pairs.
_SPLIT_FILES = {"train.csv": "train", "val.csv": "validation", "test.csv": "test"}

#: The same in that of Cryslator, whose rows are ``NAME_relaxed,energy`` and ``NAME_unrelaxed,energy``, with no header.
_CRYSLATOR_FILES = {
    "id_prop_train_all.csv": "train",
    "id_prop_val_all.csv": "validation",
    "id_prop_test_all.csv": "test",
}

_ENDINGS = (".cif", ".vasp", ".extxyz", ".xyz", ".json")


def is_cif_folder(path: Path) -> bool:
    """Whether ``path`` is a folder with ``{id}_unrelaxed.cif`` and the like in it or in a folder of it."""
    return path.is_dir() and next(_unrelaxed(path), None) is not None


def is_cryslator_folder(path: Path) -> bool:
    """Whether ``path`` is a folder with ``id_prop_train_all.csv`` or its likes."""
    return path.is_dir() and any((path / name).exists() for name in _CRYSLATOR_FILES)


def read_cif_folder(path: Path, key: str | None) -> Iterator[RawPair | Refused]:
    """``{id}_unrelaxed.cif`` and ``{id}_relaxed.cif``, in the order of the tables, or of their names without any."""
    files = {file.name.removesuffix(f"_unrelaxed{file.suffix}"): file for file in _unrelaxed(path)}
    splits = _splits(path, key or "atoms_id")
    for name in splits or files:
        split = splits.get(name)
        if splits and name not in files:
            yield Refused(name, f"there is no {name}_unrelaxed.cif")
            continue
        yield _read(name, files[name], split)


def read_cryslator_folder(path: Path, key: str | None) -> Iterator[RawPair | Refused]:
    """The X-Mn-O layout: tables of names that end in ``_relaxed`` and ``_unrelaxed``, and a CIF for each."""
    files = {file.stem.removesuffix("_unrelaxed"): file for file in _unrelaxed(path)}
    for table, split in _CRYSLATOR_FILES.items():
        if not (path / table).exists():
            continue
        with (path / table).open(newline="", encoding="utf-8") as stream:
            names = [row[0] for row in csv.reader(stream) if row]
        for name in dict.fromkeys(n.removesuffix("_unrelaxed").removesuffix("_relaxed") for n in names):
            yield _read(name, files[name], split) if name in files else Refused(name, f"no {name}_unrelaxed.cif")


def _unrelaxed(path: Path) -> Iterator[Path]:
    for ending in _ENDINGS:
        yield from sorted(path.glob(f"*_unrelaxed{ending}"))
        yield from sorted(path.glob(f"*/*_unrelaxed{ending}"))


def _splits(path: Path, column: str) -> dict[str, str]:
    """The part that each pair belongs to; none if there are no tables.

    Raises:
        DataError: a table lacks the column, or two name the same pair.
    """
    splits: dict[str, str] = {}
    for table, split in _SPLIT_FILES.items():
        file = path / table
        if not file.exists():
            continue
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.DictReader(stream)
            if column not in (rows.fieldnames or ()):
                raise DataError(f"{file} has no column {column!r}, only {rows.fieldnames}: name it with --key")
            for row in rows:
                name = row[column].strip()
                if splits.get(name, split) != split:
                    raise DataError(f"{file}: {name} is in {splits[name]} too; a pair belongs to one part only")
                splits[name] = split
    return splits


def _read(name: str, unrelaxed: Path, split: str | None) -> RawPair | Refused:
    relaxed = unrelaxed.with_name(f"{name}_relaxed{unrelaxed.suffix}")
    first, last = (next(read_frames(str(file))) for file in (unrelaxed, relaxed))
    for frame in (first, last):
        if frame.atoms is None:
            return Refused(name, str(frame.error))
    assert first.atoms is not None
    assert last.atoms is not None
    return raw_pair(name, first.atoms, last.atoms, split)
