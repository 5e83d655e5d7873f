"""Similarity of elements: their order by Mendeleev numbers, and draws of one in place of another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Of each element, hydrogen to curium, its place in Pettifor's order of chemical likeness: D. G. Pettifor, J. Phys. C
#: 19, 285 (1986), with hydrogen at the end of it, as pymatgen has them; curium follows americium.
# fmt: off
MENDELEEV = (
    103, 1, 12, 77, 86, 95, 100, 101, 102, 2, 11, 73, 80, 85, 90, 94, 99, 3, 10, 16, 19, 51, 54, 57, 60, 61, 64, 67,
    72, 76, 81, 84, 89, 93, 98, 4, 9, 15, 25, 49, 53, 56, 59, 62, 65, 69, 71, 75, 79, 83, 88, 92, 97, 5, 8, 14, 33, 32,
    31, 30, 29, 28, 18, 27, 26, 24, 23, 22, 21, 17, 20, 50, 52, 55, 58, 63, 66, 68, 70, 74, 78, 82, 87, 91, 96, 6, 7,
    13, 48, 47, 46, 45, 44, 43,
)
# fmt: on

#: Atomic numbers of elements that are taken as anions where cations and anions are kept apart.
ANIONS = (7, 8, 9, 15, 16, 17, 33, 34, 35, 51, 52, 53)

#: Places in the order over which likeness falls by e: of near elements, and of the few that may be far.
_NEAR, _FAR, _SHARE_FAR = 3.5, 15.0, 0.1

#: Factor of the likeness by which an element itself is drawn.
_ITSELF = 0.12


def is_anion(numbers: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Whether elements are anions, of any shape."""
    return np.isin(numbers, ANIONS)


class Substitutes:
    """Draws of alike elements among those allowed.

    Args:
        allowed: atomic numbers that may be drawn.
        ionic: anions give way to anions alone, cations to cations.

    Raises:
        ValueError: none is allowed, or one is beyond plutonium.
    """

    def __init__(self, allowed: NDArray[np.integer], *, ionic: bool = False) -> None:
        if not len(allowed) or not 1 <= min(allowed) <= max(allowed) <= len(MENDELEEV):
            raise ValueError(f"elements from 1 to {len(MENDELEEV)} are needed, got {sorted(set(map(int, allowed)))}")
        places = np.array([0, *MENDELEEV])
        apart = np.abs(places[:, None] - places)
        weights = np.exp(-apart / _NEAR) + _SHARE_FAR * np.exp(-apart / _FAR)
        weights[np.diag_indices(len(places))] *= _ITSELF
        possible = np.isin(np.arange(len(places)), allowed)
        if ionic:
            anion = is_anion(np.arange(len(places)))
            possible = possible & (anion[:, None] == anion)
        weights = np.where(possible, weights, 0)
        total = weights.sum(axis=1, keepdims=True)
        self._cumulative = np.cumsum(weights / np.where(total > 0, total, 1), axis=1)

    def draw(self, rng: np.random.Generator, elements: NDArray[np.integer]) -> NDArray[np.integer]:
        """An alike element for each of ``elements``, of any shape; the element itself where none is allowed."""
        table = self._cumulative[elements]
        drawn = (table < rng.random(elements.shape)[..., None]).sum(axis=-1)
        return np.where(drawn < table.shape[-1], drawn, elements)
