"""Processes that are killed in the middle of their work, from outside or by a crystal."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
from ase import Atoms
from ase.calculators.lj import LennardJones

from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.screening.options import RelaxOptions
from deeprelax_ase.screening.relaxing import TableRelaxer


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


class Deadly(TableRelaxer):
    """A relaxer whose process dies of crystals named "deadly", and of one named "once FILE" if FILE is not there yet.

    A crystal of which it is told that it is deadly is not looked into.
    """

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = table.select(["id", "error"]).to_pylist()
        for name in (row["id"] for row in rows if not row["error"]):
            if name == "deadly" or (name.startswith("once ") and _first(Path(name.removeprefix("once ")))):
                os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(table)


def dies_of_potassium() -> LennardJones:
    """A calculator that kills its process when it is asked for a crystal with potassium."""
    return _DiesOfPotassium(sigma=2.5, epsilon=0.1, rc=8.0, smooth=True)


class _DiesOfPotassium(LennardJones):
    def calculate(self, atoms: Atoms | None = None, *arguments: object, **more: object) -> None:
        assert atoms is not None
        if "K" in atoms.symbols:
            os.kill(os.getpid(), signal.SIGKILL)
        super().calculate(atoms, *arguments, **more)


def _first(marker: Path) -> bool:
    """Whether this is the first call, of all processes."""
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def assert_as_predicted(
    table: pa.Table, structures: list, options: RelaxOptions, indices: list[int] | None = None
) -> None:
    """A row for each structure, once, in order, and the crystal that the predictor makes of it."""
    assert table.column("index").to_pylist() == (indices or list(range(len(structures))))
    predictor = Predictor(options.model, device="cpu", members=options.members, recycles=options.recycles)
    for row, expected in zip(table.to_pylist(), predictor.predict_many(structures), strict=True):
        assert row["status"] == "accepted", row["reason"]
        np.testing.assert_allclose(row["positions"], expected.relaxed.positions.ravel(), rtol=0, atol=1e-5)
        np.testing.assert_allclose(row["cell"], expected.relaxed.cell.ravel(), rtol=0, atol=1e-5)
