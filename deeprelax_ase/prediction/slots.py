"""Division of a machine among worker processes: cores, GPUs, and the memory of a GPU that several of them share."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

#: Processes that share a GPU by default: some look after crystals on the host while others have the device. Five are
#: slower than three under the default (``benchmarks/throughput.md``).
_PER_GPU = 3

#: Bytes of a GPU that a process takes beside its tensors: CUDA's context, kernels, and libraries.
_OVERHEAD = 10**9


@dataclass(frozen=True)
class WorkerSlot:
    """The place of one process among those of a pool; one that is started in its place has the same.

    Attributes:
        number: counted from 0.
        workers: how many there are; None for :func:`default_workers`.
        device: ``cpu``, ``cuda``, ``cuda:1`` or ``auto``, for all of them; empty where they need none, nor torch.
    """

    number: int
    workers: int | None
    device: str

    def count(self) -> int:
        """Count the processes; on GPUs the default takes torch to do so."""
        return default_workers(self.device) if self.workers is None else self.workers


def default_workers(device: str) -> int:
    """Processes that make good use of this machine: one for each core, and on GPUs at most three for each."""
    cores = most_workers()
    if not device.startswith(("auto", "cuda")):
        return cores
    import torch

    if device == "auto" and not torch.cuda.is_available():
        return cores
    gpus = 1 if device.startswith("cuda:") else torch.cuda.device_count()
    return max(1, min(cores, _PER_GPU * gpus))


def most_workers() -> int:
    """Cores that this process may use: there are never more processes by default."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def claim_device(slot: WorkerSlot) -> str:
    """Set up this process for its ``slot``, before it computes anything; the device that it is to use.

    Each of several processes computes in one thread, and compiles in one, which for small crystals makes more of the
    cores than threads do.
    """
    if slot.device and slot.count() > 1:
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
        import torch

        torch.set_num_threads(1)
    return share_device(slot)


def open_gpu(slot: WorkerSlot) -> None:
    """Open the GPU of a ``slot``, if it has one, and its libraries: that takes a second, in which others import."""
    if slot.device.startswith(("auto", "cuda")):
        if slot.device != "auto" or Path("/dev/nvidiactl").exists():
            Thread(target=_know_triton, daemon=True).start()
        import torch

        if torch.cuda.is_available():
            some = torch.zeros(16, 16, device=_gpu(slot))
            torch.addmm(some[0], some, some)  # for which cuBLAS is loaded


def _know_triton() -> None:
    """Have Triton digest its own library, 0.4 GB that it reads before a process's first kernel, and remember that."""
    with suppress(Exception):  # it is not there, or does so elsewhere
        from triton.runtime.cache import triton_key

        triton_key()


def _gpu(slot: WorkerSlot) -> str:
    """Name of the GPU of a ``slot``: they are given out in turn where the pool's device leaves open which."""
    import torch

    return f"cuda:{slot.number % torch.cuda.device_count()}" if slot.device in ("auto", "cuda") else slot.device


def share_device(slot: WorkerSlot) -> str:
    """The device of a process.

    Processes that share a GPU may use equal parts of its memory. Torch refuses more to a process, which then tries
    smaller batches; otherwise the libraries of all would fail.
    """
    name = slot.device
    if not name.startswith(("auto", "cuda")):
        return name
    import torch

    if not torch.cuda.is_available():
        return name
    sharing = slot.count()
    if name in ("auto", "cuda"):
        name, sharing = _gpu(slot), -(-sharing // torch.cuda.device_count())
    torch.cuda.set_device(name)  # where compiled kernels start
    if sharing > 1:
        total = torch.cuda.get_device_properties(name).total_memory
        torch.cuda.set_per_process_memory_fraction(max(0.01, 1 / sharing - _OVERHEAD / total), name)
    return name
