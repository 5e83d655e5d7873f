"""One folder of results that several calls fill together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def taken(result: Path) -> Iterator[bool]:
    """Whether this process is to make the file ``result``: false while another one does, and once it is there.

    The system lets go of what a process that was killed had taken.
    """
    lock = FileLock(result.with_name(f"{result.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield not result.exists()
    finally:
        lock.release()
