"""What is to be screened, of many formats, as pieces that are cheap to find and can be read by another process.

A source knows how many structures it has, and what its contents are, so that a run that goes on can tell whether they
are still the same. Its pieces come in an order that depends on the contents alone.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from gzip import open as gzip_open
from pathlib import Path
from typing import Any

from deeprelax_ase.errors import StructureFileError
from deeprelax_ase.io.frame import StructureRef
from deeprelax_ase.io.frames import count_frames, read_frames, xyz_blocks

#: Endings of files that hold one structure each, in folders and archives.
STRUCTURE_FILES = (".cif", ".vasp", ".poscar", ".res", ".xsf")

_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_JSON = (".json", ".json.gz", ".jsonl", ".jsonl.gz")
_XYZ = (".extxyz", ".xyz", ".extxyz.gz", ".xyz.gz")


@dataclass(frozen=True)
class Source:
    """One input.

    Attributes:
        path: the file or folder.
        count: how many structures it has.
        refs: references to them, in order, from the first on.
    """

    path: Path
    count: Callable[[], int]
    refs: Callable[[], Iterator[StructureRef]]

    def digest(self) -> str:
        """Of all contents: 32 hexadecimal digits."""
        total = hashlib.blake2b(digest_size=16)
        files = _structure_files(self.path) if self.path.is_dir() else [self.path]
        for file in files:
            if self.path.is_dir():
                total.update(f"{file.relative_to(self.path)}\0".encode())
            with file.open("rb") as stream:
                total.update(hashlib.file_digest(stream, "blake2b").digest())
        return total.hexdigest()


def open_source(name: str) -> Source:
    """The source that ``name`` is: a file, folder or archive.

    Raises:
        StructureFileError: there is none, or it holds nothing.
    """
    path = Path(name)
    if not path.exists():
        raise StructureFileError(f"{name}: no such file or folder. Check the name.")
    if path.is_dir():
        files = _structure_files(path)
        if not files:
            raise StructureFileError(f"{name} holds no structure files ({', '.join(STRUCTURE_FILES)}, POSCAR, CONTCAR)")
        return Source(path, lambda: len(files), lambda: _files(path, files))
    for endings, make in (
        (_ARCHIVES, _archive),
        ((".parquet",), _parquet),
        ((".db",), _database),
        (_XYZ, _xyz),
        (_JSON, _documents),
    ):
        if path.name.lower().endswith(endings):
            return make(path)
    return Source(path, lambda: count_frames([name]) or sum(1 for _ in _frames(path)), lambda: _frames(path))


def _counted(path: Path, count: Callable[[], int], refs: Callable[[], Iterator[StructureRef]]) -> Callable[[], int]:
    """The quick ``count`` of what is whole; what is damaged is counted piece by piece, its error included."""

    def counted() -> int:
        try:
            return count()
        except Exception:  # whatever the formats raise
            return sum(1 for _ in _guarded(path, refs()))

    return counted


def _is_structure(name: str) -> bool:
    base = name.rsplit("/", 1)[-1]
    return base.lower().endswith(STRUCTURE_FILES) or base.startswith(("POSCAR", "CONTCAR"))


def _structure_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and _is_structure(path.name))


def _files(folder: Path, files: list[Path]) -> Iterator[StructureRef]:
    for file in files:
        name = str(file.relative_to(folder))
        yield StructureRef(str(file), "path", str(file), name.rsplit(".", 1)[0])


def _archive(path: Path) -> Source:
    def refs() -> Iterator[StructureRef]:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if _is_structure(name):
                        yield _member(path, name, archive.read(name))
            return
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile() and _is_structure(member.name) and (stream := archive.extractfile(member)):
                    yield _member(path, member.name, stream.read())

    return Source(path, lambda: sum(1 for _ in _guarded(path, refs())), lambda: _guarded(path, refs()))


def _member(path: Path, name: str, content: bytes) -> StructureRef:
    return StructureRef(f"{path}:{name}", "file", (name, content), name.rsplit(".", 1)[0])


def _parquet(path: Path) -> Source:
    from deeprelax_ase.io import parquet

    def refs() -> Iterator[StructureRef]:
        for number, row in enumerate(parquet.rows_of(path)):
            yield StructureRef(f"{path}@{number}", "row" if isinstance(row, dict) else "place", row)

    return Source(path, _counted(path, lambda: parquet.count_rows(path), refs), lambda: _guarded(path, refs()))


def _database(path: Path) -> Source:
    from ase.db import connect

    def refs() -> Iterator[StructureRef]:
        for row in connect(path).select(columns=["id"]):
            yield StructureRef(f"{path}@id={row.id}", "database", (str(path), row.id), f"{path.stem}-{row.id}")

    return Source(path, _counted(path, connect(path).count, refs), lambda: _guarded(path, refs()))


def _xyz(path: Path) -> Source:
    def refs() -> Iterator[StructureRef]:
        opener = gzip_open if path.name.endswith(".gz") else open
        with opener(path, "rt", encoding="utf-8") as lines:
            for number, text in enumerate(xyz_blocks(lines)):
                yield StructureRef(f"{path}@{number}", "xyz", text)

    return Source(path, lambda: sum(1 for _ in _guarded(path, refs())), lambda: _guarded(path, refs()))


def _documents(path: Path) -> Source:
    def refs() -> Iterator[StructureRef]:
        opener = gzip_open if path.name.endswith(".gz") else open
        with opener(path, "rt", encoding="utf-8") as stream:
            if ".jsonl" not in path.name:
                for name, document in _json_structures(json.load(stream)):
                    yield StructureRef(f"{path}@{name}", "document", document, name)
                return
            for number, line in enumerate(stream):
                if line.strip():
                    yield StructureRef(f"{path}@{number}", "line", line)

    return Source(path, lambda: sum(1 for _ in _guarded(path, refs())), lambda: _guarded(path, refs()))


def _json_structures(content: Any) -> Iterator[tuple[str, Any]]:
    """Documents of a list, of a mapping from names, or of one alone."""
    if isinstance(content, list):
        yield from ((str(n), document) for n, document in enumerate(content))
    elif isinstance(content, dict) and "@class" not in content and "lattice" not in content:
        yield from content.items()
    else:
        yield "0", content


def _frames(path: Path) -> Iterator[StructureRef]:
    for frame in read_frames(str(path)):
        yield StructureRef(frame.label, "frame", frame.error or frame.atoms)


def _guarded(path: Path, refs: Iterator[StructureRef]) -> Iterator[StructureRef]:
    """The ``pieces``; where they end in an error, it is the last one: what comes after it cannot be read."""
    number = 0
    while True:
        try:
            ref = next(refs, None)
        except Exception as error:  # whatever the formats raise
            reason = str(error) if isinstance(error, StructureFileError) else f"{type(error).__name__}: {error}"
            told = StructureFileError(f"{path} cannot be read beyond its structure {number} ({reason}).")
            yield StructureRef(f"{path}@{number}", "frame", told)
            return
        if ref is None:
            return
        yield ref
        number += 1
