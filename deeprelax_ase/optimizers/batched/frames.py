"""A stream of frames relaxed in batches under a potential: in order, and a bad one does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import TYPE_CHECKING, Any

from deeprelax_ase.optimizers.batch import (
    Observer,
    RelaxedFrame,
    given_crystal,
    settled_frames,
    unrelaxed,
)
from deeprelax_ase.optimizers.batched.case import Finished
from deeprelax_ase.optimizers.batched.finish import finish_in_batches
from deeprelax_ase.prediction.rattle import rattled, unrattled

if TYPE_CHECKING:
    from deeprelax_ase.calculators.batched import BatchedPotential
    from deeprelax_ase.io.frame import Frame
    from deeprelax_ase.prediction.allowed_strain import RelaxCell
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
    relax_cell: RelaxCell = None,
    rattle: float = 0.0,
    seed: int = 0,
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
        relax_cell, rattle, seed, limits, only_uncertain: see :func:`~deeprelax_ase.optimizers.finish_frames`.
        observe: is told after each round how many crystals are left, and which round it was.
        **options: fmax, steps, finish, keep_symmetry, calculator_name, see
            :func:`~deeprelax_ase.optimizers.finish_in_batches`.

    Yields:
        the result of each frame, in order.
    """

    def done(waiting: list[_Waiting]) -> Iterator[RelaxedFrame]:
        starts = [
            (rattled(frame.atoms, rattle, seed), made)
            for frame, made in waiting
            if not isinstance(made, RelaxedFrame) and frame.atoms is not None
        ]
        told = None if observe is None else _rounds(observe)
        found = finish_in_batches(starts, predictor, potential, relax_cell=relax_cell, observe=told, **options)
        return _in_order(waiting, iter(found), predictor.model_name)

    waiting: list[_Waiting] = []
    atoms, most = 0, _AHEAD * potential.atoms_at_once
    how: dict[str, Any] = {"relax_cell": relax_cell, "rattle": rattle, "seed": seed}
    for frame, made in settled_frames(frames, predictor, limits, only_uncertain=only_uncertain, **how):
        waiting.append((frame, made))
        atoms += 0 if frame.atoms is None else len(frame.atoms)
        if atoms >= most:
            yield from done(waiting)
            waiting, atoms, most = [], 0, _AHEAD * potential.atoms_at_once
    yield from done(waiting)


def _rounds(observe: Observer) -> Callable[[int], object]:
    numbers = count(1)
    return lambda crystals: observe(f"{crystals} crystals", next(numbers))


def _in_order(waiting: list[_Waiting], found: Iterator[Finished], model: str) -> Iterator[RelaxedFrame]:
    for frame, made in waiting:
        if isinstance(made, RelaxedFrame):
            yield made
        elif frame.atoms is not None:  # without an error either: no source makes such a frame
            finished = next(found)
            if isinstance(finished, Exception):
                yield unrelaxed(frame, finished, model)
            else:
                result, atoms = finished
                yield RelaxedFrame(frame.label, unrattled(result, given_crystal(frame.atoms)), atoms)
