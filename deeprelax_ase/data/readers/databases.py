"""ASE databases whose rows are paired by a key, such as C2DB's ``unrelaxed.db`` and ``relaxed.db``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeprelax_ase.data.readers.raw import DataError, RawPair, Refused, raw_pair

if TYPE_CHECKING:
    from ase import Atoms

ENDINGS = (".db", ".aselmdb")

#: Keys that name a material, where none is named.
_USUAL_KEYS = ("uid", "material_id", "mp_id", "identifier", "name", "folder", "asr_id", "id")

#: Files whose content C2DB's unrelaxed rows hold, and which the unrelaxed atoms are in.
_C2DB_FILES = ("structure.json", "structure_large_vacuum.json", "unrelaxed.json")

#: Keys of a single database that say on which side of a pair a row is.
_SIDES = ("relaxed", "is_relaxed", "stage", "state")


def are_databases(paths: Sequence[Path]) -> bool:
    """Whether all ``paths`` are ASE databases, or one is a folder with two of them."""
    if len(paths) == 1 and paths[0].is_dir():
        return len(_in_folder(paths[0])) == 2
    return bool(paths) and all(path.suffix in ENDINGS for path in paths)


def read_databases(paths: Sequence[Path], key: str | None) -> Iterator[RawPair | Refused]:
    """Pairs of the rows of two databases, or of one, that share the value of ``key``.

    Raises:
        DataError: it is not clear which database is which, or no key names the rows on both sides.
    """
    files = _in_folder(paths[0]) if len(paths) == 1 and paths[0].is_dir() else list(paths)
    damaged: list[Refused] = []
    if len(files) == 1:
        sides = _sides_of_one(files[0], key, damaged)
    elif len(files) == 2:
        sides = _sides_of_two(files, key, damaged)
    else:
        raise DataError(f"{len(files)} databases: give one, or the unrelaxed and the relaxed one")
    yield from damaged
    unrelaxed, relaxed, twice = sides
    for name in (*unrelaxed, *(n for n in relaxed if n not in unrelaxed)):
        if name in twice:
            yield Refused(name, "several rows of one side are called so: name a key that is unique, with --key")
        elif name not in unrelaxed or name not in relaxed:
            side = "unrelaxed" if name not in unrelaxed else "relaxed"
            yield Refused(name, f"there is no {side} row of that name")
        else:
            yield raw_pair(name, unrelaxed[name], relaxed[name])


_Sides = tuple[dict[str, "Atoms"], dict[str, "Atoms"], set[str]]


def _in_folder(folder: Path) -> list[Path]:
    return sorted(
        (file for file in folder.iterdir() if file.suffix in ENDINGS), key=lambda f: "unrelaxed" not in f.name
    )


def _sides_of_two(files: list[Path], key: str | None, damaged: list[Refused]) -> _Sides:
    first = ["unrelaxed" in file.name.lower() or "initial" in file.name.lower() for file in files]
    if sum(first) != 1:
        raise DataError(f"which of {[f.name for f in files]} is unrelaxed? One must have 'unrelaxed' in its name")
    unrelaxed, relaxed = (files[first.index(side)] for side in (True, False))
    rows = [list(_rows(unrelaxed, damaged, _initial_atoms)), list(_rows(relaxed, damaged))]
    name = key or _common_key(rows, files)
    twice: set[str] = set()
    return _by_name(rows[0], name, twice), _by_name(rows[1], name, twice), twice


def _sides_of_one(file: Path, key: str | None, damaged: list[Refused]) -> _Sides:
    rows = list(_rows(file, damaged))
    side = next((k for k in _SIDES if any(k in values for values, _ in rows)), None)
    if side is None:
        raise DataError(f"{file.name} has no key among {_SIDES} that says which rows are relaxed: give two databases")
    parts: tuple[list, list] = ([], [])
    for values, atoms in rows:
        parts[_is_relaxed(values.get(side))].append((values, atoms))
    name = key or _common_key(list(parts), [file])
    twice: set[str] = set()
    return _by_name(parts[0], name, twice), _by_name(parts[1], name, twice), twice


def _is_relaxed(value: Any) -> bool:
    if isinstance(value, str):
        return value.lower() in ("relaxed", "final", "true", "1", "yes")
    return bool(value)


def _rows(
    file: Path, damaged: list[Refused], atoms_of: Callable[[Any], Atoms] = lambda row: row.toatoms()
) -> Iterator[tuple[dict[str, Any], Atoms]]:
    """Keys and atoms of each row; those that cannot be read go to the ``damaged`` ones."""
    from deeprelax_ase.io.databases import connect

    if not file.exists():
        raise DataError(f"{file}: no such file. Check the name and the folder.")
    database = connect(file)
    for number in [row.id for row in database.select(columns=["id"], include_data=False)]:
        try:
            row = database.get(id=number)
            values, atoms = {**row.key_value_pairs, "id": number}, atoms_of(row)
        except Exception as error:  # whatever is in a damaged row
            damaged.append(Refused(f"{file.name}@id={number}", f"it cannot be read: {type(error).__name__}: {error}"))
            continue
        if "folder" in values:  # where it lay, of which the last part is the material's
            values["folder"] = str(values["folder"]).rstrip("/").rpartition("/")[2]
        yield values, atoms


def _initial_atoms(row: Any) -> Atoms:
    """The atoms of an unrelaxed row: those in its data where C2DB keeps them, else its own.

    The published code of DeepRelax (``convert_c2db.py``) looks for them under the same names.
    """
    from ase import Atoms
    from ase.io.jsonio import object_hook

    kept = next((row.data[name] for name in _C2DB_FILES if name in row.data), None)
    if isinstance(kept, Atoms):
        return kept
    if not isinstance(kept, Mapping) or "1" not in kept:
        return row.toatoms()
    fields = {
        name: object_hook(value) if isinstance(value, dict) else value
        for name, value in kept["1"].items()
        if name in ("numbers", "positions", "cell", "pbc")
    }
    return Atoms(**{"pbc": row.pbc, **fields})


def _common_key(rows: list[list], files: list[Path]) -> str:
    """The first usual key that every row has, that names no two rows of a side alike, and at least half a side in both.

    Raises:
        DataError: there is none.
    """
    for key in _USUAL_KEYS:
        if not all(side and all(key in values for values, _ in side) for side in rows):
            continue
        first, last = ({values[key] for values, _ in side} for side in rows)
        unique = len(first) == len(rows[0]) and len(last) == len(rows[1])
        if unique and len(first & last) >= min(len(first), len(last)) / 2:
            return key
    known = sorted({key for side in rows for values, _ in side for key in values})
    raise DataError(f"no key names the rows of {[f.name for f in files]}: choose one of {known} with --key")


def _by_name(rows: list, key: str, twice: set[str]) -> dict[str, Atoms]:
    named: dict[str, Atoms] = {}
    for values, atoms in rows:
        name = str(values.get(key, f"row {values['id']} without {key}"))
        if name in named:
            twice.add(name)
        named[name] = atoms
    return named
