"""Springs between neighbouring atoms: which changes of a crystal are stiff and which are soft, without a potential."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from torch import Tensor

Ratios = TypeVar("Ratios", np.ndarray, Tensor)


@dataclass(frozen=True)
class Springs:
    """Springs between atoms at distance d whose covalent radii add up to r: ``stiffness * exp(-decay * (d / r - 1))``.

    Attributes:
        stiffness: eV/Å², of a bond as long as the covalent radii say.
        decay: how fast longer ones get softer.
        turning: share of a spring's stiffness that it has against being turned.
        floor: eV/Å², curvature that every direction has beyond that of the springs.
        cutoff: Å, the longest spring.
    """

    stiffness: float = 4.0
    decay: float = 5.0
    turning: float = 0.1
    floor: float = 2.0
    cutoff: float = 6.0

    def __post_init__(self) -> None:
        if min(self.stiffness, self.decay, self.floor, self.cutoff) <= 0 or not 0 <= self.turning <= 1:
            raise ValueError(f"{self} must have positive numbers, and a turning from 0 to 1")

    def strength(self, ratios: Ratios) -> Ratios:
        """eV/Å² of springs between atoms whose distances are ``ratios`` of what their covalent radii add up to."""
        return self.stiffness * math.e ** (self.decay * (1 - ratios))
