"""One pool of worker processes for every door: a crystal that kills its process costs itself, and nothing else.

Each process has a pipe of its own, and a thread here that asks it. Kept libraries were tried under ``kill -9`` first.
Workers of pebble 5.2 share one pipe behind a lock, so that a process that is killed while it takes a job, or while it
waits for one, breaks the pool (four runs of four). loky 3.7, and joblib on it, end all workers when one dies: every job
that is not done is lost with it. Data, evaluation and labelling map over it too, so that it lies below them all.
"""

from __future__ import annotations

import atexit
import queue
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from types import TracebackType
from typing import Any

from deeprelax_ase.errors import WorkerError
from deeprelax_ase.prediction.slots import WorkerSlot, most_workers
from deeprelax_ase.prediction.worker import ItemError, Make, WorkerDied, WorkerProcess, pack

#: Reason of a crystal that kills its process.
KILLED = "the process that had this crystal was killed: too little memory, or a crash"

#: Message for processes that die before they do any work.
DIE_AT_ONCE = (
    "worker processes die before they see any crystal. In a script, call this under `if __name__ == "
    "'__main__':`, because they import it; otherwise, is there enough memory?"
)

#: An item fails once it has ended so many processes that saw nothing else: other causes kill processes too.
TRIES = 2

#: Parts that a job is cut into where its process died. A new process takes seconds, more than small batches lose: one
#: crystal in fifty that kills ends four processes, and with halves it were eight.
_CUTS = 8

#: Jobs that are on their way, for each process.
_AHEAD = 2


@dataclass(eq=False)
class Part:
    """Items that one process is given together.

    Attributes:
        items: they, which can be sliced.
        deaths: how often they ended a process, once they are one alone.
        results: of the items, once they are known.
    """

    items: Any
    deaths: int = 0
    results: list[Any] = field(default_factory=list)


@dataclass(eq=False)
class Job:
    """Items whose results are wanted together.

    Attributes:
        key: tells it from others.
        parts: its items, in order; one part until a process dies of it.
    """

    key: Any
    parts: list[Part]

    @property
    def done(self) -> bool:
        """Whether all results are known."""
        return all(part.results for part in self.parts)


class WorkerPool:
    """Processes that each hold what ``make`` makes, and do jobs with it.

    They start with :meth:`start` or the first job, and end with :meth:`close`, with the pool, or with this process.

    Args:
        make: makes of a device, in each process, what takes items and returns their results; is sent by pickle.
        join: makes the results of a job out of those of its parts, in order.
        mark_failed: what to do instead of items of which one, alone, fails for a reason that is given in one line.
        workers: processes; None for as many as suit the machine. With several, each computes in one thread.
        device: given to the processes in turn where it is ``cuda`` or ``auto``; empty where they need none.
    """

    def __init__(
        self,
        make: Make,
        *,
        join: Callable[[list[Any]], Any],
        mark_failed: Callable[[Any, str], Any],
        workers: int | None,
        device: str,
    ) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        self._first = WorkerSlot(0, workers, device)
        self._make, self._join, self._mark_failed = make, join, mark_failed
        self._threads = ThreadPoolExecutor(workers or most_workers(), thread_name_prefix="worker")
        self._free: queue.SimpleQueue[WorkerSlot] = queue.SimpleQueue()
        self._free.put(self._first)
        self._processes: dict[WorkerSlot, WorkerProcess] = {}
        self._starting, self._closed = threading.Lock(), False
        self._at_exit = partial(_close, weakref.ref(self))
        atexit.register(self._at_exit)  # before multiprocessing waits for the processes, which wait for jobs

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def start(self) -> None:
        """Start the processes without waiting for them; what goes wrong is told when there is a job."""
        self._threads.submit(self._start_one)  # before this process loads torch, to count GPUs
        for _ in range(1, self.workers):
            self._threads.submit(self._start_one)

    @cached_property
    def workers(self) -> int:
        """Count the processes; the first of them can start before it is known."""
        number = self._first.count()
        for further in range(1, number):
            self._free.put(replace(self._first, number=further))
        return number

    def close(self) -> None:
        """End the processes at once: what they work at is wanted no longer."""
        with self._starting:
            self._closed = True
            processes = list(self._processes.values())
        for process in processes:  # all at once: one that holds a GPU takes its time
            process.terminate()
        for process in processes:
            process.end()
        self._threads.shutdown(cancel_futures=True)
        atexit.unregister(self._at_exit)

    def imap(
        self, jobs: Iterable[tuple[Any, Any]], *, ordered: bool = False, ahead: int = _AHEAD
    ) -> Iterator[tuple[Any, Any]]:
        """The results of ``jobs``, as soon as they are there, or in order.

        A job whose process dies is done again in smaller parts, by any free processes, until an item is found at fault.
        It must end a process alone, and once more, before it is marked as failed.

        Args:
            jobs: of each a key, and items that can be sliced; read as they are needed.
            ordered: whether the results come in the order of the jobs.
            ahead: jobs that are on their way, for each process.

        Yields:
            the key of each job, and its results.

        Raises:
            WorkerError: processes die before they see an item.
            Exception: what making raised there; of what doing raised, errors that no item is at fault of.
        """
        rest, opened = iter(jobs), list[Job]()
        running: dict[Future[Any], tuple[Job, Part]] = {}
        try:
            while True:
                while len(opened) < self.workers * ahead and (given := next(rest, None)) is not None:
                    opened.append(Job(given[0], [Part(given[1])]))
                    self._submit(opened[-1], opened[-1].parts, running)
                if not opened:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    job, part = running.pop(future)
                    self._submit(job, self._settle(job, part, future), running)
                for job in [*opened]:
                    if job.done:
                        opened.remove(job)
                        yield job.key, self._join([part.results[0] for part in job.parts])
                    elif ordered:
                        break
        finally:
            for future in running:
                future.cancel()

    def _submit(self, job: Job, parts: list[Part], running: dict[Future[Any], tuple[Job, Part]]) -> None:
        for part in parts:
            running[self._threads.submit(self._ask, part.items)] = job, part

    def _settle(self, job: Job, part: Part, future: Future[Any]) -> list[Part]:
        """Keep the results of a part; where there are none, the parts to do in its place."""
        try:
            part.results.append(future.result())
            return []
        except WorkerDied:
            parts = self._isolate_crash(part, KILLED, TRIES)
        except ItemError as error:
            parts = self._isolate_crash(part, str(error), 1)
        place = job.parts.index(part)
        job.parts[place : place + 1] = parts
        return parts

    def _isolate_crash(self, part: Part, reason: str, tries: int) -> list[Part]:
        """Replace a part that failed: by smaller ones, by an item to try again, or by a failure."""
        if len(part.items) > 1:
            size = -(-len(part.items) // _CUTS)
            return [Part(part.items[start : start + size]) for start in range(0, len(part.items), size)]
        deaths = part.deaths + 1
        if deaths > 2 * TRIES:  # a failure that kills: it cannot be the item's
            raise WorkerError(DIE_AT_ONCE)
        return [Part(part.items if deaths < tries else self._mark_failed(part.items, reason), deaths)]

    # -- in the threads

    def _ask(self, items: Any) -> Any:
        question, slot = pack(items), self._free.get()
        try:
            process = self._processes.get(slot) or self._started(slot)
            return process.ask(question)
        except WorkerDied:
            self._processes.pop(slot).end()
            raise
        finally:
            self._free.put(slot)

    def _start_one(self) -> None:
        slot = self._free.get()
        try:
            if slot not in self._processes:
                self._started(slot)
        finally:
            self._free.put(slot)

    def _started(self, slot: WorkerSlot) -> WorkerProcess:
        """A process that is ready."""
        for _ in range(TRIES):
            with self._starting:
                if self._closed:
                    raise WorkerError("the pool is closed")
                process = self._processes[slot] = WorkerProcess(self._make, slot)
            try:
                process.wait_until_ready()
                return process
            except WorkerDied:
                self._processes.pop(slot).end()
            except BaseException:
                self._processes.pop(slot).end()
                raise
        raise WorkerError(DIE_AT_ONCE)


def _close(pool: weakref.ref[WorkerPool]) -> None:
    if (there := pool()) is not None:
        there.close()
