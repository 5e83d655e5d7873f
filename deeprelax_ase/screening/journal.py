"""The journal of a screening: a JSON line for each block that is done, on the disk once it is written."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from deeprelax_ase.errors import OutputError
from deeprelax_ase.io.placing import placed, to_disk

Line = dict[str, Any]


class Journal:
    """Lines by the number of their block; those that are added are on the disk once :meth:`append` returns.

    Args:
        file: holds the lines.
        lines: those that it holds.
        stream: ``file``, open for appending.
    """

    def __init__(self, file: Path, lines: dict[int, Line], stream: IO[bytes]) -> None:
        self.file, self.lines, self._stream = file, lines, stream

    def append(self, line: Line) -> None:
        """Add the line of a block.

        Raises:
            OSError: no space; what was there stays whole.
        """
        length = self._stream.seek(0, os.SEEK_END)
        try:
            self._stream.write(_encoded(line))
            self._stream.flush()
            os.fsync(self._stream.fileno())
        except OSError:
            self._stream.truncate(length)
            raise
        self.lines[line["block"]] = line


@contextmanager
def open_journal(file: Path, holds: Callable[[Line], bool]) -> Iterator[Journal]:
    """The journal ``file``, to be written by this process alone; lines that do not hold are dropped, and said.

    Args:
        file: made if need be.
        holds: whether what a line of a block says is so; for lines with what all have.

    Raises:
        OutputError: another process writes to it.
    """
    lock = FileLock(f"{file}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise OutputError(
            f"another process writes to {file}. Wait for it, or give another folder, or share the work with --shard."
        ) from error
    try:
        lines, whole = read_journal(file) if file.exists() else ({}, True)
        held = {block: line for block, line in lines.items() if holds(line)}
        if len(held) < len(lines):
            gone = ", ".join(str(block) for block in lines if block not in held)
            _say(f"{file}: what it says of block {gone} does not hold (a file of results is gone or damaged)")
        if not whole or len(held) < len(lines):
            _write(file, held)
        with file.open("a+b") as stream:
            to_disk(file.parent)
            yield Journal(file, held, stream)
    finally:
        lock.release()


def read_journal(file: Path) -> tuple[dict[int, Line], bool]:
    """The lines of each block, and whether there is nothing else in the file.

    The last of several lines of one block holds. A last line that was cut, as a killed process may leave it, is passed
    over; so are others that are no line of a block, and that is said.
    """
    lines: dict[int, Line] = {}
    found = file.read_bytes().split(b"\n")
    cut, ignored = found.pop(), 0
    for text in found:
        if (line := _decoded(text)) is None:
            ignored += 1
        else:
            ignored += line["block"] in lines
            lines[line["block"]] = line
    if ignored:
        _say(f"{file}: {ignored} lines are damaged, or there twice")
    return lines, not (cut or ignored)


def _say(what: str) -> None:
    warnings.warn(f"{what}; ignored", stacklevel=4)


def _encoded(line: Line) -> bytes:
    return json.dumps(line).encode() + b"\n"


def _decoded(text: bytes) -> Line | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):  # also of bytes that are no text
        return None
    sound = isinstance(line, dict) and all(isinstance(line.get(key), kind) for key, kind in _SHAPE.items())
    return line if sound and all(isinstance(count, int) for count in line["statuses"].values()) else None


#: Fields of each line: the number of its block, the number of rows with each status, and the digest of its file.
_SHAPE = {"block": int, "statuses": dict, "digest": str}


def _write(file: Path, lines: dict[int, Line]) -> None:
    """Put ``lines`` in the place of the file, all or none."""
    with placed(file) as part:
        part.write_bytes(b"".join(map(_encoded, lines.values())))
