"""A count of a calculator's computations."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from ase import Atoms
from ase.calculators.calculator import Calculator

from deeprelax_ase.errors import note_force_calls

#: Methods by which calculators that are not of ASE's class, such as GPAW's, are asked.
_QUESTIONS = ("get_potential_energy", "get_forces", "get_stress", "get_property")


class CallCounter:
    """Counts the geometries that a calculator computes while it is entered; answers from its cache are none.

    An error that ends this tells the count, see :func:`~deeprelax_ase.errors.force_calls_of`. Energy and forces of one
    geometry count once, also where a code computes them one after the other.

    >>> with CallCounter(calculator) as counter:
    ...     relax(atoms)
    >>> counter.calls

    Attributes:
        calls: how many so far; None where the calculator is none of ASE's kinds.

    Args:
        calculator: stays what it is, so that its class can be asked for.
    """

    def __init__(self, calculator: Any) -> None:
        self._calculator = calculator
        names = ("calculate",) if isinstance(calculator, Calculator) else _QUESTIONS
        self._counted = tuple(name for name in names if hasattr(calculator, name))
        self._own: dict[str, Any] = {}
        self._last: list[bytes] = []
        self.calls: int | None = 0 if self._counted else None

    def __enter__(self) -> CallCounter:
        for name in self._counted:
            if name in vars(self._calculator):
                self._own[name] = vars(self._calculator)[name]
            setattr(self._calculator, name, self._counting(getattr(self._calculator, name)))
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for name in self._counted:
            vars(self._calculator).pop(name, None)
        if self._own:
            vars(self._calculator).update(self._own)
        if isinstance(error, Exception) and self.calls:
            note_force_calls(error, self.calls)

    def _counting(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any, **options: Any) -> Any:
            for atoms in (*args, *options.values()):
                if isinstance(atoms, Atoms):
                    self._count(atoms)
            return method(*args, **options)

        return counting

    def _count(self, atoms: Atoms) -> None:
        here = [array.tobytes() for array in (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)]
        if here != self._last:
            self._last = here
            self.calls = (self.calls or 0) + 1
