"""What a relaxation says of itself: in ``atoms.info`` and in the log."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from deeprelax_ase.prediction.status import CONVERGED, INFO_KEYS, NOT_CONVERGED, PREDICTED, REFUSED, forget

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
    info = dof.atoms.info
    if jump is not None:
        info.update(
            deeprelax_model=jump.model,
            deeprelax_uncertainty=jump.uncertainty,
            deeprelax_jump=jump.decision.outcome,
            deeprelax_jump_reason=jump.decision.reason,
        )
    if converged and dof.has_calculator:
        info["deeprelax_status"] = CONVERGED
    elif at_prediction:
        info["deeprelax_status"] = PREDICTED
    elif jump is not None and dof.has_calculator:
        info["deeprelax_status"] = NOT_CONVERGED
    elif jump is not None:
        info["deeprelax_status"] = PREDICTED if jump.decision.kept else REFUSED


def jump_line(jump: JumpRecord, optimizer: str, step: int) -> str:
    """What ASE's log says of the jump, in a line of its own."""
    rest = "" if jump.solver_converged else "; the geometry solver did not come to rest"
    return (
        f"{optimizer}:  {step:3d} {time.strftime('%H:%M:%S')} jump of {jump.model} {jump.decision.outcome}: "
        f"{jump.decision.reason}; uncertainty {jump.uncertainty:.3f} Å{rest}\n"
    )
