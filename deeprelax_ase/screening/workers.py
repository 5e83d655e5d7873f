"""Blocks relaxed by several processes, each with a model of its own; one that dies costs the crystal that killed it.

On a CPU each process computes in one thread, which for small crystals makes more of the cores than threads do. On GPUs
each looks after crystals on the host while others have the device.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeprelax_ase.errors import StructureFileError
from deeprelax_ase.io.frame import StructureRef
from deeprelax_ase.screening import processes
from deeprelax_ase.screening.manifest import Folder
from deeprelax_ase.screening.options import RelaxOptions

if TYPE_CHECKING:
    from deeprelax_ase.screening.relaxing import TableRelaxer

#: Blocks that are read before a process is free for them, for each process.
_AHEAD = 2


@dataclass(frozen=True)
class Job:
    """What processes need to know of a screening.

    Attributes:
        folder: where results go.
        options: how to relax.
        block_size: structures of a block, so that each knows its place among all.
        id_key: key that names structures.
    """

    folder: Path
    options: RelaxOptions
    block_size: int
    id_key: str | None


@dataclass(frozen=True)
class BlockReport:
    """What became of a block.

    Attributes:
        block: its number.
        statuses: how many rows have each status.
        bytes: size of its file.
        seconds: spent on reading, relaxing and writing, and of relaxing on graph, network and geometry.
    """

    block: int
    statuses: dict[str, int]
    bytes: int
    seconds: dict[str, float]

    def line(self) -> dict[str, Any]:
        """For the journal."""
        seconds = {stage: round(value, 3) for stage, value in self.seconds.items()}
        return {"block": self.block, "rows": sum(self.statuses.values()), **vars(self), "seconds": seconds}


def relax_blocks(blocks: Iterator[tuple[int, list[StructureRef]]], job: Job, *, workers: int) -> Iterator[BlockReport]:
    """Relax and write ``blocks``, as soon as there is a process for each.

    Args:
        blocks: numbered pieces; read as they are needed.
        work: see :class:`Work`.
        workers: processes; 0 to do everything in this one.

    Yields:
        a report of each block that is written, in the order in which they are done.

    Raises:
        OSError: nothing can be written.
    """
    if workers == 0:
        relaxer = _relaxer(job.options)
        for number, refs in blocks:
            yield relax_block(number, refs, job, relaxer)
        return
    while (suspects := (yield from _until_one_dies(blocks, job, workers))) is not None:
        for number, refs in suspects:  # each alone, to see which of them it is
            yield _isolate_crash(number, refs, job)


def _until_one_dies(
    blocks: Iterator[tuple[int, list[StructureRef]]], job: Job, workers: int
) -> Generator[BlockReport, None, list[tuple[int, list[StructureRef]]] | None]:
    """Report blocks until all are done; the blocks that were on their way when a process died, or None."""
    running: dict[Future[BlockReport], tuple[int, list[StructureRef]]] = {}
    block: tuple[int, list[StructureRef]] | None = None  # read, and not yet with a process
    with _pool(job, workers) as pool:
        try:
            while True:
                while len(running) < workers * _AHEAD and (block := next(blocks, None)) is not None:
                    running[pool.submit(_relax_here, *block)] = block
                    block = None
                if not running:
                    return None
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    report = future.result()
                    del running[future]
                    yield report
        except BrokenProcessPool:
            lost = [] if block is None else [block]  # a pool that broke takes no more
            for future, others in running.items():
                if future.done() and future.exception() is None:
                    yield future.result()
                else:
                    lost.append(others)
            return lost
        except BaseException:
            processes.end(pool)
            raise


def _isolate_crash(number: int, refs: list[StructureRef], job: Job) -> BlockReport:
    """Relax a block in a process of its own; a crystal that kills it is a row that says so."""
    with _pool(job, 1) as pool:
        try:
            return pool.submit(_relax_here, number, refs).result()
        except BrokenProcessPool:
            pass
    blamed = processes.isolate_crash(refs, lambda: _pool(job, 1), _try_here, _killed)
    with _pool(job, 1) as pool:
        return pool.submit(_relax_here, number, blamed).result()


def _killed(ref: StructureRef) -> StructureRef:
    return replace(ref, kind="frame", content=StructureFileError(processes.KILLED))


def relax_block(number: int, refs: list[StructureRef], job: Job, relaxer: TableRelaxer) -> BlockReport:
    """Read, relax and write one block.

    Raises:
        OSError: it cannot be written.
    """
    from deeprelax_ase.screening.blocks import table_of

    clock = [time.perf_counter()]
    table = table_of(refs, first_index=number * job.block_size, id_key=job.id_key)
    clock.append(time.perf_counter())
    relaxed = relaxer(table)
    clock.append(time.perf_counter())
    size = Folder(job.folder).write(number, relaxed)
    clock.append(time.perf_counter())
    read, relax, write = (after - before for before, after in pairwise(clock))
    seconds = {"read": read, "relax": relax, **relaxer.seconds, "write": write}
    return BlockReport(number, dict(Counter(relaxed.column("status").to_pylist())), size, seconds)


# -- in the processes

_HERE: dict[str, Any] = {}


def _pool(job: Job, workers: int) -> ProcessPoolExecutor:
    return processes.pool(workers, _begin, job)


def _begin(job: Job, turn: processes.WorkerSlot) -> None:
    """Load the model, once for each process."""
    try:
        device = processes.settle(job.options.device, turn)
        _HERE.update(job=job, relaxer=_relaxer(replace(job.options, device=device)))
    except Exception as error:  # told when there is work: a pool whose initializer raises only says that it broke
        _HERE["error"] = error


def _relaxer(options: RelaxOptions) -> TableRelaxer:
    from deeprelax_ase.screening.relaxing import TableRelaxer

    return TableRelaxer(options)


def _relax_here(number: int, refs: list[StructureRef]) -> BlockReport:
    _check_model()
    return relax_block(number, refs, _HERE["job"], _HERE["relaxer"])


def _check_model() -> None:
    if "error" in _HERE:
        raise _HERE["error"]


def _try_here(refs: Sequence[StructureRef]) -> None:
    """Relax, and write nothing."""
    from deeprelax_ase.screening.blocks import table_of

    _check_model()
    _HERE["relaxer"](table_of(refs, first_index=0, id_key=_HERE["job"].id_key))
