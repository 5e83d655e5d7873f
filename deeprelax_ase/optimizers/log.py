"""What a relaxation says of itself: in ``atoms.info`` and in the log."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from deeprelax_ase.prediction.display import expected_errors
from deeprelax_ase.prediction.judgement import Judgement
from deeprelax_ase.prediction.status import (
    CONVERGED,
    FAILED,
    INFO_KEYS,
    JUMP_REJECTED,
    NOT_CONVERGED,
    REJECTED,
    STATUS_KEYS,
    forget,
    info_of,
)

if TYPE_CHECKING:
    from ase import Atoms

    from deeprelax_ase.optimizers.degrees_of_freedom import DegreesOfFreedom
    from deeprelax_ase.optimizers.restart import JumpRecord
    from deeprelax_ase.prediction.record import Prediction


def label_prediction(atoms: Atoms, prediction: Prediction) -> None:
    """Write what the prediction says of itself into ``atoms.info``, and drop what an earlier one said."""
    forget(atoms, INFO_KEYS)
    atoms.info.update(prediction.info)


def label(
    dof: DegreesOfFreedom, jump: JumpRecord | None, *, converged: bool, at_prediction: bool, finishes: bool
) -> None:
    """Write the jump, what became of it and how things stand into ``atoms.info``."""
    values: dict[str, Any] = {}
    if (judgement := _judgement(dof, jump, converged, at_prediction, finishes)) is not None:
        forget(dof.atoms, STATUS_KEYS)
        values |= {"status": judgement.status, "reason": judgement.reason or None}
    if jump is not None:
        values |= {"model": jump.model, "uncertainty": jump.uncertainty}
        values |= {"jump": jump.decision.outcome, "jump_reason": jump.decision.reason}
    dof.atoms.info.update(info_of(values))


def label_failure(atoms: Atoms, reason: str) -> None:
    """Write into ``atoms.info`` that the relaxation failed, and why."""
    atoms.info.update(info_of({"status": FAILED, "reason": reason}))


def _judgement(
    dof: DegreesOfFreedom, jump: JumpRecord | None, converged: bool, at_prediction: bool, finishes: bool
) -> Judgement | None:
    """How things stand; None before the jump of a start that has not converged."""
    if converged and dof.has_calculator:
        return Judgement(CONVERGED)
    if jump is None:
        return None
    if at_prediction or not dof.has_calculator:
        return jump.judgement
    if not finishes and jump.decision.outcome == REJECTED:
        return Judgement(JUMP_REJECTED, jump.decision.reason)
    return Judgement(NOT_CONVERGED)


def jump_line(jump: JumpRecord, prediction: Prediction | None, optimizer: str, step: int) -> str:
    """What ASE's log says of the jump, in a line of its own."""
    error = None if prediction is None else prediction.error
    doubt = f"uncertainty {jump.uncertainty:.3f} Å" if error is None else expected_errors(error)
    told = [jump.decision.reason, doubt]
    if jump.judgement.reason != jump.decision.reason:
        told.append(str(jump.judgement))
    return (
        f"{optimizer}:  {step:3d} {time.strftime('%H:%M:%S')} jump of {jump.model} {jump.decision.outcome}: "
        f"{'; '.join(told)}\n"
    )
