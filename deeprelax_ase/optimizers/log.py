"""Reports of a relaxation: in ``atoms.info``, from the record of a result, and in the log."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from deeprelax_ase.calculators.identity import potential_name
from deeprelax_ase.calculators.names import calculator_name
from deeprelax_ase.prediction.display import expected_errors
from deeprelax_ase.prediction.result import RelaxationResult
from deeprelax_ase.prediction.status import forget

if TYPE_CHECKING:
    from ase import Atoms

    from deeprelax_ase.optimizers.degrees_of_freedom import DegreesOfFreedom
    from deeprelax_ase.optimizers.jump import Jump
    from deeprelax_ase.optimizers.restart import JumpRecord


def label(dof: DegreesOfFreedom, jump: Jump, *, converged: bool, finishes: bool) -> None:
    """Write what there is to tell into ``atoms.info``, in the place of what was told before.

    Nothing is written before the jump of a start that has not converged.
    """
    record, converged = jump.record, converged and dof.has_calculator
    if record is None and not converged:
        return
    known: dict[str, Any] = {}
    if dof.has_calculator:
        known = {"calculator": calculator_name(dof.atoms.calc), "potential": potential_name(dof.atoms.calc)}
    if record is not None:
        known |= {"judgement": record.judgement, "decision": record.decision}
        known |= {"model": record.model, "uncertainty": record.uncertainty}
    result = RelaxationResult.finished(
        converged=converged,
        at_prediction=jump.at_prediction or not dof.has_calculator,
        alone=not finishes,
        prediction=jump.prediction,
        **known,
    )
    forget(dof.atoms)
    dof.atoms.info.update(result.info)


def label_failure(atoms: Atoms, reason: str) -> None:
    """Write into ``atoms.info`` that the relaxation failed, and why."""
    atoms.info.update(RelaxationResult.unrelaxed(reason).info)


def jump_line(record: JumpRecord, jump: Jump, optimizer: str, step: int) -> str:
    """Return the line about the jump for ASE's log."""
    error = None if jump.prediction is None else jump.prediction.error
    doubt = f"uncertainty {record.uncertainty:.3f} Å" if error is None else expected_errors(error)
    told = [record.decision.reason, doubt]
    if record.judgement.reason != record.decision.reason:
        told.append(str(record.judgement))
    if (note := jump.level_note) is not None:
        told.append(note)
    return (
        f"{optimizer}:  {step:3d} {time.strftime('%H:%M:%S')} jump of {record.model} {record.decision.outcome}: "
        f"{'; '.join(told)}\n"
    )
