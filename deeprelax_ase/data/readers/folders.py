"""Folders of structure files with tables that say which part of the data a pair belongs to."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from deeprelax_ase.data.readers.raw import Counted, DataError, RawPair, Refused, raw_pair
from deeprelax_ase.io.source import part_of, path_of, read_frames

#: Files of the splits in the layout of the published DeepRelax data, and their columns that name the pairs.
_SPLIT_FILES = {"train.csv": "train", "val.csv": "validation", "test.csv": "test"}
_COLUMNS = ("atoms_id", "mp_id")

#: Endings of the names of unrelaxed and relaxed files: in its X-Mn-O and C2DB parts, and in its MPF.2021.2.8 part.
_SIDES = {"_unrelaxed": "_relaxed", "_U": "_R"}

#: The same in that of Cryslator, whose rows are ``NAME_relaxed,energy`` and ``NAME_unrelaxed,energy``, with no header.
_CRYSLATOR_FILES = {
    "id_prop_train_all.csv": "train",
    "id_prop_val_all.csv": "validation",
    "id_prop_test_all.csv": "test",
}

_ENDINGS = (".cif", ".vasp", ".extxyz", ".xyz", ".json")


def is_cif_folder(path: Path) -> bool:
    """Whether ``path`` is a folder with ``{id}_unrelaxed.cif``, ``{id}_U.cif`` and the like, or has one with them."""
    return path.is_dir() and next(_unrelaxed(path), None) is not None


def is_cryslator_folder(path: Path) -> bool:
    """Whether ``path`` is a folder with ``id_prop_train_all.csv`` or its likes."""
    return path.is_dir() and any((path / name).exists() for name in _CRYSLATOR_FILES)


def read_cif_folder(path: Path, key: str | None) -> Counted:
    """``{id}_unrelaxed.cif`` and ``{id}_relaxed.cif``, in the order of the tables, or of their names without any."""
    folder = path_of(path)
    files = _by_name(folder)
    splits = _splits(folder, (key,) if key else _COLUMNS)
    names = list(part_of(path, lambda: splits or files))
    return Counted((_read(name, files, splits.get(name)) for name in names), len(names))


def read_cryslator_folder(path: Path, key: str | None) -> Counted:
    """The X-Mn-O layout: tables of names that end in ``_relaxed`` and ``_unrelaxed``, and a CIF for each."""
    folder, rows = path_of(path), dict[tuple[str, str], None]()
    for table, split in _CRYSLATOR_FILES.items():
        if (folder / table).exists():
            with (folder / table).open(newline="", encoding="utf-8-sig") as stream:
                names = [row[0].strip() for row in csv.reader(stream) if row]
            rows |= dict.fromkeys((n.removesuffix("_unrelaxed").removesuffix("_relaxed"), split) for n in names)
    files = _by_name(folder)
    chosen = list(part_of(path, lambda: rows))
    return Counted((_read(name, files, split) for name, split in chosen), len(chosen))


def _unrelaxed(path: Path) -> Iterator[tuple[str, Path]]:
    """Names of pairs and files of their unrelaxed crystals."""
    for ending, side in product(_ENDINGS, _SIDES):
        for folder in ("", "*/"):
            for file in sorted(path.glob(f"{folder}*{side}{ending}")):
                yield file.name.removesuffix(f"{side}{ending}"), file


def _by_name(path: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for name, file in _unrelaxed(path):
        files.setdefault(name, file)
    return files


def _splits(path: Path, columns: Sequence[str]) -> dict[str, str]:
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
            column = next((c for c in columns if c in (rows.fieldnames or ())), None)
            if column is None:
                wanted = " or ".join(map(repr, columns))
                raise DataError(
                    f"{file} has no column {wanted}, only {', '.join(rows.fieldnames or ())}: name it with --key"
                )
            for row in rows:
                name = (row[column] or "").strip()
                if splits.get(name, split) != split:
                    raise DataError(f"{file}: {name} is in {splits[name]} too; a pair belongs to one part only")
                splits[name] = split
    return splits


def _read(name: str, files: dict[str, Path], split: str | None) -> RawPair | Refused:
    if name not in files:
        return Refused(name, f"there is no {name}_unrelaxed.cif")
    unrelaxed = files[name]
    ending = unrelaxed.name.removeprefix(name)
    side = ending.removesuffix(unrelaxed.suffix)
    relaxed = unrelaxed.with_name(f"{name}{_SIDES[side]}{unrelaxed.suffix}")
    atoms = []
    for file in (unrelaxed, relaxed):
        frame = next(read_frames(file), None)
        if frame is None or frame.atoms is None:
            return Refused(name, str(frame.error) if frame else f"{file} holds no structure")
        atoms.append(frame.atoms)
    return raw_pair(name, atoms[0], atoms[1], split)
