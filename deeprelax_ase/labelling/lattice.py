"""Crystals in the making, and what is cut of them: supercells, slabs, and the layers of layered crystals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deeprelax_ase.crystal import Crystal

#: Repetition of layers and slabs, whose third lattice vector leads out of their plane.
IN_PLANE = (True, True, False)


class Lattice(NamedTuple):
    """A crystal in the making.

    Attributes:
        numbers: (N,) atomic numbers.
        fractional: (N, 3) fractional coordinates.
        cell: (3, 3) Å, lattice vectors in rows.
        pbc: directions in which it repeats.
    """

    numbers: NDArray[np.integer]
    fractional: NDArray[np.float64]
    cell: NDArray[np.float64]
    pbc: tuple[bool, ...] = (True, True, True)

    @classmethod
    def of(cls, crystal: Crystal) -> Lattice:
        """The crystal, as it is to be changed."""
        return cls(crystal.numbers, crystal.fractional_positions, crystal.cell, tuple(crystal.pbc.tolist()))

    def made(self) -> Crystal:
        """The crystal, once it is made; unchecked."""
        return Crystal(self.numbers, self.fractional @ self.cell, self.cell, self.pbc)

    @property
    def is_bulk(self) -> bool:
        """Whether it repeats in all directions."""
        return all(self.pbc)


def repeated(start: Lattice, times: Sequence[int]) -> Lattice:
    """``start`` repeated along its three lattice vectors."""
    shifts = np.stack(np.meshgrid(*map(np.arange, times), indexing="ij"), axis=-1).reshape(-1, 1, 3)
    fractional = ((start.fractional + shifts) / np.array(times)).reshape(-1, 3)
    numbers, cell = np.tile(start.numbers, len(shifts)), start.cell * np.array(times)[:, None]
    return Lattice(numbers, fractional, cell, start.pbc)


def supercell(rng: np.random.Generator, start: Lattice, atoms: int) -> Lattice:
    """A supercell of at most about ``atoms``, as even as chance lets it be."""
    times = np.ones(3, int)
    lengths = np.linalg.norm(start.cell, axis=1)
    while len(start.numbers) * times.prod() * 2 <= atoms:
        times[np.argmin(lengths * times + rng.uniform(0, 1.5, 3))] += 1
    return repeated(start, times.tolist())


def slab(rng: np.random.Generator, start: Lattice, atoms: int, vacuum: float) -> Lattice:
    """A slab of about ``atoms`` along two lattice vectors of a crystal, cut at any height, with ``vacuum`` (Å) above.

    Its normal is z, where filters of ASE's can keep its plane.
    """
    turn = rng.integers(3)
    cell, fractional = np.roll(start.cell, turn, axis=0), np.roll(start.fractional, turn, axis=1)
    fractional = (fractional - [0, 0, rng.random()]) % 1.0
    thick = repeated(Lattice(start.numbers, fractional, cell), (1, 1, max(1, atoms // len(start.numbers))))
    return with_vacuum(thick.numbers, thick.fractional @ thick.cell, cell, vacuum)


def layers_of(crystal: Crystal, vacuum: float) -> list[Lattice]:
    """The layers that a layered crystal is made of, each alone with ``vacuum`` (Å) above; none of any other crystal.

    ASE tells layers by bonds, at the distance that tells most clearly what is bonded (Larsen, Pandey, Strange and
    Jacobsen, Phys. Rev. Materials 3, 034003 (2019)).
    """
    from ase.geometry import minkowski_reduce
    from ase.geometry.dimensionality import isolate_components

    try:
        components = isolate_components(crystal.to_atoms())
    except TypeError:  # ASE's where no atom is near another, as in neon
        return []
    found: list[Lattice] = []
    for atoms in components.get("2D", []):
        cell, _ = minkowski_reduce(atoms.cell.array, pbc=IN_PLANE)
        found.append(with_vacuum(atoms.numbers, atoms.positions, cell, vacuum))
    return found


def with_vacuum(
    numbers: NDArray[np.integer], positions: NDArray[np.float64], cell: NDArray[np.float64], vacuum: float
) -> Lattice:
    """Atoms at ``positions`` (N, 3) that repeat by the first two vectors of ``cell``, with ``vacuum`` (Å) above.

    They are turned so that their plane is that of x and y, and lie in the middle of the height.
    """
    from ase.cell import Cell

    normal = np.cross(cell[0], cell[1])
    normal = normal / np.linalg.norm(normal)
    heights = positions @ normal
    box = np.array([cell[0], cell[1], normal * (np.ptp(heights) + vacuum)])
    middle = positions + (np.linalg.norm(box[2]) / 2 - (heights.max() + heights.min()) / 2) * normal
    fractional = middle @ np.linalg.inv(box)
    fractional[:, :2] %= 1.0
    return Lattice(numbers, fractional, Cell(box).standard_form()[0].array, IN_PLANE)
