"""Predictions of very many structures in memory, by several processes: lazily, in order, and none lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from deeprelax_ase.errors import DeepRelaxError, StructureError
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.prediction.record import Prediction
from deeprelax_ase.screening import processes
from deeprelax_ase.screening.options import RelaxOptions

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

    from deeprelax_ase.crystal import Crystal

#: Structures that a process is given at once.
CHUNK = 64

#: Chunks that are on their way, for each process.
_AHEAD = 2

Given = Any  # Crystal | Atoms | Structure, or the error of one


def relax_many(
    structures: Iterable[Crystal | Atoms | Structure],
    options: RelaxOptions | None = None,
    *,
    workers: int | None = None,
    chunk: int = CHUNK,
) -> Iterator[Prediction | DeepRelaxError]:
    """Predictions of many structures, lazily and in order; a bad structure yields its error instead.

    As :meth:`~deeprelax_ase.Predictor.predict_many`, by several processes that have a model each: on a CPU
    one for each core, on GPUs up to eight for each, so that some look after crystals on the host while others have the
    device. A process that dies costs nothing; a crystal that kills its process yields an error. In a script, call it
    under ``if __name__ == "__main__":``, because the processes import the script.

    Args:
        structures: read as they are needed, some ahead.
        options: how to relax; ``max_uncertainty``, ``max_error`` and ``finish``, which are for tables, are not heeded.
        workers: processes; 0 does everything in this one.
        chunk: structures that a process is given at once.

    Yields:
        a :class:`~deeprelax_ase.Prediction`, or the error that ``Predictor.predict`` would raise.

    Raises:
        ModelError, DeviceError: the options cannot be met.
        WorkerError: processes die before they see a structure.
    """
    options = options or RelaxOptions()
    predictor = options.predictor()
    if workers == 0:
        return _predict(predictor, options, structures)
    del predictor  # it showed that the options can be met
    return _in_processes(iter(structures), options, workers or processes.default_workers(options.device), chunk)


def _predict(predictor: Predictor, options: RelaxOptions, structures: Iterable[Given]) -> Iterator[Any]:
    return predictor.predict_many(structures, relax_cell=options.relax_cell, atoms_per_batch=options.atoms_per_batch)


def _in_processes(
    rest: Iterator[Given], options: RelaxOptions, workers: int, chunk: int
) -> Iterator[Prediction | DeepRelaxError]:
    def make_pool(size: int = 1) -> ProcessPoolExecutor:
        return processes.pool(size, _begin, options)

    def isolate_crash(given: list[Given]) -> list[Any]:
        with make_pool() as alone:
            try:
                return alone.submit(_predict_here, given).result()
            except BrokenProcessPool:
                pass
        blamed = processes.isolate_crash(given, make_pool, _try_here, lambda one: StructureError(processes.KILLED))
        with make_pool() as alone:
            return alone.submit(_predict_here, blamed).result()

    def submit(given: list[Given]) -> Future[list[Any]] | None:
        try:
            return held.submit(_predict_here, given)
        except BrokenProcessPool:  # which shows when the chunk's turn comes
            return None

    running: deque[tuple[list[Given], Future[list[Any]] | None]] = deque()
    held = make_pool(workers)
    try:
        while True:
            while len(running) < workers * _AHEAD and (given := list(islice(rest, chunk))):
                running.append((given, submit(given)))
            if not running:
                return
            given, future = running.popleft()
            try:
                made = None if future is None else future.result()
            except BrokenProcessPool:
                made = None
            if made is None:
                processes.end(held)
                made = isolate_crash(given)
                held = make_pool(workers)
                running = deque((others, submit(others)) for others, _ in running)
            yield from made
    finally:
        processes.end(held)


# -- in the processes

_HERE: dict[str, Any] = {}


def _begin(options: RelaxOptions, turn: processes.WorkerSlot) -> None:
    try:
        options = replace(options, device=processes.settle(options.device, turn))
        _HERE.update(options=options, predictor=options.predictor())
    except Exception as error:  # told when there is work: a pool whose initializer raises only says that it broke
        _HERE["error"] = error


def _predict_here(given: Sequence[Given]) -> list[Any]:
    if "error" in _HERE:
        raise _HERE["error"]
    sound = [one for one in given if not isinstance(one, DeepRelaxError)]
    made = _predict(_HERE["predictor"], _HERE["options"], sound)
    return [one if isinstance(one, DeepRelaxError) else next(made) for one in given]


def _try_here(given: Sequence[Given]) -> None:
    _predict_here(given)
