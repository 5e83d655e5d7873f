"""Files that are written aside and then put in their place, whole: on the disk once that returns."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deeprelax_ase.errors import OutputError


def aside(path: Path) -> Path:
    """Return the hidden file beside ``path`` to which this process writes first."""
    return path.with_name(f".part-{os.getpid()}-{path.name}")


@contextmanager
def placed(path: Path, *, replace: bool = True, durable: bool = True) -> Iterator[Path]:
    """Give a file to write, which is put in the place of ``path`` once the block ends well; or else it is removed.

    Arguments and errors are those of :func:`put`.
    """
    part = aside(path)
    try:
        yield part
        put(part, path, replace=replace, durable=durable)
    finally:
        part.unlink(missing_ok=True)


def put(part: Path, path: Path, *, replace: bool = True, durable: bool = True) -> None:
    """Move ``part`` to ``path``, both in one folder.

    Args:
        part: a whole file, or one that is written on.
        path: its final place.
        replace: whether to take the place of a file that is there.
        durable: whether to return only once content and name are on the disk.

    Raises:
        OutputError: there is one, and it is to stay.
        OSError: no space, no permission.
    """
    if durable:
        to_disk(part)
    if replace:
        part.replace(path)
    else:
        _put_where_nothing_is(part, path)
    if durable:
        to_disk(path.parent)


def _put_where_nothing_is(part: Path, path: Path) -> None:
    """A rename would replace what is there; a second name for a file does not, where the file system has such."""
    try:
        os.link(part, path)
    except OSError:
        if path.exists():
            raise taken(path) from None
        part.replace(path)
    else:
        part.unlink()


def taken(path: Path | str) -> OutputError:
    """The error of a place where something lies already."""
    return OutputError(f"{path} exists already. Give another name, or replace it with overwrite=True.")


def to_disk(path: Path) -> None:
    """Return once the content of a file, or the names in a folder, are on the disk."""
    is_folder = path.is_dir()
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError:
        if not is_folder:  # which some file systems, and permissions, do not let be opened
            raise
