"""Relax a stream of frames: crystals in, crystals out in the same order, and a bad one does not stop the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from deeprelax_ase.errors import DeepRelaxError
from deeprelax_ase.io.frame import Frame
from deeprelax_ase.prediction.status import CONVERGED, FAILED, INFO_KEYS, JUMP_KEYS, NOT_CONVERGED, PREDICTED, forget

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator

    from deeprelax_ase.io.sink import Sink
    from deeprelax_ase.prediction.predictor import Predictor
    from deeprelax_ase.prediction.record import Prediction


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one frame.

    Attributes:
        label: where the frame comes from, see :class:`~deeprelax_ase.io.frame.Frame`.
        status: ``"predicted"``; with a calculator ``"converged"`` or ``"not converged"``; ``"failed"``.
        atoms: the relaxed crystal; the unchanged one where relaxing failed; None where the frame cannot be read.
        uncertainty: Å, of the prediction, or None where there is none.
        volume_change: relative, V_relaxed / V_initial - 1, or None where relaxing failed.
        reason: why it failed, in one line; otherwise a remark, or empty.
        written: whether it is in the output, see :func:`write_outcome`.
    """

    label: str
    status: str
    atoms: Atoms | None
    uncertainty: float | None = None
    volume_change: float | None = None
    reason: str = ""
    written: bool = False

    @property
    def ok(self) -> bool:
        """Whether the crystal was relaxed, and with a calculator to ``fmax``."""
        return self.status in (PREDICTED, CONVERGED)


def predict_frames(frames: Iterable[Frame], predictor: Predictor, *, relax_cell: bool = True) -> Iterator[Outcome]:
    """One-shot relaxation of ``frames``, in batches.

    Args:
        frames: read as they are needed.
        predictor: does the work.
        relax_cell: if not, each cell is kept exactly.

    Yields:
        an outcome for each frame, in order.
    """
    waiting: deque[tuple[Frame, DeepRelaxError | None]] = deque()

    def structures() -> Iterator[Atoms]:
        for frame in frames:
            error = frame.error or _constraint_error(frame)
            waiting.append((frame, error))
            if error is None and frame.atoms is not None:
                yield frame.atoms

    for result in predictor.predict_many(structures(), relax_cell=relax_cell):
        while (error := waiting[0][1]) is not None:
            yield failed(waiting.popleft()[0], error, predictor.model_name)
        frame, _ = waiting.popleft()
        if isinstance(result, DeepRelaxError):
            yield failed(frame, result, predictor.model_name)
            continue
        remark = "" if result.solver_converged else "the geometry solver did not come to rest"
        relaxed = result.to_atoms(frame.atoms)
        uncertainty = float(result.uncertainty.total)
        relaxed.info["deeprelax_status"] = PREDICTED
        yield Outcome(frame.label, PREDICTED, relaxed, uncertainty, result.volume_change, remark)
    for frame, error in waiting:
        if error is not None:
            yield failed(frame, error, predictor.model_name)


def finish_frames(
    frames: Iterable[Frame],
    predictor: Predictor,
    make_calculator: Callable[[], Calculator],
    *,
    fmax: float = 0.05,
    steps: int = 500,
    finish: str = "fire",
    relax_cell: bool = True,
) -> Iterator[Outcome]:
    """Relaxation of ``frames`` that finishes each prediction under a calculator.

    Args:
        frames: read as they are needed.
        predictor: makes the jump.
        make_calculator: called once, and again after a crystal that failed, whatever state that left behind.
        fmax: eV/Å, the largest force, and cell gradient, that counts as converged.
        steps: most steps of each crystal, the jump included.
        finish: name of the optimizer that finishes.
        relax_cell: if not, each cell is kept exactly.

    Yields:
        an outcome for each frame, in order; its atoms hold energy, forces and stress as the calculator gave them.
    """
    calculator: Calculator | None = None
    for frame in frames:
        if frame.atoms is None:
            yield failed(frame, frame.error, predictor.model_name)
            continue
        calculator = make_calculator() if calculator is None else calculator
        try:
            outcome = finish_atoms(
                frame.atoms,
                predictor,
                calculator,
                label=frame.label,
                fmax=fmax,
                steps=steps,
                finish=finish,
                relax_cell=relax_cell,
            )
        except DeepRelaxError as error:
            outcome = failed(frame, error, predictor.model_name)
        except Exception as error:  # whatever calculators raise
            outcome = failed(frame, f"{type(error).__name__}: {error}", predictor.model_name)
            calculator = None
        yield outcome


def failed(frame: Frame, reason: object, model: str) -> Outcome:
    """The outcome of a frame that cannot be relaxed: its atoms as they were, with the reason in their ``info``."""
    text = " ".join(str(reason).split())
    if frame.atoms is not None:
        _label(frame.atoms, model, f"{FAILED}: {text}", None)
    return Outcome(frame.label, FAILED, frame.atoms, reason=text)


def finish_atoms(
    initial: Atoms,
    predictor: Predictor,
    calculator: Calculator,
    *,
    label: str = "",
    prediction: Prediction | None = None,
    fmax: float = 0.05,
    steps: int = 500,
    finish: str = "fire",
    relax_cell: bool = True,
) -> Outcome:
    """Relaxation of one crystal that finishes its prediction under a calculator.

    Args:
        initial: the unrelaxed crystal; it is not changed.
        predictor: makes the jump.
        calculator: what the finish is made under.
        label: where the crystal comes from.
        prediction: of ``initial``, where ``predictor`` has made it before; nothing is predicted again then.
        fmax: see :func:`finish_frames`, as of ``steps``, ``finish`` and ``relax_cell``.

    Raises:
        DeepRelaxError: the crystal cannot be relaxed; or whatever the calculator raises.
    """
    from deeprelax_ase.optimizers import DeepRelaxOptimizer

    atoms = initial.copy()
    atoms.calc = calculator
    options: dict[str, Any] = {"prediction": prediction, "relax_cell": relax_cell, "finish": finish}
    with DeepRelaxOptimizer(atoms, logfile=None, predictor=predictor, **options) as optimizer:
        converged = optimizer.run(fmax=fmax, steps=steps)
    status = CONVERGED if converged else NOT_CONVERGED
    prediction = optimizer.prediction  # that of the jump; None where the start was converged already
    uncertainty = None if prediction is None else float(prediction.uncertainty.total)
    decided = {key: atoms.info[key] for key in JUMP_KEYS if optimizer.decision is not None}
    _label(atoms, predictor.model_name, status, uncertainty)
    atoms.info.update(decided)
    _keep_results(atoms, calculator)
    volume_change = atoms.cell.volume / initial.cell.volume - 1
    return Outcome(label, status, atoms, uncertainty, volume_change, f"{optimizer.nsteps} steps")


def _keep_results(atoms: Atoms, calculator: Calculator) -> None:
    """Give ``atoms`` their results to keep: the calculator goes on to the next crystal."""
    from ase.calculators.calculator import all_properties
    from ase.calculators.singlepoint import SinglePointCalculator

    results = {} if calculator.calculation_required(atoms, ["energy"]) else calculator.results
    kept = {name: value for name, value in results.items() if name in all_properties}
    atoms.calc = SinglePointCalculator(atoms, **kept)


def _label(atoms: Atoms, model: str, status: str, uncertainty: float | None) -> None:
    forget(atoms, INFO_KEYS)  # of an earlier run
    atoms.info.update(deeprelax_model=model, deeprelax_status=status)
    if uncertainty is not None:
        atoms.info["deeprelax_uncertainty"] = uncertainty


def write_outcome(writer: Sink, outcome: Outcome) -> Outcome:
    """Write the crystal of ``outcome``, if there is one.

    Returns:
        the outcome with ``written`` set, or turned into a failure where the format cannot hold the crystal.

    Raises:
        OSError: nothing more can be written: no space, no permission.
    """
    if outcome.atoms is None:
        return outcome
    try:
        writer.write(outcome.atoms)
    except OSError:
        raise
    except Exception as error:  # whatever ASE's formats raise
        reason = f"cannot be written in this format ({type(error).__name__}: {error})"
        earlier = f"{outcome.reason}; " if outcome.status == FAILED else ""
        return replace(outcome, status=FAILED, reason=" ".join(f"{earlier}{reason}".split()))
    return replace(outcome, written=True)


def _constraint_error(frame: Frame) -> DeepRelaxError | None:
    """Why a frame cannot be predicted in a batch; None where it can."""
    from deeprelax_ase.errors import ConstraintError

    if frame.atoms is None or not frame.atoms.constraints:
        return None
    names = ", ".join(sorted({type(constraint).__name__ for constraint in frame.atoms.constraints}))
    return ConstraintError(
        f"the atoms carry constraints ({names}), and predictions in batches move every atom. Finish under a "
        "--calculator, or call DeepRelaxOptimizer(atoms).run(): both keep them. Or remove them with "
        "atoms.set_constraint()."
    )
