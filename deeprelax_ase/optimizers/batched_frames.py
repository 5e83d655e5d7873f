"""A stream of frames relaxed in batches under a potential: in order, and a bad one does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import TYPE_CHECKING, Any

from deeprelax_ase.errors import ConstraintError, DeepRelaxError
from deeprelax_ase.optimizers.batch import Observer, RelaxedFrame, as_predicted, predicted_frames, unrelaxed
from deeprelax_ase.optimizers.batched_finish import finish_in_batches
from deeprelax_ase.prediction.judgement import judge

if TYPE_CHECKING:
    from deeprelax_ase.calculators.batched import BatchedPotential
    from deeprelax_ase.io.frame import Frame
    from deeprelax_ase.prediction.judgement import TrustLimits
    from deeprelax_ase.prediction.predictor import Predictor
    from deeprelax_ase.prediction.record import Prediction

#: How often as many atoms as the potential takes at once are read ahead, so that others enter as crystals leave.
_AHEAD = 4

#: A frame, and what became of it already, or its prediction; None where there is none yet.
_Waiting = tuple["Frame", "RelaxedFrame | Prediction | None"]


def finish_frames_in_batches(
    frames: Iterable[Frame],
    predictor: Predictor,
    potential: BatchedPotential,
    *,
    relax_cell: Any = None,
    limits: TrustLimits | None = None,
    only_uncertain: bool = False,
    observe: Observer | None = None,
    **options: Any,
) -> Iterator[RelaxedFrame]:
    """Relaxation of ``frames``, as by :func:`~deeprelax_ase.optimizers.finish_frames`, many at once.

    Args:
        frames: read as they are needed, some ahead.
        predictor: makes the jumps.
        potential: one of :func:`~deeprelax_ase.calculators.get_batched`.
        relax_cell: see :func:`~deeprelax_ase.optimizers.finish_frames`, as of ``limits`` and ``only_uncertain``.
        limits: see there.
        only_uncertain: see there.
        observe: is told after each round how many crystals are at work, and which round it was.
        **options: fmax, steps, finish, calculator_name, see :func:`~deeprelax_ase.optimizers.finish_in_batches`.

    Yields:
        the result of each frame, in order.
    """
    predicted: Iterable[tuple[Frame, Prediction | DeepRelaxError | None]] = ((frame, frame.error) for frame in frames)
    if only_uncertain:
        predicted = predicted_frames(frames, predictor, relax_cell=relax_cell)

    def done(waiting: list[_Waiting]) -> Iterator[RelaxedFrame]:
        return _finished(waiting, predictor, potential, observe, relax_cell=relax_cell, **options)

    waiting: list[_Waiting] = []
    atoms = 0
    for frame, made in predicted:
        waiting.append((frame, _settled(frame, made, predictor.model_name, limits)))
        atoms += 0 if frame.atoms is None else len(frame.atoms)
        if atoms >= _AHEAD * potential.atoms_at_once:
            yield from done(waiting)
            waiting, atoms = [], 0
    yield from done(waiting)


def _settled(
    frame: Frame, made: Prediction | DeepRelaxError | None, model: str, limits: TrustLimits | None
) -> RelaxedFrame | Prediction | None:
    """The result of a frame that is not to be finished; for others the prediction, if there is one."""
    if isinstance(made, ConstraintError):
        return None  # the jump under the potential honours them
    if isinstance(made, DeepRelaxError):
        return unrelaxed(frame, made, model)
    if made is not None and not (judgement := judge(made, limits)).uncertain:
        return as_predicted(frame, made, judgement)
    return made


def _finished(
    waiting: list[_Waiting],
    predictor: Predictor,
    potential: BatchedPotential,
    observe: Observer | None,
    **options: Any,
) -> Iterator[RelaxedFrame]:
    rounds = count(1)
    told: Callable[[int], object] | None = None
    if observe is not None:
        told = lambda crystals: observe(f"{crystals} crystals", next(rounds))  # noqa: E731
    finishing = [
        (frame.atoms, made) for frame, made in waiting if not isinstance(made, RelaxedFrame) and frame.atoms is not None
    ]
    results = iter(finish_in_batches(finishing, predictor, potential, observe=told, **options))
    for frame, made in waiting:
        if isinstance(made, RelaxedFrame):
            yield made
        elif frame.atoms is not None:  # without an error either: no source makes such a frame
            result = next(results)
            if isinstance(result, Exception):
                yield unrelaxed(frame, result, predictor.model_name)
            else:
                yield RelaxedFrame(frame.label, *result)
