"""Tables relaxed in processes of their own, for engines whose own processes must not die with a crystal.

An engine that runs a task again when its process was killed would run one that holds a deadly crystal for ever. Here
the process that dies is a child, the crystal is found by halving, and its row says what happened.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from types import TracebackType
from typing import Any

import pyarrow as pa

from deeprelax_ase.errors import WorkerError
from deeprelax_ase.screening import processes
from deeprelax_ase.screening.options import RelaxOptions
from deeprelax_ase.screening.relaxing import TableRelaxer

#: Parts of a table for each process, so that none waits long for another.
_PARTS = 4


class IsolatedRelaxer:
    """Relaxes tables as :class:`~deeprelax_ase.screening.relaxing.TableRelaxer` does, in child processes.

    They start with the first table and end with :meth:`close`, or with this process.

    Args:
        options: how. With several processes, each computes in one thread, and ``cuda`` or ``auto`` gives them the
            visible GPUs in turn.
        workers: processes.
        make: what each of them makes of ``options``; sent by pickle, unlike what it returns.

    Raises:
        ValueError: there is to be no process at all.
    """

    def __init__(
        self,
        options: RelaxOptions,
        *,
        workers: int = 1,
        make: Callable[[RelaxOptions], Callable[[pa.Table], pa.Table]] = TableRelaxer,
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        self.options, self.workers, self._make = options, workers, make
        self._held: ProcessPoolExecutor | None = None

    def __enter__(self) -> IsolatedRelaxer:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the processes; the next table starts new ones."""
        held, self._held = self._held, None
        if held is not None:
            processes.end(held)

    def __call__(self, table: pa.Table) -> pa.Table:
        """A row of :data:`~deeprelax_ase.screening.rows.OUTPUT` for each row of ``table``, in order.

        A crystal that kills its process is a row that failed. Where a process dies for another reason, what it was at
        is done again.

        Raises:
            ModelError, DeviceError: as in this process.
            WorkerError: processes die before they see a crystal.
        """
        parts = self._parts(table)
        made: list[pa.Table | None] = [None] * len(parts)
        while undone := [n for n, result in enumerate(made) if result is None]:
            for n, result in zip(undone, self._together([parts[n] for n in undone]), strict=True):
                made[n] = result
            # They are begun in order, so that those at work when a process died are the first of those undone.
            for n in [n for n in undone if made[n] is None][: self.workers]:
                made[n] = self._isolate_crash(parts[n])
        return pa.concat_tables(made).combine_chunks()

    def _parts(self, table: pa.Table) -> list[pa.Table]:
        count = 1 if self.workers == 1 else min(self.workers * _PARTS, table.num_rows) or 1
        cuts = [table.num_rows * n // count for n in range(count + 1)]
        return [table.slice(start, stop - start) for start, stop in pairwise(cuts)]

    def _together(self, parts: list[pa.Table]) -> list[pa.Table | None]:
        """What becomes of ``parts``; None for those that were not done when a process died."""
        pool = self._pool()
        futures: list[Future[bytes]] = []
        with suppress(BrokenProcessPool):
            for part in parts:
                futures.append(pool.submit(_relax_here, _packed(part)))
        made: list[pa.Table | None] = [None] * len(parts)
        for n, future in enumerate(futures):
            with suppress(BrokenProcessPool):
                made[n] = _unpacked(future.result())
        if any(result is None for result in made):
            self.close()
        return made

    def _isolate_crash(self, table: pa.Table, tries: int = processes.TRIES) -> pa.Table:
        """Relax ``table`` with nothing else going on, so that whoever kills the process is among its rows."""
        (result,) = self._together([table])
        if result is not None:
            return result
        if table.num_rows > 1:
            half = table.num_rows // 2
            return pa.concat_tables([self._isolate_crash(table.slice(0, half)), self._isolate_crash(table.slice(half))])
        if tries > 1:
            return self._isolate_crash(table, tries - 1)
        if table.num_rows == 0 or self._together([table.slice(0, 0)]) == [None]:
            raise WorkerError(processes.DIE_AT_ONCE)
        return self._isolate_crash(_blamed(table), 1)

    def _pool(self) -> ProcessPoolExecutor:
        if self._held is None:
            self._held = processes.pool(self.workers, _begin, self.options, self._make)
        return self._held


@lru_cache(maxsize=1)
def shared_relaxer(options: RelaxOptions) -> TableRelaxer:
    """The relaxer that this process keeps, for engines that send many tasks to one process.

    Raises:
        ModelError, DeviceError: see :class:`~deeprelax_ase.screening.relaxing.TableRelaxer`.
    """
    return TableRelaxer(options)


@lru_cache(maxsize=1)
def shared_processes(options: RelaxOptions, workers: int) -> IsolatedRelaxer:
    """The processes that this one keeps, for the same engines."""
    return IsolatedRelaxer(options, workers=workers)


def _blamed(table: pa.Table) -> pa.Table:
    place = table.schema.get_field_index("error")
    return table.set_column(
        place, table.schema.field(place), pa.array([processes.KILLED] * table.num_rows, pa.string())
    )


def _packed(table: pa.Table) -> bytes:
    """Arrow's stream format: pickle would send all rows along with a slice."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _unpacked(data: bytes) -> pa.Table:
    with pa.ipc.open_stream(data) as reader:
        return reader.read_all()


# -- in the processes

_HERE: dict[str, Any] = {}


def _begin(options: RelaxOptions, make: Callable[[RelaxOptions], Any], turn: processes.WorkerSlot) -> None:
    try:
        _HERE["relaxer"] = make(replace(options, device=processes.settle(options.device, turn)))
    except Exception as error:  # told when there is work: a pool whose initializer raises only says that it broke
        _HERE["error"] = error


def _relax_here(data: bytes) -> bytes:
    if "error" in _HERE:
        raise _HERE["error"]
    return _packed(_HERE["relaxer"](_unpacked(data)))
