"""Processes that hold a model each: how they begin, how they end, and what is said of a crystal that ends one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from deeprelax_ase.errors import WorkerError

#: Reason in the row of a crystal that kills its process.
KILLED = "the process that relaxed this crystal was killed: too little memory, or a crash"

#: Why nothing can be done where processes die of nothing.
DIE_AT_ONCE = (
    "the processes that relax crystals die before they see any. In a script, call this under `if __name__ == "
    "'__main__':`, because they import it; otherwise, is there enough memory?"
)

#: How often an item may end a process that saw nothing else before it is blamed: others, too, kill processes.
TRIES = 2

Item = TypeVar("Item")


#: Bytes of a GPU that a process takes beside its tensors: CUDA's context, kernels, and libraries.
_OVERHEAD = 10**9


@dataclass(frozen=True)
class WorkerSlot:
    """Whose turn it is among the processes of a pool.

    Attributes:
        counter: how many have had theirs, shared by all.
        workers: how many there are.
    """

    counter: Any
    workers: int


def pool(workers: int, begin: Callable[..., None], *arguments: Any) -> ProcessPoolExecutor:
    """Processes that call ``begin(*arguments, turn)`` first, see :func:`device_of`."""
    context = multiprocessing.get_context("spawn")  # CUDA and torch's threads do not survive a fork
    turn = WorkerSlot(context.Value("i", 0), workers)
    return ProcessPoolExecutor(workers, context, initializer=begin, initargs=(*arguments, turn))


def end(held: ProcessPoolExecutor) -> None:
    """End the processes at once: what they work at is wanted no longer."""
    for process in list((held._processes or {}).values()):
        with suppress(OSError):
            process.terminate()
    held.shutdown(wait=True, cancel_futures=True)


def isolate_crash(
    items: Sequence[Item],
    make_pool: Callable[[], ProcessPoolExecutor],
    probe: Callable[[Sequence[Item]], None],
    mark_failed: Callable[[Item], Item],
) -> list[Item]:
    """The ``items`` of which one killed a process, or another thing did: those that do so again are blamed.

    Args:
        items: what the process was at.
        make_pool: makes one process.
        probe: does there what kills, and nothing that lasts.
        blame: what to put in the place of an item that kills.

    Raises:
        WorkerError: processes die of nothing.
    """

    def dies(places: Sequence[int]) -> bool:
        with make_pool() as alone:
            try:
                alone.submit(probe, [items[n] for n in places]).result()
            except BrokenProcessPool:
                return True
        return False

    def deadly(places: Sequence[int]) -> list[int]:
        if not dies(places):
            return []
        if len(places) == 1:
            return [*places] if all(dies(places) for _ in range(TRIES - 1)) else []
        half = len(places) // 2
        return [*deadly(places[:half]), *deadly(places[half:])]

    if dies([]):
        raise WorkerError(DIE_AT_ONCE)
    guilty = set(deadly(range(len(items))))
    return [mark_failed(item) if n in guilty else item for n, item in enumerate(items)]


def settle(device: str, turn: WorkerSlot) -> str:
    """What a process does first, and the device that it is to use, see :func:`device_of`.

    Each of several processes computes in one thread, and compiles in one, which for small crystals makes more of the
    cores than threads do.
    """
    belong_to_parent()
    if turn.workers > 1:
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
        import torch

        torch.set_num_threads(1)
    return device_of(device, turn)


def belong_to_parent() -> None:
    """Leave Ctrl-C to the first process, and end with it, however it ends: there is nobody to work for without it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def device_of(name: str, turn: WorkerSlot) -> str:
    """The device of this process: GPUs are given to processes in turn where ``name`` leaves open which.

    Processes that share a GPU may use equal parts of its memory: one that asks for more is told so by torch, and tries
    smaller batches, where otherwise the libraries of all would fail.
    """
    import torch

    if not name.startswith(("auto", "cuda")) or not torch.cuda.is_available():
        return name
    sharing = turn.workers
    if name in ("auto", "cuda"):
        gpus = torch.cuda.device_count()
        sharing = -(-turn.workers // gpus)
        with turn.counter.get_lock():
            name = f"cuda:{turn.counter.value % gpus}"
            turn.counter.value += 1
    torch.cuda.set_device(name)  # where compiled kernels start
    if sharing > 1:
        total = torch.cuda.get_device_properties(name).total_memory
        torch.cuda.set_per_process_memory_fraction(max(0.01, 1 / sharing - _OVERHEAD / total), name)
    return name


def default_workers(device: str) -> int:
    """Processes that make good use of this machine."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    return max(1, min(cores, 8 * torch.cuda.device_count()) if on_gpu else cores)
