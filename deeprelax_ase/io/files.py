"""Files on the disk and in archives, opened alike whatever compresses them."""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import sqlite3
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, BytesIO, RawIOBase
from pathlib import Path
from typing import IO, Any

from deeprelax_ase.errors import SourceError, StructureFileError
from deeprelax_ase.io.frame import escaped

#: Functions that open files of these endings.
_COMPRESSED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}

#: A file may unpack to so many times its size, and any file to so many bytes. Structures shrink to a fifth or a
#: fiftieth. Only a file that is made to fill the memory shrinks to a thousandth.
MOST_UNPACKED, UNPACKED_AT_LEAST = 100, 2**28

#: Bytes that no file may unpack to, whatever its size: members of archives, CIF and JSON are held in memory as a whole.
MOST_BYTES = 2**32

#: Numbers of errors that tell of what a file holds: a library makes no sense of it, or looks for what lies before its
#: beginning.
_OF_CONTENT = (None, errno.EINVAL)

#: Errors of SQLite for a database that it cannot reach now, whatever it holds.
_OUT_OF_REACH = (
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
)


@dataclass(frozen=True)
class File:
    """A file on the disk, or a member of an archive.

    Attributes:
        label: where it is, for messages.
        name: its own, with the folders that it lies in within its source.
        path: its place on the disk; of a member, that of its archive.
        data: the content of a member, compressed or not; None of a file on the disk.
    """

    label: str
    name: str
    path: Path
    data: bytes | None = None

    @classmethod
    def on_disk(cls, path: Path, name: str | None = None) -> File:
        """The file at ``path``, by its own name or that in its source."""
        return cls(escaped(str(path)), path.name if name is None else name, path)

    @property
    def stem(self) -> str:
        """Its name without endings: what its structure is called."""
        name = escaped(plain_name(self.name))
        folder, slash, base = name.rpartition("/")
        return f"{folder}{slash}{base.rpartition('.')[0] or base}"

    def open(self) -> IO[bytes]:
        """Its content, unpacked, without the mark that Windows writes before UTF-8."""
        stream = self._opened()
        if stream.peek(len(BOM_UTF8)).startswith(BOM_UTF8):
            stream.read(len(BOM_UTF8))
        return stream

    def _opened(self) -> BufferedReader:
        ending = self.name[len(plain_name(self.name)) :].lower()
        where = self.path if self.data is None else BytesIO(self.data)
        if ending:
            packed = where.stat().st_size if isinstance(where, Path) else len(where.getbuffer())
            return BufferedReader(_Bounded(_COMPRESSED[ending](where, "rb"), packed), 2**17)
        return where.open("rb") if isinstance(where, Path) else BufferedReader(where)


class _Bounded(RawIOBase):
    """Content of a ``packed`` stream, unpacked as long as its size is within reason."""

    def __init__(self, stream: IO[bytes], packed: int) -> None:
        self._stream, self._packed, self._read = stream, packed, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer``; how many bytes there were."""
        content = self._stream.read(len(buffer))
        self._read += len(content)
        refuse_bomb(self._packed, self._read)
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        """Close what is read too."""
        self._stream.close()
        super().close()


def refuse_bomb(packed: int, unpacked: int) -> None:
    """Refuse to unpack so many bytes of a file of ``packed`` ones.

    Raises:
        StructureFileError: these are too many to be structures.
    """
    within_reason = max(UNPACKED_AT_LEAST, MOST_UNPACKED * packed)
    if unpacked > min(within_reason, MOST_BYTES):
        why = f"{MOST_UNPACKED} times its size: no structures shrink so much"
        if within_reason > MOST_BYTES:
            why = "what is unpacked of any file, as it may have to be held in memory"
        raise StructureFileError(
            f"it unpacks to more than {min(within_reason, MOST_BYTES) / 2**20:,.0f} MiB, over {why}. If it is meant, "
            "unpack it first"
        )


def plain_name(name: str) -> str:
    """``name`` without the ending of what compresses it."""
    return next((name[: -len(ending)] for ending in _COMPRESSED if name.lower().endswith(ending)), name)


@contextmanager
def reachable(label: str) -> Iterator[None]:
    """Turn errors of the operating system, which are no fault of a source, into one that says so.

    Raises:
        SourceError: in place of such an error.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _OF_CONTENT or isinstance(error, SourceError):
            raise
        raise SourceError(error.errno, f"{label} cannot be read now: {error.strerror}.") from error
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _OUT_OF_REACH:
            raise
        raise SourceError(errno.EAGAIN, f"{label} cannot be read now: {error}.") from error
