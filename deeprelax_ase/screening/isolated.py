"""Tables relaxed in processes of their own, for engines whose own processes must not die with a crystal.

An engine that runs a task again when its process was killed would run one that holds a deadly crystal for ever. Here
the process that dies is a child, and the crystal's row says what happened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import pairwise
from types import TracebackType

import pyarrow as pa

from deeprelax_ase.prediction.pool import WorkerPool
from deeprelax_ase.screening.options import RelaxOptions
from deeprelax_ase.screening.rows import INPUT
from deeprelax_ase.screening.table_relaxer import TableRelaxer

#: Parts of a table for each process, so that none waits long for another.
_PARTS = 4

Make = Callable[[RelaxOptions], Callable[[pa.Table], pa.Table]]


class IsolatedRelaxer:
    """Relaxes tables as :class:`~deeprelax_ase.screening.table_relaxer.TableRelaxer` does, in child processes.

    They start with the first table and end with :meth:`close`, or with this process.

    Args:
        options: how. With several processes, each computes in one thread, and ``cuda`` or ``auto`` gives them the
            visible GPUs in turn.
        workers: processes.
        make: makes the work of each process from ``options``; it is sent by pickle, unlike its result.

    Raises:
        ValueError: there is to be no process at all.
    """

    def __init__(self, options: RelaxOptions, *, workers: int = 1, make: Make = TableRelaxer) -> None:
        self._pool = WorkerPool(
            partial(_row_relaxer, make, options),
            join=pa.concat_tables,
            mark_failed=_mark_failed,
            workers=workers,
            device=options.device,
        )

    def __enter__(self) -> IsolatedRelaxer:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the processes."""
        self._pool.close()

    def __call__(self, table: pa.Table) -> pa.Table:
        """A row of :data:`~deeprelax_ase.screening.rows.OUTPUT` for each row of ``table``, in order.

        A crystal that kills its process is a row that failed. Where a process dies for another reason, what it was at
        is done again.

        Raises:
            ModelError, DeviceError: as in this process.
            WorkerError: processes die before they see a crystal.
        """
        workers = self._pool.workers
        count = 1 if workers == 1 else min(workers * _PARTS, table.num_rows) or 1
        cuts = [table.num_rows * n // count for n in range(count + 1)]
        parts = (Rows(table)[start:stop] for start, stop in pairwise(cuts))
        made = self._pool.imap(enumerate(parts), ordered=True)
        return pa.concat_tables(relaxed for _, relaxed in made).combine_chunks()


@dataclass(frozen=True)
class Rows:
    """Rows of a table, to be cut and sent to other processes: Arrow's own pickling sends all rows with a slice."""

    table: pa.Table

    def __len__(self) -> int:
        return self.table.num_rows

    def __getitem__(self, rows: slice) -> Rows:
        return Rows(self.table[rows])

    def __reduce__(self) -> tuple:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.table.schema) as writer:
            writer.write_table(self.table)
        return _unpacked, (sink.getvalue().to_pybytes(),)


def _unpacked(data: bytes) -> Rows:
    with pa.ipc.open_stream(data) as reader:
        return Rows(reader.read_all())


def _row_relaxer(make: Make, options: RelaxOptions, device: str) -> Callable[[Rows], pa.Table]:
    relax = make(replace(options, device=device))
    return lambda rows: relax(rows.table)


def _mark_failed(rows: Rows, reason: str) -> Rows:
    place = INPUT.get_field_index("error")
    return Rows(rows.table.set_column(place, INPUT.field(place), pa.array([reason] * len(rows), pa.string())))


@lru_cache(maxsize=1)
def shared_relaxer(options: RelaxOptions) -> TableRelaxer:
    """The relaxer that this process keeps, for engines that send many tasks to one process.

    Raises:
        ModelError, DeviceError: see :class:`~deeprelax_ase.screening.table_relaxer.TableRelaxer`.
    """
    return TableRelaxer(options)


@lru_cache(maxsize=1)
def shared_processes(options: RelaxOptions, workers: int) -> IsolatedRelaxer:
    """The processes that this one keeps, for the same engines."""
    return IsolatedRelaxer(options, workers=workers)
