"""What a relaxation says of itself: in ``atoms.info`` and in the log."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from deeprelax_ase.prediction.status import (
    CONVERGED,
    FAILED,
    INFO_KEYS,
    NOT_CONVERGED,
    PREDICTED,
    REFUSED,
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


def label(dof: DegreesOfFreedom, jump: JumpRecord | None, *, converged: bool, at_prediction: bool) -> None:
    """Write the jump, what became of it and how things stand into ``atoms.info``."""
    values: dict[str, Any] = {"status": _status(dof, jump, converged, at_prediction)}
    if jump is not None:
        values |= {"model": jump.model, "uncertainty": jump.uncertainty}
        values |= {"jump": jump.decision.outcome, "jump_reason": jump.decision.reason}
    dof.atoms.info.update(info_of(values))


def label_failure(atoms: Atoms, reason: str) -> None:
    """Write into ``atoms.info`` that the relaxation failed, and why."""
    atoms.info.update(info_of({"status": f"{FAILED}: {reason}"}))


def _status(dof: DegreesOfFreedom, jump: JumpRecord | None, converged: bool, at_prediction: bool) -> str | None:
    if converged and dof.has_calculator:
        return CONVERGED
    if at_prediction:
        return PREDICTED
    if jump is None:
        return None
    if dof.has_calculator:
        return NOT_CONVERGED
    return PREDICTED if jump.decision.kept else REFUSED


def jump_line(jump: JumpRecord, optimizer: str, step: int) -> str:
    """What ASE's log says of the jump, in a line of its own."""
    rest = "" if jump.solver_converged else "; the geometry solver did not come to rest"
    return (
        f"{optimizer}:  {step:3d} {time.strftime('%H:%M:%S')} jump of {jump.model} {jump.decision.outcome}: "
        f"{jump.decision.reason}; uncertainty {jump.uncertainty:.3f} Å{rest}\n"
    )
