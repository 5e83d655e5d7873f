"""Relax a stream of frames: crystals in, crystals out in the same order, and a bad one does not stop the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from deeprelax_ase.crystal import crystal_as_it_is
from deeprelax_ase.errors import CalculatorError, DeepRelaxError, OutputError, is_of_disk
from deeprelax_ase.io.frame import Frame, stem_of
from deeprelax_ase.optimizers.limits import check_fmax
from deeprelax_ase.optimizers.one_crystal import finish_atoms, given_crystal
from deeprelax_ase.prediction.allowed_strain import RelaxCell, without_pressure
from deeprelax_ase.prediction.judgement import (
    KEEP,
    SKIP,
    WITHOUT_CALCULATOR,
    Judgement,
    TrustLimits,
    announce,
    check_on_uncertain,
    judge,
)
from deeprelax_ase.prediction.rattle import rattled, unrattled
from deeprelax_ase.prediction.result import RelaxationResult
from deeprelax_ase.prediction.status import FAILED, REFUSED, UNRELAXED, forget

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator

    from deeprelax_ase.io.sink import Sink
    from deeprelax_ase.optimizers.restart import RestartFolder
    from deeprelax_ase.prediction.predictor import Predictor
    from deeprelax_ase.prediction.record import Prediction

#: Receives the label and the step of a crystal that a calculator finishes.
Observer = Callable[[str, int], None]


class RelaxedFrame(NamedTuple):
    """One frame, and what became of it.

    Attributes:
        label: origin of the frame, see :class:`~deeprelax_ase.io.frame.Frame`.
        result: of its relaxation.
        atoms: what there is to write: the relaxed crystal, with the calculator's results if one finished; the unchanged
            one where relaxing failed; None where the frame cannot be read, or not be written.
    """

    label: str
    result: RelaxationResult
    atoms: Atoms | None


def predict_frames(
    frames: Iterable[Frame],
    predictor: Predictor,
    *,
    relax_cell: RelaxCell = None,
    rattle: float = 0.0,
    seed: int = 0,
    limits: TrustLimits | None = None,
    on_uncertain: str = KEEP,
) -> Iterator[RelaxedFrame]:
    """One-shot relaxation of ``frames``, in batches.

    Args:
        frames: read as they are needed.
        predictor: does the work.
        relax_cell: see :meth:`~deeprelax_ase.Predictor.predict`.
        rattle: Å, by which starts are displaced at random, see :func:`~deeprelax_ase.prediction.rattle.rattled`.
        seed: of that.
        limits: a prediction beyond them is uncertain.
        on_uncertain: treatment of an uncertain one, all of :data:`~deeprelax_ase.prediction.judgement.ON_UNCERTAIN`
            but ``"finish"``.

    Yields:
        the result of each frame, in order.

    Raises:
        ValueError: another word.
        UncertainPredictionError: that is what is wanted.
    """
    check_on_uncertain(on_uncertain, allowed=WITHOUT_CALCULATOR)
    for frame, made in predicted_frames(frames, predictor, relax_cell=relax_cell, rattle=rattle, seed=seed):
        if isinstance(made, DeepRelaxError):
            yield unrelaxed(frame, made, predictor.model_name)
        else:
            judgement = judge(made, limits)
            announce(judgement, on_uncertain, of=frame.label, error=made.error)
            yield as_predicted(frame, made, judgement, skip=on_uncertain == SKIP)


def finish_frames(
    frames: Iterable[Frame],
    predictor: Predictor,
    make_calculator: Callable[[], Calculator],
    *,
    fmax: float = 0.05,
    steps: int = 500,
    finish: str | None = "fire",
    relax_cell: RelaxCell = None,
    keep_symmetry: bool = False,
    rattle: float = 0.0,
    seed: int = 0,
    restart: RestartFolder | None = None,
    limits: TrustLimits | None = None,
    only_uncertain: bool = False,
    calculator_name: str | None = None,
    observe: Observer | None = None,
) -> Iterator[RelaxedFrame]:
    """Relaxation of ``frames`` that finishes each prediction under a calculator.

    Args:
        frames: read as they are needed.
        predictor: makes the jump.
        make_calculator: called once, and again after a crystal that failed, whatever state that left behind.
        fmax: see :func:`~deeprelax_ase.optimizers.finish_atoms`, as of ``steps``, ``finish``, ``relax_cell``,
            ``keep_symmetry`` and ``restart``.
        rattle: see :func:`predict_frames`, as of ``seed``.
        limits: a prediction beyond them is uncertain.
        only_uncertain: finish the predictions that are uncertain, and hand out the others as they are.
        calculator_name: see :func:`~deeprelax_ase.optimizers.finish_atoms`.
        observe: is told after each step.

    Yields:
        the result of each frame, in order.

    Raises:
        OSError: the disk is full or read-only, that of ``restart`` or of the calculator.
    """
    options: dict[str, Any] = {"fmax": check_fmax(fmax), "steps": steps, "finish": finish, "relax_cell": relax_cell}
    options |= {"calculator_name": calculator_name, "keep_symmetry": keep_symmetry, "restart": restart}
    calculator: Calculator | None = None
    how: dict[str, Any] = {"relax_cell": relax_cell, "rattle": rattle, "seed": seed}
    for frame, made in settled_frames(frames, predictor, limits, only_uncertain=only_uncertain, **how):
        if isinstance(made, RelaxedFrame):
            yield made
            continue
        if frame.atoms is None:  # without an error either: no source makes such a frame
            continue
        calculator = make_calculator() if calculator is None else calculator
        try:
            told = None if observe is None else partial(observe, frame.label)
            start = rattled(frame.atoms, rattle, seed)
            result, atoms = finish_atoms(start, predictor, calculator, prediction=made, observe=told, **options)
            yield RelaxedFrame(frame.label, unrattled(result, given_crystal(frame.atoms)), atoms)
        except (Exception, SystemExit) as error:  # whatever calculators raise: some scripts leave so
            if is_of_disk(error):
                raise OSError(error.errno, f"{error.strerror}, while {frame.label} was finished") from error
            if isinstance(error, SystemExit):
                error = CalculatorError(f"the calculator would end the process: {error!r}")
            yield unrelaxed(frame, error, predictor.model_name)
            if isinstance(error, CalculatorError) or not isinstance(error, DeepRelaxError):
                calculator = None  # in whatever state it is


def write_frame(sink: Sink, frame: RelaxedFrame) -> RelaxedFrame:
    """Write the crystal of ``frame``, if there is one.

    Returns:
        the frame; where the format cannot hold the crystal, a failure without atoms. A crystal that was refused stays
        refused, whether it can be written or not.

    Raises:
        OSError: nothing more can be written: no space, no permission.
        OutputError: something else lies there by now.
    """
    if frame.atoms is None:
        return frame
    try:
        sink.write(frame.atoms, stem_of(frame.label))
    except (OSError, OutputError):
        raise
    except Exception as error:  # whatever ASE's formats raise
        given = frame.result
        if given.status in UNRELAXED:  # its own fault tells more than what a format makes of it
            reason = f"{(given.reason or '').rstrip('.')}; the format of the output cannot hold it"
        else:
            earlier = "" if given.ok or not given.reason else f"{given.reason}; "
            reason = f"{earlier}cannot be written in this format ({type(error).__name__}: {error})"
        status = REFUSED if given.status == REFUSED else FAILED
        lost = RelaxationResult.unrelaxed(reason, given.initial, model=given.model, status=status)
        return RelaxedFrame(frame.label, lost, None)
    return frame


def predicted_frames(
    frames: Iterable[Frame], predictor: Predictor, *, relax_cell: RelaxCell, rattle: float, seed: int
) -> Iterator[tuple[Frame, Prediction | DeepRelaxError]]:
    """Predict ``frames`` in batches; yields each, in order, and its prediction or why there is none."""
    waiting: deque[Frame] = deque()

    def structures() -> Iterator[Atoms]:
        for frame in frames:
            waiting.append(frame)
            if frame.error is None and frame.atoms is not None:
                yield rattled(frame.atoms, rattle, seed) if rattle else frame.atoms

    for made in predictor.predict_many(structures(), relax_cell=without_pressure(relax_cell)):
        while (error := waiting[0].error) is not None:
            yield waiting.popleft(), error
        yield waiting.popleft(), made
    for frame in waiting:
        if frame.error is not None:
            yield frame, frame.error


def settled_frames(
    frames: Iterable[Frame], predictor: Predictor, limits: TrustLimits | None, *, only_uncertain: bool, **how: Any
) -> Iterator[tuple[Frame, RelaxedFrame | Prediction | None]]:
    """Yield each frame and its result, where nothing is to finish it; or else its prediction, if there is one.

    Predicted here is where the finish is for uncertain ones alone, see :func:`predicted_frames` for ``how``.
    """
    predicted: Iterable[tuple[Frame, Prediction | DeepRelaxError | None]] = ((frame, frame.error) for frame in frames)
    if only_uncertain:
        predicted = predicted_frames(frames, predictor, **how)
    for frame, made in predicted:
        if isinstance(made, DeepRelaxError):
            yield frame, unrelaxed(frame, made, predictor.model_name)
        elif made is not None and not (judgement := judge(made, limits)).uncertain:
            yield frame, as_predicted(frame, made, judgement)
        else:
            yield frame, made


def as_predicted(frame: Frame, prediction: Prediction, judgement: Judgement, *, skip: bool = False) -> RelaxedFrame:
    """Make the result of a frame that nothing finishes; ``skip`` leaves one as it was that is uncertain."""
    result = RelaxationResult.of(prediction, judgement, skip=skip)
    if frame.atoms is not None:
        result = unrattled(result, given_crystal(frame.atoms))
    return RelaxedFrame(frame.label, result, result.to_atoms(frame.atoms))


def unrelaxed(frame: Frame, error: Exception, model: str, *, force_calls: int | None = None) -> RelaxedFrame:
    """Make the result of a frame that cannot be relaxed: its atoms as they were, with the reason in their ``info``.

    The ``force_calls`` of a calculator are those that the ``error`` tells of, where none are given.
    """
    crystal = None if frame.atoms is None else crystal_as_it_is(frame.atoms)
    result = RelaxationResult.unrelaxed(error, crystal, model=model, force_calls=force_calls)
    if frame.atoms is not None:
        forget(frame.atoms)  # of an earlier run
        frame.atoms.info.update(result.info)
    return RelaxedFrame(frame.label, result, frame.atoms)
