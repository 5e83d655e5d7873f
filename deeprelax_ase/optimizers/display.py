"""Representations of optimizers: a line of text, and a small table in notebooks.

They tell what is known already. No calculator is called, and nothing is predicted.
"""

from __future__ import annotations

from deeprelax_ase.optimizers.acceptance import JumpDecision, known_energy_forces
from deeprelax_ase.optimizers.degrees_of_freedom import DegreesOfFreedom
from deeprelax_ase.prediction.display import crystal_label

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
