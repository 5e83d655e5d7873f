"""ASE databases whose rows are paired by a key, such as C2DB's ``unrelaxed.db`` and ``relaxed.db``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import methodcaller
from os import fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeprelax_ase.data.readers.raw import Counted, DataError, RawPair, Refused, raw_pair
from deeprelax_ase.errors import StructureError
from deeprelax_ase.io.databases import connect
from deeprelax_ase.io.frame import StructureRef
from deeprelax_ase.io.reading import readable, values_of
from deeprelax_ase.io.source import open_source, path_of

if TYPE_CHECKING:
    from ase import Atoms
    from ase.db.row import AtomsRow

ENDINGS = (".db", ".aselmdb")

#: Keys that name a material, where none is named.
_USUAL_KEYS = ("uid", "material_id", "mp_id", "identifier", "name", "folder", "asr_id", "id")

#: Files whose content C2DB's unrelaxed rows hold, and which the unrelaxed atoms are in.
_C2DB_FILES = ("structure.json", "structure_large_vacuum.json", "unrelaxed.json")

#: Keys of a single database that say on which side of a pair a row is.
_SIDES = ("relaxed", "is_relaxed", "stage", "state")

#: The keys of each row on a side, and what refers to the row.
_Rows = list[tuple[Mapping[str, Any], StructureRef]]

_own_atoms = methodcaller("toatoms")


def are_databases(paths: Sequence[Path]) -> bool:
    """Whether all ``paths`` are ASE databases, or one is a folder with two of them."""
    if len(paths) == 1 and paths[0].is_dir():
        return len(_in_folder(paths[0])) == 2
    return bool(paths) and all(path.suffix in ENDINGS for path in paths)


def read_databases(paths: Sequence[Path], key: str | None) -> Counted:
    """Pairs of the rows of two databases, or of one, that share the value of ``key``, in the order of the unrelaxed.

    Keys are looked at first, and atoms as each pair comes. ``unrelaxed.db@0:10`` is some rows, whose partners are
    sought in the other database; ``folder@0:10`` means those of its unrelaxed one.

    Raises:
        DataError: it is not clear which database is which, a side has no rows, or no key names the rows on both sides.
        SourceError: the system does not let a file be read.
        StructureFileError: an index is not understood.
    """
    files = _files(paths)
    damaged: list[Refused] = []
    rows = [_rows(file, damaged) for file in files]
    sides = rows if len(rows) == 2 else _sides_of_one(files[0], rows[0])
    for file, side, found in zip((files[0], files[-1]), ("unrelaxed", "relaxed"), sides, strict=True):
        if not found:
            told = damaged[0].reason if damaged else f"{file} holds no {side} row. Check the file and the index."
            raise DataError(told)
    name = key or _common_key(sides, files)
    twice: set[str] = set()
    unrelaxed, relaxed = (_by_name(side, name, twice) for side in sides)
    names = {**unrelaxed, **relaxed}
    return Counted.chained([damaged, Counted(_pairs(names, unrelaxed, relaxed, twice, files), len(names))])


def _pairs(
    names: Iterable[str],
    unrelaxed: Mapping[str, StructureRef],
    relaxed: Mapping[str, StructureRef],
    twice: set[str],
    files: Sequence[Path],
) -> Iterator[RawPair | Refused]:
    parts = [path_of(file) != file for file in files]
    for name in names:
        if name in twice:
            yield Refused(name, "several rows of one side are called so: name a key that is unique, with --key")
        elif name in unrelaxed and name in relaxed:
            first = _initial_atoms if len(files) == 2 else _own_atoms
            yield raw_pair(name, _atoms(unrelaxed[name], first), _atoms(relaxed[name], _own_atoms))
        else:
            lacking, side = (0, "unrelaxed") if name in relaxed else (-1, "relaxed")
            if parts[lacking] <= parts[-1 - lacking]:  # else only rows of this part are asked for
                yield Refused(name, f"{files[lacking].name} has no {side} row of that name. Add it, or check --key.")


def _in_folder(folder: Path) -> list[Path]:
    return sorted(
        (file for file in folder.iterdir() if file.suffix in ENDINGS), key=lambda f: "unrelaxed" not in f.name
    )


def _files(paths: Sequence[Path]) -> list[Path]:
    """The one database, or the unrelaxed and the relaxed one, with their indices.

    Raises:
        DataError: there are more or none, or it is not clear which of two is which.
    """
    folder, files = path_of(paths[0]), list(paths)
    if len(paths) == 1 and folder.is_dir():
        index = fspath(paths[0]).removeprefix(fspath(folder))
        files = [file.with_name(file.name + ("" if n else index)) for n, file in enumerate(_in_folder(folder))]
    if len(files) not in (1, 2):
        raise DataError(f"{len(files)} databases: give one, or the unrelaxed and the relaxed one")
    if len(files) == 2:
        names = [path_of(file).name for file in files]
        first = ["unrelaxed" in name.lower() or "initial" in name.lower() for name in names]
        if sum(first) != 1:
            raise DataError(f"which of {' and '.join(names)} is unrelaxed? One must have 'unrelaxed' in its name")
        return files if first[0] else files[::-1]
    return files


def _rows(file: Path, damaged: list[Refused]) -> _Rows:
    """The rows that ``file`` asks for; those that cannot be read go to the ``damaged`` ones."""
    rows: _Rows = []
    for ref in open_source(file).refs():
        try:
            values = _keys(ref)
        except StructureError as error:
            damaged.append(Refused(Path(ref.source).name, str(error)))
            continue
        if "folder" in values:  # where it lay, of which the last part is the material's
            values["folder"] = str(values["folder"]).rstrip("/").rpartition("/")[2]
        rows.append((values, ref))
    return rows


def _keys(ref: StructureRef) -> dict[str, Any]:
    """The keys of a row, and its number.

    Raises:
        StructureError: it cannot be read.
    """
    if ref.kind != "database":  # an error, or of a database in JSON
        return dict(values_of(ref))
    path, number = ref.content
    with readable(ref):
        row = connect(Path(path)).get(id=number, columns=["id", "key_value_pairs"], include_data=False)
        return {**row.key_value_pairs, "id": number}


def _sides_of_one(file: Path, rows: _Rows) -> list[_Rows]:
    side = next((k for k in _SIDES if any(k in values for values, _ in rows)), "")
    if rows and not side:
        raise DataError(f"{file.name} has no key among {_SIDES} that says which rows are relaxed: give two databases")
    parts: list[_Rows] = [[], []]
    for values, ref in rows:
        parts[_is_relaxed(values.get(side))].append((values, ref))
    return parts


def _is_relaxed(value: Any) -> bool:
    if isinstance(value, str):
        return value.lower() in ("relaxed", "final", "true", "1", "yes")
    return bool(value)


def _atoms(ref: StructureRef, atoms_of: Callable[[AtomsRow], Atoms]) -> Atoms | Exception:
    """The atoms that ``atoms_of`` finds in a row, or why it cannot be read."""
    if ref.kind != "database":
        return ref.content
    path, number = ref.content
    try:
        with readable(ref):
            return atoms_of(connect(Path(path)).get(id=number))
    except StructureError as error:
        return error


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


def _common_key(rows: Sequence[_Rows], files: list[Path]) -> str:
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
    known = ", ".join(sorted({key for side in rows for values, _ in side for key in values}))
    named = " and ".join(f.name for f in files)
    raise DataError(f"no key names the rows of {named}: choose one of {known} with --key")


def _by_name(rows: _Rows, key: str, twice: set[str]) -> dict[str, StructureRef]:
    named: dict[str, StructureRef] = {}
    for values, ref in rows:
        name = str(values.get(key, f"{Path(ref.source).name} without {key}"))
        if name in named:
            twice.add(name)
        named[name] = ref
    return named
