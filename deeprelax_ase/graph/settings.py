"""The :class:`GraphSettings` record: which neighbours become edges."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class GraphSettings:
    """Reach of a graph: cutoff and number of neighbours; a property of the trained model.

    Attributes:
        cutoff: Å, the radius D of section 4.2 of the paper.
        max_neighbors: nearest neighbours kept within the cutoff, atoms of the own cell counted.
        max_in_cell: nearest atoms of the own cell that carry displacements, whatever their distance; 0 for a graph that
            does not tell the own cell from the others, and so does not depend on the choice of the cell.
    """

    cutoff: float = 6.0
    max_neighbors: int = 30
    max_in_cell: int = 20

    def __post_init__(self) -> None:
        if not (math.isfinite(self.cutoff) and self.cutoff > 0):
            raise ValueError(f"cutoff must be a positive number of Å, got {self.cutoff}")
        for name, least in (("max_neighbors", 1), ("max_in_cell", 0)):
            value = getattr(self, name)
            if value != int(value) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value}")


#: The paper's graph: 6 Å, 30 nearest neighbours, 20 in-cell pairs.
DEFAULT_SETTINGS = GraphSettings()
