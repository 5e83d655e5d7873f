"""Division of files of each format into structures: one row for each, and the contents of folders and archives."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from io import SEEK_END, TextIOWrapper
from itertools import count
from pathlib import Path
from posixpath import normpath
from typing import Any, NamedTuple

from deeprelax_ase.errors import SourceError, StructureFileError
from deeprelax_ase.io import cif, databases, documents, xyz
from deeprelax_ase.io.files import File, plain_name, reachable, refuse_bomb
from deeprelax_ase.io.frame import StructureRef, escaped, unreadable

Refs = Iterator[StructureRef]


@dataclass(frozen=True)
class Format:
    """Files that are cut into structures in the same way.

    Attributes:
        endings: of their names, without those of what compresses them.
        refs: their structures, in order; what it raises is told of the one where it happens.
        rank: in folders and archives files of the lowest rank are taken, and others passed over; None is never taken.
        count: how many structures a whole file has, if it says so.
        in_archives: whether members of archives can be read.
    """

    endings: tuple[str, ...]
    refs: Callable[[File], Refs]
    rank: int | None = 0
    count: Callable[[File], int] | None = None
    in_archives: bool = True


def format_of(name: str) -> Format:
    """The format of the file ``name``; one that only ASE knows if there is none of its ending."""
    base = name.rsplit("/", 1)[-1]
    otherwise = _ONE_EACH if base.startswith(("POSCAR", "CONTCAR")) else _OTHER
    whole, plain = base.lower(), plain_name(base).lower()
    return next((row for row in FORMATS if whole.endswith(row.endings) or plain.endswith(row.endings)), otherwise)


def guarded(file: File, refs: Refs) -> Refs:
    """The ``refs``; where they end in an error it is the last one: what comes after it cannot be read.

    Raises:
        SourceError: the system does not let the file be read.
    """
    for number in count():
        try:
            with reachable(file.label):
                ref = next(refs, None)
        except SourceError:
            raise
        except Exception as error:  # whatever the formats raise
            beyond = f" beyond its structure {number}" if number else ""
            yield _damaged(f"{file.label}@{number}" if number else file.label, error, beyond)
            return
        if ref is None:
            return
        yield ref


def refs_of(file: File) -> Refs:
    """The structures of a file, and the error that they end in, if any: one for each that the file says that it has."""
    given = 0
    for given, ref in enumerate(guarded(file, format_of(file.name).refs(file)), start=1):  # noqa: B007
        yield ref
    for number in range(given, _told(file) or 0):
        yield _damaged(f"{file.label}@{number}", StructureFileError("the file is damaged before it"))


def count_of(file: File) -> int:
    """Count the structures of a file; damaged parts count as :func:`refs_of` gives them."""
    told = _told(file)
    return sum(1 for _ in refs_of(file)) if told is None else told


def _told(file: File) -> int | None:
    """Return the number of structures that a file states; None where it states none."""
    if (count_in := format_of(file.name).count) is None:
        return None
    try:
        with reachable(file.label):
            return count_in(file)
    except SourceError:
        raise
    except Exception:  # whatever the formats raise, which is told of where it happens
        return None


class Contents(NamedTuple):
    """Choice among the files of a folder, or the members of an archive, by their names in it.

    Attributes:
        wanted: those that are read.
        refused: members that hold structures in a format that is not read within archives.
        left_out: all others: hidden ones, those of no known format, and those of a higher rank than others have.
    """

    wanted: set[str]
    refused: set[str]
    left_out: list[str]


def contents(names: Collection[str], *, in_archive: bool) -> Contents:
    """Choose among the ``names`` of a folder's files, or of an archive's members, with the folders they lie in."""
    ranks = {name: rank for name in names if not _hidden(name) and (rank := format_of(name).rank) is not None}
    readable = {name for name in ranks if not in_archive or format_of(name).in_archives}
    lowest = min((ranks[name] for name in readable or ranks), default=0)
    wanted = {name for name in readable if ranks[name] == lowest}
    refused = {name for name in ranks.keys() - readable if ranks[name] <= lowest}
    return Contents(wanted, refused, [name for name in names if name not in wanted | refused])


def _hidden(name: str) -> bool:
    """Whether a name, or a folder in it, begins with a dot, or is one that macOS leaves behind."""
    parts = (part for part in name.split("/") if part not in (".", ".."))
    return any(part.startswith((".", "__MACOSX")) for part in parts)


def files_in(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files of a folder, and of those in it, that hold structures, in the order of their names; and the others."""
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not path.is_dir()}
    files = {name for name, path in paths.items() if path.is_file()}
    found = contents(files, in_archive=False)
    return sorted(paths[name] for name in found.wanted), sorted(paths[name] for name in paths.keys() - found.wanted)


def left_out(file: File) -> list[str]:
    """The members of an archive that are not read, as messages name them; none of other files."""
    if format_of(file.name).refs is not _archive:
        return []
    found = contents(_names(file.path), in_archive=True)
    return [f"{file.label}:{escaped(name)}" for name in found.left_out]


def _damaged(label: str, error: Exception, beyond: str = "") -> StructureRef:
    return StructureRef(label, "frame", unreadable(label, error, beyond))


def _xyz(file: File) -> Refs:
    with file.open() as lines:
        for number, block in enumerate(xyz.cut(lines)):
            label = f"{file.label}@{number}"
            yield StructureRef(label, "xyz", block) if isinstance(block, bytes) else _damaged(label, block)


def _cif(file: File) -> Refs:
    with file.open() as stream:
        blocks = cif.cut(stream.read())
    if len(blocks) == 1:
        yield from _ase_file(file, "cif", cif.name_of(blocks[0][1]))
        return
    for number, (name, block) in enumerate(blocks):
        meaningless = name.startswith("image") and name[5:].isdigit()  # ASE's
        own = cif.name_of(block) or ("" if meaningless else name)
        yield StructureRef(f"{file.label}@{number}", "file", (block, "cif"), own or f"{file.stem}-{number}")


def _one_each(file: File) -> Refs:
    ending = plain_name(file.name).lower().rpartition(".")[2]
    yield from _ase_file(file, ending if ending in ("res", "xsf") else "vasp")


def _ase_file(file: File, file_format: str, name: str = "") -> Refs:
    """A file of one structure, which is read where it is relaxed."""
    content: Any = str(file.path)
    if file.data is not None:
        with file.open() as stream:
            content = stream.read()
    yield StructureRef(file.label, "file", (content, file_format), name or file.stem)


def _lines(file: File) -> Refs:
    with file.open() as stream:
        for number, line in enumerate(filter(bytes.strip, stream)):
            yield StructureRef(f"{file.label}@{number}", "line", line)


def _documents(file: File) -> Refs:
    with TextIOWrapper(file.open(), "utf-8-sig", "surrogateescape") as stream:
        content = documents.parsed(stream)
        if documents.is_ase_database(content):
            yield from _json_database(file)
            return
        for name, document in documents.documents_in(content):
            name = escaped(name)
            yield StructureRef(f"{file.label}@{name}" if name else file.label, "document", document, name or file.stem)


def _json_database(file: File) -> Refs:
    from ase.db import connect

    with TextIOWrapper(file.open(), "utf-8") as stream:
        for row in connect(stream, type="json").select():
            label, name = f"{file.label}@id={row.id}", f"{file.stem}-{row.id}"
            yield StructureRef(label, "frame", databases.atoms_of(row), name)


def _database(file: File, query: str | None = None) -> Refs:
    for row in databases.connect(file.path).select(query, columns=["id"], include_data=False):
        content = str(file.path), row.id
        yield StructureRef(f"{file.label}@id={row.id}", "database", content, f"{file.stem}-{row.id}")


def select(file: File, query: str) -> Refs:
    """The rows of a database that ``query`` selects."""
    return guarded(file, _database(file, query))


def _parquet(file: File) -> Refs:
    from deeprelax_ase.io import parquet

    for number, row in enumerate(parquet.rows_of(file.path)):
        yield StructureRef(f"{file.label}@{number}", "row" if isinstance(row, dict) else "place", row)


def _count_rows(file: File) -> int:
    from deeprelax_ase.io import parquet

    return parquet.count_rows(file.path)


def _archive(file: File) -> Refs:
    found = contents(_names(file.path), in_archive=True)
    for name, read_member in _members(file.path):
        if name in found.wanted:
            yield from _member(file, name, read_member)
        elif name in found.refused:
            yield from _member(file, name, _refuse_packed)


def _names(path: Path) -> list[str]:
    """The names of an archive's members, up to where it is damaged: that shows when it is read."""
    names: list[str] = []
    with suppress(Exception):
        names += (name for name, _ in _members(path))
    return names


def _members(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """The name of each member of an archive, and what reads it; in one go, as what is compressed has no way back."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for row in archive.infolist():
                if not row.is_dir():
                    yield row.filename, partial(_unzipped, archive, row)
        return
    with tarfile.open(path) as packed:
        for member in packed:
            if not member.isdir():
                yield member.name, partial(_untarred, packed, member, path)


def _member(file: File, name: str, read_member: Callable[[], bytes]) -> Refs:
    """The structures of a member; one that is damaged costs itself."""
    label = f"{file.label}:{escaped(name)}"
    try:
        with reachable(file.label):
            member = File(label, normpath(name), file.path, read_member())
    except SourceError:
        raise
    except Exception as error:  # whatever the archive raises
        yield _damaged(label, error)
        return
    yield from refs_of(member)


def _refuse_packed() -> bytes:
    raise StructureFileError("files of this format are not read within archives: unpack it first")


def _unzipped(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    refuse_bomb(member.compress_size, member.file_size)
    return archive.read(member)


def _untarred(packed: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> bytes:
    stream = packed.extractfile(member)  # of a link, the member that it names
    if stream is None:
        raise StructureFileError("it is no file")
    refuse_bomb(path.stat().st_size, stream.seek(0, SEEK_END))
    stream.seek(0)
    return stream.read()


def _ase(file: File) -> Refs:
    """Refer to files that only ASE can read. Structures of files with several are read here, one after the other."""
    from ase.io import iread
    from ase.io.formats import filetype, ioformats

    file_format = filetype(str(file.path))
    if file_format in ioformats and ioformats[file_format].single:
        yield from _ase_file(file, file_format)
        return
    frames = iread(str(file.path), index=":", format=file_format, do_not_split_by_at_sign=True)
    for number, atoms in enumerate(frames):
        yield StructureRef(f"{file.label}@{number}", "frame", atoms)


_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_ONE_EACH = Format((".vasp", ".poscar", ".res", ".xsf"), _one_each)
_OTHER = Format((), _ase, rank=None, in_archives=False)

#: Every format that has a way of its own; the first whose ending fits is taken.
FORMATS = (
    Format(_ARCHIVES, _archive, rank=4, in_archives=False),
    Format((".extxyz", ".xyz"), _xyz),
    Format((".cif",), _cif),
    _ONE_EACH,
    Format((".traj",), _ase, in_archives=False),
    Format((".parquet", ".pq"), _parquet, rank=1, count=_count_rows, in_archives=False),
    Format(
        (".db", ".aselmdb"),
        _database,
        rank=2,
        count=lambda file: databases.connect(file.path).count(),
        in_archives=False,
    ),
    Format((".jsonl", ".ndjson"), _lines, rank=3),
    Format((".json",), _documents, rank=3),
)
