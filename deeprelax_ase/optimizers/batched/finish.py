"""Many crystals relaxed together under a potential in batches: jumps judged, then finished, as each would be alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

from deeprelax_ase.calculators.batched_ase import PotentialCalculator
from deeprelax_ase.calculators.identity import potential_name
from deeprelax_ase.errors import CalculatorError
from deeprelax_ase.optimizers.batched.case import Case, Finished, prepared
from deeprelax_ase.optimizers.batched.jump import BatchedJumps
from deeprelax_ase.optimizers.batched.relaxation import IN_BATCHES, relax_in_batches
from deeprelax_ase.optimizers.finish import resolve_finish
from deeprelax_ase.optimizers.frames import (
    Observer,
    RelaxedFrame,
    settled_frames,
    unrelaxed,
)
from deeprelax_ase.optimizers.limits import check_fmax
from deeprelax_ase.optimizers.one_crystal import given_crystal
from deeprelax_ase.prediction.rattle import rattled, unrattled
from deeprelax_ase.progress import told_count

if TYPE_CHECKING:
    from ase import Atoms

    from deeprelax_ase.calculators.batched import BatchedPotential
    from deeprelax_ase.io.frame import Frame
    from deeprelax_ase.prediction.allowed_strain import RelaxCell
    from deeprelax_ase.prediction.judgement import TrustLimits
    from deeprelax_ase.prediction.predictor import Predictor
    from deeprelax_ase.prediction.record import Prediction


def finish_in_batches(
    given: Sequence[tuple[Atoms, Prediction | None]],
    predictor: Predictor,
    potential: BatchedPotential,
    *,
    fmax: float = 0.05,
    steps: int = 500,
    finish: str | None = "fire",
    relax_cell: Any = None,
    keep_symmetry: bool = False,
    calculator_name: str | None = None,
    observe: Callable[[int], object] | None = None,
) -> list[Finished]:
    """Relax crystals as :func:`~deeprelax_ase.optimizers.finish_atoms` does with each, but all together.

    Energies and forces of all starts are computed, then those of all jumps, which are judged one by one, and those of
    force-informed steps where :class:`~deeprelax_ase.DeepRelaxOptimizer` would make them; then all go on side by side.
    Crystals with other constraints than ``FixAtoms``, ``FixCartesian``, ``FixedLine`` and ``FixedPlane``, or
    ``FixSymmetry`` alone, are relaxed one by one (:func:`~deeprelax_ase.io.constraints.are_kept_in_batches`), as all
    are by another finish than ``"fire"`` and ``"fast"``.

    Args:
        given: unrelaxed crystals, which are not changed, and their predictions by ``predictor``, where it made them.
        predictor: makes the others, and those in cells that constraints allow.
        potential: one of :func:`~deeprelax_ase.calculators.get_batched`.
        fmax, steps, finish, relax_cell, keep_symmetry, calculator_name: see
            :func:`~deeprelax_ase.optimizers.finish_atoms`.
        observe: is told after each round of the finish how many crystals are left.

    Returns:
        of each crystal, in order, its result and the relaxed atoms, or the error that it alone would raise.
    """
    options: dict[str, Any] = {"fmax": check_fmax(fmax), "steps": steps, "finish": finish, "relax_cell": relax_cell}
    options["keep_symmetry"] = keep_symmetry
    options["calculator_name"] = calculator_name or potential.name
    cases = prepared(given, predictor, potential, relax_cell, keep_symmetry=keep_symmetry)
    together = finish is None or finish.lower() in IN_BATCHES
    alone = [case for case in cases if case.goes_on and not (together and case.goes_in_batches())]
    for case in alone:
        case.finish_alone(predictor, potential, options)
    options["potential"] = potential_name(PotentialCalculator(potential))
    name = None if finish is None else resolve_finish(finish).__name__
    jumps = BatchedJumps(predictor, potential, fmax=fmax, steps=steps, finish=name)
    started = [case for case in cases if case.goes_on]
    jumps.evaluate_starts(started)
    if steps > 0:
        jumps.predict(case for case in started if not case.converged)
        jumps.jump(case for case in started if case.goes_on and not case.converged)
        jumps.jump_informed(case for case in started if case.goes_on and not case.converged)
    for case in started:
        if case.start_error and case.error is None:
            case.error = CalculatorError(case.start_error)
    if finish is not None and steps > 0:
        for case in _finish([c for c in started if c.goes_on and not c.converged], potential, options, observe):
            case.made = case.told(predictor.model_name, options)  # here, where a GPU is busy with the others
    return [case.made or case.told(predictor.model_name, options) for case in cases]


def pays_in_batches(potential: BatchedPotential, finish: str | None) -> bool:
    """Whether many crystals relaxed together under ``potential`` take less time than one by one, by this ``finish``."""
    return not potential.one_by_one and (finish is None or finish.lower() in (*IN_BATCHES, "none"))


def _finish(
    cases: list[Case],
    potential: BatchedPotential,
    options: dict[str, Any],
    observe: Callable[[int], object] | None,
) -> Iterator[Case]:
    """Relax all ``cases`` side by side from where they are, and give each as it is done."""
    if not cases:
        return
    ends = relax_in_batches(
        [case.begin() for case in cases],
        potential,
        optimizer=options["finish"],
        fmax=options["fmax"],
        steps=options["steps"],
        observe=observe,
    )
    for place, end in ends:
        case = cases[place]
        case.calls, case.steps, case.converged = case.calls + end.calls, case.steps + end.steps, end.converged
        case.place(end.positions, end.cell)
        if end.results is None:
            case.error = CalculatorError(f"{end.error}, after step {case.steps}{case.dof.told_pressure}")
        else:
            case.known = end.results
        yield case


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
    return lambda crystals: observe(told_count(crystals, "crystal"), next(numbers))


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
