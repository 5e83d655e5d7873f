"""The optimizer that finishes what the jump began: any of ASE's that moves step by step, or the package's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ase.optimize
import ase.optimize.precon
from ase import Atoms
from ase.filters import Filter, FrechetCellFilter
from ase.optimize.optimize import Dynamics, Optimizer

from deeprelax_ase.optimizers.degrees_of_freedom import DegreesOfFreedom
from deeprelax_ase.optimizers.model_hessian import ModelHessianBFGS
from deeprelax_ase.optimizers.restart import FinishMemory

#: The word for the finish that takes the fewest force calls from a good start.
FAST = "fast"


class Finish:
    """A finishing optimizer that is driven step by step.

    Args:
        finish: class, or name, of the optimizer.
        options: its own options, such as ``{"maxstep": 0.1}``.
        dof: the degrees of freedom that it may move.
        remember: called with what the optimizer would put into a restart file of its own, after each step.

    Raises:
        ValueError: an unknown name, or a class that cannot finish a relaxation like this one.
    """

    def __init__(
        self,
        finish: str | type[Optimizer],
        options: dict[str, Any],
        dof: DegreesOfFreedom,
        remember: Callable[[FinishMemory], None],
    ) -> None:
        self.optimizer_class = resolve_finish(finish)
        self._options, self._dof, self._remember = options, dof, remember
        self._optimizer: Optimizer | None = None

    @property
    def name(self) -> str:
        """Name of the optimizer's class."""
        return self.optimizer_class.__name__

    def prepare(self, memory: FinishMemory | None) -> Optimizer | None:
        """Make the optimizer, and return it, unless it is made; it goes on from a ``memory`` that is its own.

        Raises:
            ValueError, TypeError: the options, or what there is to move, are not for this optimizer.
        """
        if self._optimizer is not None:
            return None
        try:
            optimizer = self.optimizer_class(self._target(), logfile=None, **self._options)  # type: ignore[arg-type]
        except (AssertionError, AttributeError) as error:  # how CellAwareBFGS refuses
            if not issubclass(self.optimizer_class, ase.optimize.CellAwareBFGS):
                raise
            raise ValueError(
                f"{self.name} cannot move {type(self._dof.target).__name__}. CellAwareBFGS needs bare Atoms "
                "with relax_cell=True, or FrechetCellFilter(atoms, exp_cell_factor=1.0)"
            ) from error
        if memory is not None and memory.fits(self.name, self._dof.orig_cell):
            optimizer.load = lambda: memory.content  # type: ignore[method-assign]
            optimizer.read()
            del optimizer.load  # no lambda can be pickled
        optimizer.dump = self._dump  # type: ignore[method-assign]
        self._optimizer = optimizer
        return optimizer

    def step(self, fmax: float | None) -> None:
        """One step, of a relaxation to ``fmax`` in eV/Å."""
        self.prepare(None)
        if self._optimizer is not None:
            self._optimizer.fmax = fmax  # type: ignore[assignment]
            self._optimizer.step()

    def forget(self) -> None:
        """Begin anew at the next step, without what was learnt so far."""
        self._optimizer = None

    def _target(self) -> Atoms | Filter:
        own = self._dof.target if self._dof.own_filter else None
        if isinstance(own, FrechetCellFilter) and issubclass(self.optimizer_class, ase.optimize.CellAwareBFGS):
            return FrechetCellFilter(self._dof.atoms, mask=own.mask, exp_cell_factor=1.0)
        return self._dof.target

    def _dump(self, content: Any = None) -> None:
        """Keep the restart data of the optimizer, as one file holds all. GPMin, for one, hands out nothing."""
        if content is not None:
            self._remember(FinishMemory(self.name, self._dof.orig_cell, content))


def resolve_finish(finish: str | type[Optimizer]) -> type[Optimizer]:
    """The finishing optimizer's class, from a class or a name, in any case of letters.

    Names are those in ``ase.optimize`` and ``ase.optimize.precon``, and ``"fast"`` for
    :class:`~deeprelax_ase.optimizers.model_hessian.ModelHessianBFGS`.

    Raises:
        ValueError: an unknown name, or a class that cannot be driven step by step, as those built on SciPy.
    """
    known = _steppers()
    found = known.get(finish.lower()) if isinstance(finish, str) else finish
    if found is None or not _is_stepper(found):
        names = [FAST, *sorted({cls.__name__ for cls in known.values()})]
        raise ValueError(
            f"{finish=} cannot finish the relaxation: it must be an ASE optimizer class that moves step by step, one "
            f"of {names} (as class or name), or None for the jump alone"
        )
    return found


def _steppers() -> dict[str, type[Optimizer]]:
    found = {
        name.lower(): cls
        for module in (ase.optimize, ase.optimize.precon)
        for name in module.__all__
        if _is_stepper(cls := getattr(module, name))
    }
    return {**found, FAST: ModelHessianBFGS, ModelHessianBFGS.__name__.lower(): ModelHessianBFGS}


def _is_stepper(cls: object) -> bool:
    return isinstance(cls, type) and issubclass(cls, Optimizer) and cls.step is not Dynamics.step
