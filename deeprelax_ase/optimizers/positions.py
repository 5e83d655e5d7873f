"""The optimizer that keeps the cell."""

from __future__ import annotations

from typing import Any

from ase import Atoms
from ase.filters import Filter

from deeprelax_ase.optimizers.deeprelax import DeepRelaxOptimizer
from deeprelax_ase.prediction.allowed_strain import RelaxCell


class DeepRelaxPositions(DeepRelaxOptimizer):
    """:class:`DeepRelaxOptimizer` that keeps the cell of bare ``Atoms``, exactly.

    For libraries that pass bare ``Atoms`` and mean a fixed cell, and wrap them in a cell filter when it may move.
    """

    def __init__(self, atoms: Atoms | Filter, *args: Any, relax_cell: RelaxCell = False, **kwargs: Any) -> None:
        super().__init__(atoms, *args, relax_cell=relax_cell, **kwargs)
