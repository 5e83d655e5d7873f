"""Plain crystals as columns: thousands of them, without an object for each until somebody asks for one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import overload

import numpy as np

from deeprelax_ase.crystal import LONGEST, SINGULAR_CELL_RATIO, Crystal


class CrystalColumns(Sequence[Crystal]):
    """G crystals that repeat in all directions, without constraints, that :func:`plain` finds nothing wrong with.

    A sequence of the :class:`~deeprelax_ase.crystal.Crystal` of each, which is made anew when it is asked for.

    Args:
        numbers: (N,) atomic numbers.
        positions: (N, 3) Å.
        cells: (G, 3, 3) Å.
        counts: (G,) atoms of each.
    """

    def __init__(self, numbers: np.ndarray, positions: np.ndarray, cells: np.ndarray, counts: np.ndarray) -> None:
        self.numbers = np.asarray(numbers, dtype=np.int64)
        self.positions = np.asarray(positions, dtype=np.float64).reshape(-1, 3)
        self.cells = np.asarray(cells, dtype=np.float64).reshape(-1, 3, 3)
        self.counts = np.asarray(counts, dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.counts)])

    def __len__(self) -> int:
        return len(self.counts)

    @overload
    def __getitem__(self, index: int) -> Crystal: ...
    @overload
    def __getitem__(self, index: slice) -> CrystalColumns: ...
    def __getitem__(self, index: int | slice) -> Crystal | CrystalColumns:
        if isinstance(index, slice):
            first, end, step = index.indices(len(self))
            if step != 1:
                raise ValueError("columns of crystals are cut into consecutive parts alone")
            end = max(first, end)
            atoms = slice(self.starts[first], self.starts[end])
            return CrystalColumns(
                self.numbers[atoms], self.positions[atoms], self.cells[first:end], self.counts[first:end]
            )
        place = range(len(self))[index]
        atoms = slice(self.starts[place], self.starts[place + 1])
        return Crystal.of(Crystal(self.numbers[atoms], self.positions[atoms], self.cells[place]))

    def parts(self, atoms: int) -> list[CrystalColumns]:
        """Consecutive parts of at most so many ``atoms``; a larger crystal is one alone."""
        cuts = [0]
        while cuts[-1] < len(self):
            end = int(np.searchsorted(self.starts, self.starts[cuts[-1]] + atoms, side="right")) - 1
            cuts.append(max(end, cuts[-1] + 1))
        return [self[first:end] for first, end in pairwise(cuts)]


def plain(
    numbers: np.ndarray, positions: np.ndarray, cells: np.ndarray, counts: np.ndarray, known: Sequence[int]
) -> np.ndarray:
    """(G,) bool, which crystals surely pass :func:`~deeprelax_ase.crystal.validate` and hold ``known`` elements alone.

    Others may pass too: whoever needs to know makes a Crystal of them, which says what is wrong.

    Args:
        numbers, positions, cells, counts: see :class:`CrystalColumns`.
        known: atomic numbers.
    """
    named = np.zeros(256, dtype=bool)
    named[[z for z in known if 1 <= z <= 118]] = True
    fine = named[np.clip(numbers, 0, 255)] & (np.abs(positions) <= LONGEST).all(axis=1)  # no NaN is
    owner = np.repeat(np.arange(len(counts)), counts)
    sound = (counts > 0) & (np.bincount(owner[~fine], minlength=len(counts)) == 0)
    lengths = np.sqrt(np.square(cells).sum(axis=2))
    with np.errstate(invalid="ignore", over="ignore"):
        solid = volumes(cells) > SINGULAR_CELL_RATIO * lengths.prod(axis=1)
    return sound & solid & (np.abs(cells) <= LONGEST).all(axis=(1, 2))


def volumes(cells: np.ndarray) -> np.ndarray:
    """(G,) Å³, of ``cells`` (G, 3, 3), to the last bit as :attr:`Crystal.volume` has them."""
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = cells.transpose(1, 2, 0)
    return np.abs(ax * (by * cz - bz * cy) + ay * (bz * cx - bx * cz) + az * (bx * cy - by * cx))
