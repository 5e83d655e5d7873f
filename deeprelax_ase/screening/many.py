"""Predictions of very many structures in memory, by several processes: lazily, in order, and none lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from deeprelax_ase.crystal import Crystal, crystal_or_error
from deeprelax_ase.errors import BrokenStructureError, DeepRelaxError, UncertainPredictionError
from deeprelax_ase.prediction.judgement import SKIP, announce
from deeprelax_ase.prediction.parallel import map_in_processes
from deeprelax_ase.prediction.rattle import rattled_crystal
from deeprelax_ase.prediction.record import Prediction
from deeprelax_ase.prediction.result import RelaxationResult
from deeprelax_ase.screening.options import NONE, RelaxOptions

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

    from deeprelax_ase.prediction.predictor import Predictor
    from deeprelax_ase.screening.table_relaxer import TableRelaxer

#: Structures that a process is given at once.
CHUNK = 64

Given = Any  # Crystal | Atoms | Structure, or the error of one
Result = Prediction | DeepRelaxError


def relax_many(
    structures: Iterable[Crystal | Atoms | Structure],
    options: RelaxOptions | None = None,
    *,
    workers: int | None = None,
    chunk: int = CHUNK,
) -> Iterator[Prediction | DeepRelaxError | RelaxationResult]:
    """Predictions of many structures, lazily and in order; a bad structure yields its error instead.

    Under a calculator they are finished relaxations, a :class:`~deeprelax_ase.prediction.RelaxationResult` of each; in
    batches, where the calculator has a batched form.

    As :meth:`~deeprelax_ase.Predictor.predict_many`, by several processes that have a model each: on a CPU
    one for each core, on GPUs up to three for each, so that some look after crystals on the host while others have the
    device. A process that dies costs nothing; a crystal that kills its process, or cannot be sent to one, yields an
    error. In a script, call it under ``if __name__ == "__main__":``, because the processes import the script.

    Args:
        structures: read as they are needed, some ahead.
        options: how to relax. ``on_uncertain`` says what comes of an uncertain prediction: with ``"raise"`` its error
            is yielded, with ``"skip"`` its ``relaxed`` is the crystal as it was.
        workers: processes; 0 does everything in this one.
        chunk: structures that a process is given at once.

    Yields:
        a :class:`~deeprelax_ase.Prediction`, or the error that ``Predictor.predict`` would raise; under a calculator a
        :class:`~deeprelax_ase.prediction.RelaxationResult`, which tells what was wrong as well.

    Raises:
        ModelError, DeviceError, CalculatorError: the options cannot be met.
        WorkerError: processes die before they see a structure.
    """
    options = options or RelaxOptions()
    finishes = options.calculator != NONE
    make = partial(_chunk_relaxer if finishes else _chunk_predictor, options)
    work = make(options.device)  # what is wrong with the options shows here
    made: Iterator[Any]
    if workers == 0:
        made = work(structures)
    else:
        del work
        made = map_in_processes(
            make,
            structures,
            failed=lambda _, reason: RelaxationResult.unrelaxed(reason) if finishes else BrokenStructureError(reason),
            workers=workers,
            chunk=chunk,
            device=options.device,
        )
    return made if finishes else (_handed_out(number, one, options) for number, one in enumerate(made))


def _chunk_relaxer(options: RelaxOptions, device: str) -> Callable[[Iterable[Given]], Iterator[RelaxationResult]]:
    from deeprelax_ase.screening.table_relaxer import TableRelaxer  # here, as it needs pyarrow

    return partial(_finished, TableRelaxer(replace(options, device=device)))


def _finished(relaxer: TableRelaxer, structures: Iterable[Given]) -> Iterator[RelaxationResult]:
    """Relax the structures under the relaxer's calculator, so many at once."""
    source = map(crystal_or_error, structures)
    while given := list(islice(source, CHUNK)):
        made = iter(relaxer.relax([one.as_given for one in given if isinstance(one, Crystal)]))
        for one in given:
            yield next(made) if isinstance(one, Crystal) else RelaxationResult.unrelaxed(one)


def _chunk_predictor(options: RelaxOptions, device: str) -> Callable[[Iterable[Given]], Iterator[Result]]:
    predictor = replace(options, device=device).predictor()
    return partial(_predicted, predictor, options)


def _predicted(predictor: Predictor, options: RelaxOptions, structures: Iterable[Given]) -> Iterator[Result]:
    """Predict the structures, which are rattled first where that is wanted."""
    waiting: deque[Crystal | DeepRelaxError] = deque()

    def starts() -> Iterator[Given]:
        for structure in structures:
            crystal = crystal_or_error(structure)
            waiting.append(crystal)
            yield rattled_crystal(crystal, options.rattle, options.seed) if isinstance(crystal, Crystal) else structure

    of = starts() if options.rattle else structures
    how: dict[str, Any] = {"relax_cell": options.relax_cell, "atoms_per_batch": options.atoms_per_batch}
    for made in predictor.predict_many(of, **how):
        crystal = waiting.popleft() if options.rattle else None
        if not isinstance(crystal, Crystal) or isinstance(made, DeepRelaxError):
            yield made
        else:
            yield replace(made, initial=crystal, relaxed=crystal if made.unchanged else made.relaxed)


def _handed_out(number: int, made: Result, options: RelaxOptions) -> Result:
    """Apply the policy for uncertain predictions to one result, now that it is judged."""
    if isinstance(made, DeepRelaxError):
        return made
    made = replace(made, limits=options.limits())
    try:
        announce(made.judgement, options.on_uncertain, of=f"the prediction of structure {number}", error=made.error)
    except UncertainPredictionError as error:
        return error
    if made.judgement.uncertain and options.on_uncertain == SKIP:
        return replace(made, relaxed=made.initial, unchanged="its prediction is uncertain")
    return made
