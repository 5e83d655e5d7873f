"""Whether atoms have changed, which ASE asks of its calculators at each property: at once where arrays are alike."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase.calculators import calculator
from ase.cell import Cell

_compared = calculator.equal


def _equal(a: Any, b: Any, *tolerance: float, **tolerances: float) -> bool:
    """ASE's ``equal``; it allows for a tolerance where there is nothing to allow, in ten times the time."""
    one, other = (value.array if isinstance(value, Cell) else value for value in (a, b))
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray) and np.array_equal(one, other):
        return True
    return _compared(a, b, *tolerance, **tolerances)


calculator.equal = _equal
