"""Division of a machine among worker processes: cores, GPUs, and the memory of a GPU that several of them share."""

from __future__ import annotations

import os
from dataclasses import dataclass

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
        workers: how many there are.
        device: ``cpu``, ``cuda``, ``cuda:1`` or ``auto``, for all of them; empty where they need none, nor torch.
    """

    number: int
    workers: int
    device: str


def default_workers(device: str) -> int:
    """Processes that make good use of this machine: one for each core, and on GPUs at most three for each."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not device.startswith(("auto", "cuda")):
        return cores
    import torch

    if device == "auto" and not torch.cuda.is_available():
        return cores
    gpus = 1 if device.startswith("cuda:") else torch.cuda.device_count()
    return max(1, min(cores, _PER_GPU * gpus))


def claim_device(slot: WorkerSlot) -> str:
    """Set up this process for its ``slot``, before it computes anything; the device that it is to use.

    Each of several processes computes in one thread, and compiles in one, which for small crystals makes more of the
    cores than threads do.
    """
    if slot.workers > 1 and slot.device:
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
        import torch

        torch.set_num_threads(1)
    return share_device(slot)


def open_gpu(slot: WorkerSlot) -> None:
    """Open the GPU of a ``slot``, if it has one, which takes as long as importing this package: do it meanwhile."""
    if slot.device.startswith(("auto", "cuda")):
        import torch

        if torch.cuda.is_available():
            torch.empty(1, device=_gpu(slot))


def _gpu(slot: WorkerSlot) -> str:
    """Name of the GPU of a ``slot``: they are given out in turn where the pool's device leaves open which."""
    import torch

    return f"cuda:{slot.number % torch.cuda.device_count()}" if slot.device in ("auto", "cuda") else slot.device


def share_device(slot: WorkerSlot) -> str:
    """The device of a process.

    Processes that share a GPU may use equal parts of its memory. Torch refuses more to a process, which then tries
    smaller batches; otherwise the libraries of all would fail.
    """
    name, sharing = slot.device, slot.workers
    if not name.startswith(("auto", "cuda")):
        return name
    import torch

    if not torch.cuda.is_available():
        return name
    if name in ("auto", "cuda"):
        name, sharing = _gpu(slot), -(-slot.workers // torch.cuda.device_count())
    torch.cuda.set_device(name)  # where compiled kernels start
    if sharing > 1:
        total = torch.cuda.get_device_properties(name).total_memory
        torch.cuda.set_per_process_memory_fraction(max(0.01, 1 / sharing - _OVERHEAD / total), name)
    return name
