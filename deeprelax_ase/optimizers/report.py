"""What a relaxation says of itself: in ``atoms.info`` and in the log."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from deeprelax_ase.prediction import CONVERGED, INFO_KEYS, NOT_CONVERGED, PREDICTED, REFUSED, forget

if TYPE_CHECKING:
    from ase import Atoms

    from deeprelax_ase.optimizers.freedom import Freedom
    from deeprelax_ase.optimizers.restart import JumpRecord
    from deeprelax_ase.prediction import Prediction


def label_prediction(atoms: Atoms, prediction: Prediction) -> None:
    """Write what the prediction says of itself into ``atoms.info``, and drop what an earlier one said."""
    forget(atoms, INFO_KEYS)
    atoms.info.update(prediction.info)


def label(freedom: Freedom, jump: JumpRecord | None, *, converged: bool, at_prediction: bool) -> None:
    """Write the jump, what became of it and how things stand into ``atoms.info``."""
    info = freedom.atoms.info
    if jump is not None:
        info.update(
            deeprelax_model=jump.model,
            deeprelax_uncertainty=jump.uncertainty,
            deeprelax_jump=jump.verdict.outcome,
            deeprelax_jump_reason=jump.verdict.reason,
        )
    if converged and freedom.has_calculator:
        info["deeprelax_status"] = CONVERGED
    elif at_prediction:
        info["deeprelax_status"] = PREDICTED
    elif jump is not None and freedom.has_calculator:
        info["deeprelax_status"] = NOT_CONVERGED
    elif jump is not None:
        info["deeprelax_status"] = PREDICTED if jump.verdict.kept else REFUSED


def jump_line(jump: JumpRecord, optimizer: str, step: int) -> str:
    """What ASE's log says of the jump, in a line of its own."""
    rest = "" if jump.solver_converged else "; the geometry solver did not come to rest"
    return (
        f"{optimizer}:  {step:3d} {time.strftime('%H:%M:%S')} jump of {jump.model} {jump.verdict.outcome}: "
        f"{jump.verdict.reason}; uncertainty {jump.uncertainty:.3f} Å{rest}\n"
    )
