"""Crystals as they enter a batch: where they are, what may move of them, and what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deeprelax_ase.optimizers.batched.symmetry import HeldSymmetry
from deeprelax_ase.prediction.allowed_strain import AllowedStrain

#: Elements of a strain that a mask takes, up to which they are rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class KnownResults:
    """Energy, forces and stress of a crystal.

    Attributes:
        energy: eV.
        forces: (N, 3) eV/Å.
        stress: (3, 3) eV/Å³; NaN under a potential that has none.
    """

    energy: float
    forces: np.ndarray
    stress: np.ndarray


@dataclass(frozen=True, eq=False)
class BatchedStart:
    """A crystal to relax in a batch.

    Attributes:
        numbers: (N,) atomic numbers.
        positions: (N, 3) Å.
        cell: (3, 3) Å, repeated in all three directions.
        strain: what the cell may do; None where it is kept.
        moves: (N, 3, 3) symmetric projectors onto the directions in which each atom may move; None for all.
        known: results here, where they have been computed before.
        origin: (3, 3) Å, the cell that deformations are measured from, as it was before a jump; ``cell`` by default.
        steps_before: how many were taken before; they count among the most that it may take.
        symmetry: that it keeps, in this cell; None for none.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    strain: AllowedStrain | None = None
    moves: np.ndarray | None = None
    known: KnownResults | None = None
    origin: np.ndarray | None = None
    steps_before: int = 0
    symmetry: HeldSymmetry | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def special(self) -> set[str]:
        """Tell what few crystals have, and others need not be asked for: directions, or a kind of strain."""
        names = "hydrostatic", "constant_volume", "pressure"
        strains = set() if self.strain is None else {name for name in names if getattr(self.strain, name)}
        return strains if self.moves is None else strains | {"moves"}


def undeformed(starts: Sequence[BatchedStart]) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Positions x (N, 3) of each of G crystals and their cells (G, 3, 3) before deformations, and these' logarithms.

    The deformation is none where what the cell may do does not lead from the start's ``origin`` to here. A rotation on
    the way is part of the cell that is returned, as the logarithm is symmetric.
    """
    positions, cells = [one.positions for one in starts], np.stack([one.cell for one in starts])
    logs = np.zeros_like(cells)
    moved = [
        (k, one.origin, one.strain.matrix)
        for k, one in enumerate(starts)
        if one.strain is not None and one.origin is not None and not np.array_equal(one.origin, one.cell)
    ]
    if moved:
        places, origins, masks = (np.stack(each) for each in zip(*moved, strict=True))
        kept = 1 - masks
        left, stretches, right = np.linalg.svd(np.linalg.solve(origins, cells[places]))
        axes, rotations = right.swapaxes(1, 2), left @ right
        stretched, log = (axes * each[:, None] @ right for each in (stretches, np.log(stretches)))
        left_out = [(np.abs(one - np.eye(3)) * kept).max(axis=(1, 2)) for one in (stretched, rotations)]
        led = np.maximum(*left_out) <= _ROUNDING
        places = places[led]
        cells[places] = origins[led] @ np.where(kept[led], np.eye(3), rotations[led])  # exactly
        logs[places] = log[led]
        for k, inverse in zip(places, np.linalg.inv(stretched[led]), strict=True):
            positions[k] = positions[k] @ inverse
    return positions, cells, logs
