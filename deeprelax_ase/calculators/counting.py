"""How often a calculator computes."""

from __future__ import annotations

from types import TracebackType
from typing import Any


class CallCounter:
    """Counts the calls of a calculator's ``calculate`` while it is entered; answers from its cache are none.

    >>> with CallCounter(calculator) as counter:
    ...     relax(atoms)
    >>> counter.calls

    Attributes:
        calls: how many so far; None where the calculator has no ``calculate``.

    Args:
        calculator: stays what it is, so that its class can be asked for.
    """

    def __init__(self, calculator: Any) -> None:
        self._calculator = calculator
        self.calls: int | None = 0 if hasattr(calculator, "calculate") else None

    def __enter__(self) -> CallCounter:
        if self.calls is not None:
            self._own = vars(self._calculator).get("calculate")
            self._calculate = self._calculator.calculate
            self._calculator.calculate = self._counted
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.calls is None:
            return
        if self._own is None:
            del self._calculator.calculate
        else:
            self._calculator.calculate = self._own

    def _counted(self, *args: Any, **options: Any) -> Any:
        assert self.calls is not None
        self.calls += 1
        return self._calculate(*args, **options)
