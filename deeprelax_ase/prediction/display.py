"""How predictions and optimizers show themselves: in a line, and as a small table in notebooks.

They tell what is known already. No calculator is called, and nothing is predicted.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from deeprelax_ase.optimizers.deeprelax import DeepRelaxOptimizer
    from deeprelax_ase.optimizers.degrees_of_freedom import DegreesOfFreedom
    from deeprelax_ase.prediction.record import Prediction

_CELL = "text-align: left; padding: 0.1em 0.8em"


def html_table(title: str, facts: Mapping[str, str]) -> str:
    """A table of two columns; names and values are text, not markup."""
    rows = "".join(
        f'<tr><th scope="row" style="{_CELL}">{escape(name)}</th><td style="{_CELL}">{escape(value)}</td></tr>'
        for name, value in facts.items()
    )
    return f'<table><caption style="{_CELL}">{escape(title)}</caption><tbody>{rows}</tbody></table>'


def prediction_line(prediction: Prediction) -> str:
    """``<Prediction MgO, 2 atoms: volume -3.5 %, ...>``."""
    facts = prediction_facts(prediction)
    told = [f"volume {facts['volume']}", f"largest displacement {facts['largest displacement']}"]
    if prediction.within_error:
        told = ["left as it is"]
    if prediction.error is not None:
        told.append(f"error {prediction.error.coordinates:.3f} Å expected")
        told += ["outside of what the model knows"] if prediction.error.ood else []
    told.append(f"uncertainty {facts['uncertainty']}")
    return f"<Prediction {facts['crystal']}: {', '.join(told)}; {facts['model']}>"


def prediction_facts(prediction: Prediction) -> dict[str, str]:
    """What there is to know of a prediction, by name."""
    lengths = np.linalg.norm(prediction.displacements, axis=1)
    facts = {
        "crystal": _crystal(prediction.initial.numbers),
        "volume": f"{prediction.initial.volume:.2f} → {prediction.relaxed.volume:.2f} Å³ "
        f"({100 * prediction.volume_change:+.1f} %)",
        "largest displacement": f"{lengths.max():.3f} Å",
        "mean displacement": f"{lengths.mean():.3f} Å",
    }
    if (error := prediction.error) is not None:
        facts["expected error, coordinates"] = (
            f"{error.coordinates:.3f} Å; below {error.coordinates_bound:.3f} Å in 9 of 10"
        )
        facts["expected error, volume"] = (
            f"{100 * error.volume:.1f} %; below {100 * error.volume_bound:.1f} % in 9 of 10"
        )
        facts["like what the model knows"] = "no: do not rely on these errors" if error.ood else "yes"
    facts["uncertainty"] = f"{prediction.uncertainty.total:.3f} Å"
    facts["within_error"] = "yes: left as it is" if prediction.within_error else "no"
    facts["model"] = prediction.model
    return facts


def optimizer_line(optimizer: DeepRelaxOptimizer, dof: DegreesOfFreedom) -> str:
    """``<DeepRelaxOptimizer MgO, 2 atoms: jump kept, steps 5, converged, ...>``."""
    facts = optimizer_facts(optimizer, dof)
    jump = "not made yet" if optimizer.decision is None else optimizer.decision.outcome
    told = [f"jump {jump}", f"steps {facts['steps']}", facts["status"]]
    told += [f"{name} {facts[name]}" for name in ("energy", "fmax") if name in facts]
    return f"<{type(optimizer).__name__} {facts['crystal']}: {', '.join(told)}>"


def optimizer_facts(optimizer: DeepRelaxOptimizer, dof: DegreesOfFreedom) -> dict[str, str]:
    """How far a relaxation is, by name; energy and largest force where the calculator holds them."""
    from deeprelax_ase.optimizers.acceptance import known_energy_forces

    atoms, decision = dof.atoms, optimizer.decision
    run = optimizer.fmax is not None
    facts = {
        "crystal": _crystal(atoms.numbers),
        "jump": "not made yet" if decision is None else f"{decision.outcome}: {decision.reason}",
        "steps": str(optimizer.nsteps),
        "finish": "none" if optimizer.finish is None else optimizer.finish.name,
        "status": str(atoms.info.get("deeprelax_status", "not converged")) if run else "not run yet",
    }
    if (look := known_energy_forces(dof)) is not None:
        facts |= {"energy": f"{look.energy:.4f} eV", "fmax": f"{look.fmax:.4f} eV/Å"}
    for name, key, unit in (("uncertainty", "deeprelax_uncertainty", " Å"), ("model", "deeprelax_model", "")):
        if decision is not None and (value := atoms.info.get(key)) is not None:
            facts[name] = (f"{value:.3f}" if isinstance(value, float) else str(value)) + unit
    return facts


def _crystal(numbers: np.ndarray) -> str:
    from ase.symbols import Symbols

    return f"{Symbols(numbers).formula.format('metal')}, {len(numbers)} atom{'s' if len(numbers) > 1 else ''}"
