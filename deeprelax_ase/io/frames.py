"""Structure files, one frame at a time: where each frame comes from is kept, and a frame that cannot be read is told.

ASE reads every format. Extended XYZ, the one that large sets come in, is cut into frames here first, so that a damaged
frame costs that frame and not the file, and a file of any size is read as a stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import StringIO
from itertools import count, islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from deeprelax_ase.errors import StructureFileError
from deeprelax_ase.io.frame import Frame

if TYPE_CHECKING:
    from ase import Atoms

_XYZ = "extxyz"
_ALL = slice(None)


def read_frames(name: str) -> Iterator[Frame]:
    """The frames of a structure file, lazily and in order.

    Args:
        name: a file that ASE reads, with ASE's index after an ``@`` where not all frames are wanted: ``run.traj@-1``,
            ``set.extxyz@0:100``.

    Yields:
        Each frame. A frame or file that cannot be read gives a frame with ``error`` set; nothing is raised.
    """
    try:
        source = _Source.of(name)
    except StructureFileError as error:
        yield Frame(name, None, error)
        return
    if source.file_format == _XYZ and isinstance(source.index, slice) and (source.index.step or 1) > 0:
        yield from _read_xyz(source, source.index)
    else:
        yield from _frames(source, _ase_reader(source), lambda atoms: atoms)


def split_index(name: str) -> tuple[str, int | slice | str]:
    """The path and the index of ``path@index``; a file of that very name wins, and no index means all frames.

    Returns:
        The path, and a number, a slice, or a query where the file is an ASE database.

    Raises:
        StructureFileError: there is no such file, or the index is none that ASE knows.
    """
    from ase.io.formats import string2index

    path, at, text = name.rpartition("@")
    if not at or Path(name).exists():
        path, text = name, ":"
    if not Path(path).exists():
        raise StructureFileError(f"{path}: no such file. Check the name and the folder.")
    try:
        index = string2index(text)
    except (ValueError, TypeError):
        index = text
    is_query = isinstance(index, str) and Path(path).suffix in (".db", ".json")
    if is_query or isinstance(index, int) or (isinstance(index, slice) and index.step != 0):
        return path, index
    raise StructureFileError(
        f"{name}: the index {text!r} is not understood. Write @3 for one frame, @-1 for the last, @0:100 or @::10 for "
        "several."
    )


def count_frames(names: Iterable[str]) -> int | None:
    """How many frames ``names`` hold in all, or None where finding out would mean reading everything."""
    counts = [_count(name) for name in names]
    return None if None in counts else sum(n for n in counts if n is not None)


@dataclass(frozen=True)
class _Source:
    """A structure file and which of its frames are wanted."""

    name: str
    path: str
    index: int | slice | str
    file_format: str

    @classmethod
    def of(cls, name: str) -> _Source:
        from ase.io.formats import filetype

        path, index = split_index(name)
        if Path(path).is_dir() and not any(Path(path).glob("*.ulm")):
            raise StructureFileError(f"{path} is a folder. Give the files in it, for example {path.rstrip('/')}/*.cif")
        try:
            return cls(name, path, index, filetype(path))
        except Exception as error:  # whatever ASE's formats raise
            raise _unreadable(path, error) from error

    @property
    def one_frame(self) -> bool:
        from ase.io.formats import ioformats

        return isinstance(self.index, int) or (self.file_format in ioformats and ioformats[self.file_format].single)

    def label(self, position: int) -> str:
        """What to call the frame that is at ``position`` among those wanted."""
        if self.one_frame:
            return self.name
        return f"{self.path}@{position}" if self.index == _ALL else f"{self.name}[{position}]"


def _ase_reader(source: _Source) -> Iterator[Atoms]:
    from ase.db import connect
    from ase.io import iread

    if isinstance(source.index, str):
        return (row.toatoms() for row in connect(source.path).select(source.index))
    return iread(source.path, index=source.index, format=source.file_format, do_not_split_by_at_sign=True)


def _read_xyz(source: _Source, index: slice) -> Iterator[Frame]:
    from ase.io.extxyz import read_xyz
    from ase.io.formats import open_with_compression

    if min(index.start or 0, index.stop or 0) < 0:
        index = slice(*index.indices(_count_xyz(source.path)))
    with open_with_compression(source.path, "r") as lines:
        blocks = islice(xyz_blocks(lines), index.start, index.stop, index.step)
        yield from _frames(source, blocks, lambda block: next(read_xyz(StringIO(block), 0)))


def _frames(source: _Source, items: Iterator[Any], parse: Callable[[Any], Atoms]) -> Iterator[Frame]:
    """The frames that ``parse`` makes of ``items``: an error of ``parse`` costs one, of ``items`` the rest too."""
    for position in count():
        label = source.label(position)
        try:
            item = next(items, None)
        except Exception as error:  # whatever ASE's formats raise
            after = "" if source.one_frame else " Frames after it, if any, were not read."
            yield Frame(label, None, _unreadable(label, error, after))
            return
        if item is None:
            break
        try:
            frame = Frame(label, parse(item))
        except Exception as error:  # whatever ASE's formats raise
            frame = Frame(label, None, _unreadable(label, error))
        yield frame
    if position == 0:
        empty = StructureFileError(f"{source.name} holds no structure. Check the file and the index.")
        yield Frame(source.name, None, empty)


def _unreadable(label: str, error: Exception, after: str = "") -> StructureFileError:
    reason = str(error) if isinstance(error, StructureFileError) else f"{type(error).__name__}: {error}"
    return StructureFileError(
        f"{label} cannot be read ({reason}). Check that it opens in a viewer such as `ase gui`, or convert it to CIF "
        f"or extended XYZ.{after}"
    )


def _count(name: str) -> int | None:
    try:
        source = _Source.of(name)
    except StructureFileError:  # one frame, with an error
        return 1
    if source.one_frame:
        return 1
    if source.file_format == _XYZ and isinstance(source.index, slice):
        return max(1, len(range(*source.index.indices(_count_xyz(source.path)))))
    return None


def _count_xyz(path: str) -> int:
    from ase.io.formats import open_with_compression

    total = 0
    try:
        with open_with_compression(path, "r") as lines:
            for _ in xyz_blocks(lines):
                total += 1
    except Exception:  # what is damaged counts as one frame, with an error
        total += 1
    return total


def xyz_blocks(lines: IO[str]) -> Iterator[str]:
    """The text of each frame of an (extended) XYZ file.

    Raises:
        StructureFileError: where a frame should begin there is no number of atoms, or the last frame is cut short.
    """
    header = next(lines, "")
    while header:
        if header.isspace():
            header = next(lines, "")
            continue
        if not header.strip().isdecimal():
            raise StructureFileError(f"a number of atoms was expected, not {header.strip()[:40]!r}")
        number = int(header)
        block = [header, *islice(lines, number + 1)]
        if len(block) < number + 2:
            raise StructureFileError(f"the file ends after {max(len(block) - 2, 0)} of {number} atoms")
        header = next(lines, "")
        while header.lstrip().startswith("VEC"):  # lattice vectors in an older dialect
            block.append(header)
            header = next(lines, "")
        yield "".join(block)
