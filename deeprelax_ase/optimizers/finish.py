"""The optimizer that finishes what the jump began: any of ASE's that moves step by step."""

from __future__ import annotations

import ase.optimize
from ase.optimize.optimize import Dynamics, Optimizer


def resolve_finish(finish: str | type[Optimizer] | None) -> type[Optimizer] | None:
    """The finishing optimizer's class, from a class or the name of one in ``ase.optimize``, in any case of letters.

    Raises:
        ValueError: an unknown name, or a class that cannot be driven step by step, as those built on SciPy.
    """
    if finish is None:
        return None
    known = _steppers()
    found = known.get(finish.lower()) if isinstance(finish, str) else finish
    if not _is_stepper(found):
        names = sorted(cls.__name__ for cls in known.values())
        raise ValueError(
            f"{finish=} cannot finish the relaxation: it must be an ASE optimizer class that moves step by step, one "
            f"of {names} (as class or name), or None for the jump alone"
        )
    return found


def _steppers() -> dict[str, type[Optimizer]]:
    return {name.lower(): cls for name in ase.optimize.__all__ if _is_stepper(cls := getattr(ase.optimize, name))}


def _is_stepper(cls: object) -> bool:
    return isinstance(cls, type) and issubclass(cls, Optimizer) and cls.step is not Dynamics.step
