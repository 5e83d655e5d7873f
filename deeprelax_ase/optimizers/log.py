"""Reports of a relaxation: in ``atoms.info``, from the record of a result, in the log, and of an optimizer shown."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from deeprelax_ase.calculators.identity import calculator_name, potential_name
from deeprelax_ase.optimizers.acceptance import JumpDecision, known_energy_forces
from deeprelax_ase.optimizers.degrees_of_freedom import DegreesOfFreedom
from deeprelax_ase.prediction.display import crystal_label, expected_errors
from deeprelax_ase.prediction.result import RelaxationResult
from deeprelax_ase.prediction.status import forget

if TYPE_CHECKING:
    from ase import Atoms

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


#: Entries of ``atoms.info`` about the jump; the errors stay as long as nothing moves on from it.
_OF_THE_JUMP = (
    ("expected error, coordinates", "deeprelax_error", "{:.3f} Å"),
    ("expected error, volume", "deeprelax_volume_error", "{:.1%}"),
    ("uncertainty", "deeprelax_uncertainty", "{:.3f} Å"),
    ("model", "deeprelax_model", "{}"),
)


def optimizer_line(name: str, facts: dict[str, str]) -> str:
    """``<DeepRelaxOptimizer MgO, 2 atoms: jump kept, steps 5, ...>``, made of what :func:`optimizer_facts` tells."""
    outcome, _, _ = facts["jump"].partition(":")
    told = [f"jump {outcome}", f"steps {facts['steps']}", facts["status"]]
    told += [f"{key} {facts[key]}" for key in ("energy", "fmax") if key in facts]
    return f"<{name} {facts['crystal']}: {', '.join(told)}>"


def optimizer_facts(
    dof: DegreesOfFreedom, *, decision: JumpDecision | None, steps: int, finish: str, started: bool
) -> dict[str, str]:
    """Describe the progress of a relaxation by name; energy and largest force where the calculator holds them.

    Args:
        dof: the degrees of freedom that move.
        decision: about the jump; None before it.
        steps: taken so far.
        finish: name of the finishing optimizer, or "none".
        started: whether it has been run.
    """
    info = dof.atoms.info
    facts = {
        "crystal": crystal_label(dof.atoms.numbers),
        "jump": "not made yet" if decision is None else f"{decision.outcome}: {decision.reason}",
        "steps": str(steps),
        "finish": finish,
        "status": str(info.get("deeprelax_status", "not converged")) if started else "not run yet",
    }
    if (known := known_energy_forces(dof)) is not None:
        facts |= {"energy": f"{known.energy:.4f} eV", "fmax": f"{known.fmax:.4f} eV/Å"}
    if decision is not None:
        facts |= {name: told.format(info[key]) for name, key, told in _OF_THE_JUMP if info.get(key) is not None}
    return facts
