"""Processes that are killed in the middle of their work, from outside or by what they are sent."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def descendants(of: str | None = None) -> dict[int, str]:
    """Command line of each process, by its id, that descends from this one, or from those with ``of`` in theirs."""
    parents, commands = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            commands[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended
            continue
    found: dict[int, str] = {}
    generation = {os.getpid()} if of is None else {pid for pid, command in commands.items() if of in command}
    while generation:
        generation = {pid for pid, parent in parents.items() if parent in generation}
        found |= {pid: commands.get(pid, "") for pid in generation}
    return found


def has_torch(pid: int) -> bool:
    try:
        return "libtorch" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


@contextmanager
def one_killed(wanted: Callable[[int, str], bool], of: str | None = None) -> Iterator[list[int]]:
    """SIGKILL to the first of the :func:`descendants` that is ``wanted``, as soon as there is one."""
    killed: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            for pid, command in descendants(of).items():
                if wanted(pid, command):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                    return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield killed
    finally:
        done.set()
        thread.join()


class Killer:
    """Kills the process that it is sent to."""

    def __reduce__(self) -> tuple:
        return os.kill, (_Receiver(), signal.SIGKILL)


class _Receiver(int):
    """Becomes the id of the process that it is sent to."""

    def __reduce__(self) -> tuple:
        return os.getpid, ()
