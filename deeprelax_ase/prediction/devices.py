"""Devices by name, how many atoms suit them, and the time that work on them takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from deeprelax_ase.errors import DeviceError

#: Bytes that an end-to-end network takes on a GPU for an atom of an inorganic crystal, with its 30 edges or so.
_BYTES_PER_ATOM = 370_000

#: Atoms of a batch on a GPU, beyond which no more crystals are made in a second.
_MOST_ATOMS = 40_000


def device_of(name: str | torch.device) -> torch.device:
    """The device called ``name``, with its index; "auto" is CUDA where there is any.

    Raises:
        DeviceError: it is not to be had.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.empty(0, device=name).device  # with its index
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(
            f"device {str(name)!r} is not available: {str(error).splitlines()[0]}. Use 'auto', 'cpu', or a torch build "
            "with CUDA on a machine that has it."
        ) from error
    return device


def is_gpu(name: str) -> bool:
    """Whether the device called ``name`` is a GPU, as :func:`device_of` has it; opens none, which takes its memory.

    Raises:
        DeviceError: it is not to be had.
    """
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return name in gpus or (name in ("auto", "cuda") and bool(gpus)) or device_of(name).type == "cuda"


def default_atoms_per_batch(device: torch.device) -> int:
    """Atoms of a batch that suit ``device``, see :meth:`Predictor.predict_many`."""
    if device.type == "cpu":
        return 200
    memory = torch.cuda.get_device_properties(device).total_memory
    with suppress(AttributeError):  # before torch 2.6 it does not tell
        memory = int(memory * torch.cuda.get_per_process_memory_fraction(device))
    return min(max(memory // _BYTES_PER_ATOM // 2, 1), _MOST_ATOMS)


@contextmanager
def stopwatch(timings: dict[str, float], stage: str, *, device: torch.device) -> Iterator[None]:
    """Add the seconds that the context takes on ``device`` to those of ``stage`` in ``timings``."""
    start = time.perf_counter()
    yield
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    timings[stage] = timings.get(stage, 0.0) + time.perf_counter() - start
