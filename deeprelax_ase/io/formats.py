"""Division of files of each format into structures: one row for each, and the contents of folders and archives."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from io import TextIOWrapper
from itertools import count
from pathlib import Path
from typing import IO, Any

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


def files_in(folder: Path) -> list[Path]:
    """The files of a folder, and of those in it, that hold structures, in the order of their names."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    named = {path: path.relative_to(folder).as_posix() for path in paths}
    return sorted(_wanted(named, named.get, in_archive=False))


def _wanted(items: Iterable[Any], name_of: Callable[[Any], str | None], *, in_archive: bool) -> list[Any]:
    """Choose the items of the lowest rank, without hidden ones and those that macOS leaves behind."""
    ranked: dict[int, list[Any]] = {}
    for item in items:
        name = name_of(item) or ""
        row = format_of(name)
        hidden = any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
        if not hidden and row.rank is not None and (row.in_archives or not in_archive):
            ranked.setdefault(row.rank, []).append(item)
    return ranked[min(ranked)] if ranked else []


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
    if zipfile.is_zipfile(file.path):
        with zipfile.ZipFile(file.path) as archive:
            for name in _wanted(archive.namelist(), str, in_archive=True):
                yield from _member(file, name, partial(_unzipped, archive))
        return
    names: list[str] = []
    with suppress(Exception), tarfile.open(file.path) as packed:  # where it is damaged shows when it is read
        names += (member.name for member in packed if member.isfile())
    wanted = set(_wanted(names, str, in_archive=True))
    with tarfile.open(file.path) as packed:  # in one go: there is no way back in what is compressed
        for member in packed:
            if member.name in wanted and (stream := packed.extractfile(member)):
                yield from _member(file, member.name, partial(_content, stream, member.size, file.path))


def _member(file: File, name: str, read: Callable[[str], bytes]) -> Refs:
    """The structures of a member; one that is damaged costs itself."""
    label = f"{file.label}:{escaped(name)}"
    try:
        with reachable(file.label):
            member = File(label, name, file.path, read(name))
    except SourceError:
        raise
    except Exception as error:  # whatever the archive raises
        yield _damaged(label, error)
        return
    yield from refs_of(member)


def _unzipped(archive: zipfile.ZipFile, name: str) -> bytes:
    member = archive.getinfo(name)
    refuse_bomb(member.compress_size, member.file_size)
    return archive.read(name)


def _content(stream: IO[bytes], size: int, packed: Path, name: str) -> bytes:
    refuse_bomb(packed.stat().st_size, size)
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
