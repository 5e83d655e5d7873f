"""Sources of structures: anything that holds some, as references that any process can read.

A source knows how many structures it has, and what its contents are, so that a run that goes on can tell whether they
are still the same. Its references come lazily, in an order that depends on the contents alone.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

from deeprelax_ase.errors import StructureFileError
from deeprelax_ase.io import formats
from deeprelax_ase.io.files import File, reachable
from deeprelax_ase.io.frame import Frame, StructureRef, escaped
from deeprelax_ase.io.reading import read

T = TypeVar("T")

_ALL = slice(None)

#: How many of the files that are left out a message names.
_NAMED = 3


@dataclass(frozen=True)
class Source:
    """One input, or a part of one.

    Attributes:
        name: as it was given, with its index.
        path: of the file or folder.
        files: that hold its structures.
        index: of the wanted structures: a number, a slice, or a query where the file is an ASE database.
        unused: names of a folder's other files.
    """

    name: str
    path: Path
    files: tuple[File, ...]
    index: int | slice | str = field(default_factory=lambda: _ALL)
    unused: tuple[str, ...] = ()

    def refs(self) -> Iterator[StructureRef]:
        """The structures, in order; an error in place of the first one if there is none.

        Raises:
            SourceError: the system does not let a file be read.
        """
        found = self._selected()
        first = next(found, None)
        if first is None:
            label, others = escaped(self.name), _in_brackets(self.left_out())
            told = StructureFileError(f"{label} holds no structure{others}. Check the file and the index.")
            first = StructureRef(label, "frame", told)
        yield from chain([first], found)

    def frames(self) -> Iterator[Frame]:
        """The structures, read in this process."""
        return map(read, self.refs())

    def count(self) -> int:
        """Count the references.

        Raises:
            SourceError: the system does not let a file be read.
        """
        if isinstance(self.index, slice):
            return max(1, len(range(self._total())[self.index]))
        return 1 if isinstance(self.index, int) else sum(1 for _ in self.refs())

    def digest(self) -> str:
        """Of all contents, and of the index if there is one: 32 hexadecimal digits.

        Raises:
            SourceError: the system does not let a file be read.
        """
        total = hashlib.blake2b(digest_size=16)
        for file in self.files:
            if self.path.is_dir():
                total.update(os.fsencode(file.name) + b"\0")
            with reachable(file.label), file.path.open("rb") as stream:
                total.update(hashlib.file_digest(stream, "blake2b").digest())
        if self.index != _ALL:
            total.update(f"@{self.index}".encode())
        return total.hexdigest()

    def left_out(self) -> list[str]:
        """Name the files of a folder, and the members of archives, that are not read.

        They are hidden, of no known format, or of another than those that are read; see
        :class:`~deeprelax_ase.io.formats.Contents`. All others have a structure or an error among :meth:`refs`.
        """
        return [*self.unused, *chain.from_iterable(map(formats.left_out, self.files))]

    def _total(self) -> int:
        return sum(formats.count_of(file) for file in self.files)

    def _selected(self) -> Iterator[StructureRef]:
        if isinstance(self.index, str):
            return formats.select(self.files[0], self.index)
        return taken(chain.from_iterable(map(formats.refs_of, self.files)), self.index, self._total)


def told_left_out(names: Sequence[str]) -> str:
    """Say in a few words how many files are left out, and the first of their ``names``; nothing of none."""
    if not names:
        return ""
    more = ", ..." if len(names) > _NAMED else ""
    files = "1 file is" if len(names) == 1 else f"{len(names):,} files are"
    return f"{files} left out, hidden or of a format that is not read there: {', '.join(names[:_NAMED])}{more}"


def _in_brackets(names: Sequence[str]) -> str:
    return f" ({told_left_out(names)})" if names else ""


def taken(items: Iterable[T], index: int | slice, total: Callable[[], int]) -> Iterator[T]:
    """Take the ``items`` that a list would give for ``index``, in turn; ``total`` counts them only if need be."""
    if isinstance(index, int):
        place = index if index >= 0 else index + total()
        return islice(items, place, place + 1) if place >= 0 else iter(())
    start, stop, step = index.start, index.stop, index.step or 1
    if step < 0:
        return iter(list(items)[index])
    if min(start or 0, stop or 0) < 0:
        start, stop, step = index.indices(total())
    return islice(items, start, stop, step)


def part_of(name: str | os.PathLike, items: Callable[[], Iterable[T]]) -> Iterator[T]:
    """Take the ``items`` of ``path@index`` that its index asks for, lazily; all without one.

    Raises:
        StructureFileError: there is none, or the index is not understood.
    """

    def total() -> int:
        return sum(1 for _ in items())

    index = split_index(os.fspath(name))[1]
    assert not isinstance(index, str), "only databases of ASE's know queries"
    found = taken(items(), index, total)
    for first in found:
        return chain([first], found)
    raise StructureFileError(
        f"{escaped(os.fspath(name))}: there is none such among its {total():,}. Check it, and its index if it has one."
    )


def open_source(name: str | os.PathLike) -> Source:
    """The source that ``name`` is.

    Args:
        name: a file of any format that ASE reads, extended XYZ, pymatgen's JSON, JSON lines, Parquet, an ASE database,
            a zip or tar archive, or a folder of such files. After an ``@`` may stand which structures are wanted:
            ``run.traj@-1``, ``set.parquet@0:100``, ``set.db@energy<0``.

    Raises:
        StructureFileError: there is none, or it holds nothing, or the index is not understood.
    """
    path, index = split_index(os.fspath(name))
    if not os.fspath(name):  # an unset variable of a shell; the path of it is the folder that one is in
        raise StructureFileError(
            "the name of an input is empty. Give a file or folder, '.' for the one that you are in"
        )
    if not path.is_dir() or any(path.glob("*.ulm")):  # ASE's bundles are folders
        return Source(os.fspath(name), path, (File.on_disk(path),), index)
    files, others = formats.files_in(path)
    unused = tuple(escaped(str(file)) for file in others)
    if not files:
        endings = ", ".join(ending for row in formats.FORMATS for ending in row.endings)
        told = f"{escaped(str(path))} holds no structure files ({endings}, POSCAR, CONTCAR)"
        raise StructureFileError(told + _in_brackets(unused))
    named = tuple(File.on_disk(file, file.relative_to(path).as_posix()) for file in files)
    return Source(os.fspath(name), path, named, index, unused)


def read_frames(names: str | os.PathLike | Iterable[str | os.PathLike]) -> Iterator[Frame]:
    """The frames of one or several sources, lazily and in order.

    Args:
        names: see :func:`open_source`.

    Yields:
        each frame. A frame or source that cannot be read gives a frame with ``error`` set.

    Raises:
        SourceError: the system does not let a file be read.
    """
    for name in [names] if isinstance(names, str | os.PathLike) else names:
        try:
            source = open_source(name)
        except StructureFileError as error:
            yield Frame(escaped(os.fspath(name)), None, error, escaped(os.fspath(name)))
            continue
        yield from source.frames()


def path_of(name: str | os.PathLike) -> Path:
    """The path of ``path@index``; a file of that very name wins."""
    path, at, _ = os.fspath(name).rpartition("@")
    return Path(path if at and not Path(name).exists() else name)


def _index(text: str) -> int | slice | str:
    """As ASE's ``string2index`` has it, whose ``ase.io`` takes half a second to import; Parquet has no use for it.

    Raises:
        ValueError, TypeError: it is no index.
    """
    if ":" in text:
        return slice(*(int(part) if part else None for part in text.split(":")))
    try:
        return int(text)
    except ValueError:  # a query of a database
        return text


def split_index(name: str) -> tuple[Path, int | slice | str]:
    """The path and the index of ``path@index``, see :func:`path_of`; no index means all structures.

    Raises:
        StructureFileError: there is no such file, or the index is none that ASE knows.
    """
    path = path_of(name)
    text = ":" if path == Path(name) else name.rpartition("@")[2]
    if not path.exists():
        raise StructureFileError(f"{escaped(str(path))}: no such file or folder. Check the name.")
    try:
        index = _index(text)
    except (ValueError, TypeError):
        index = text
    is_query = isinstance(index, str) and index and path.suffix in (".db", ".aselmdb")
    if is_query or isinstance(index, int) or (isinstance(index, slice) and index.step != 0):
        return path, index
    raise StructureFileError(
        f"{escaped(name)}: the index {text!r} is not understood. Write @3 for one structure, @-1 for the last, @0:100 "
        "or @::10 for several; of an ASE database also what its rows are to have, such as @natoms<50."
    )
