"""Forces and stress of a calculator, as the network reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.nn.records import KnownForces

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True, eq=False)
class InformedCrystal:
    """A crystal in which a calculator has found forces and stress; as long as it has atoms.

    Attributes:
        crystal: the crystal.
        forces: (N, 3) eV/Å.
        virial: (3, 3) eV, the stress times the volume, symmetric.
    """

    crystal: Crystal
    forces: np.ndarray
    virial: np.ndarray

    @classmethod
    def of(cls, crystal: Crystal, forces: ArrayLike, stress: ArrayLike) -> InformedCrystal:
        """The record of ``forces`` and ``stress``, which is (3, 3) or ASE's (6,), in eV/Å³.

        Raises:
            ValueError: they are of another shape, or not finite.
        """
        force, tensor = np.asarray(forces, dtype=float), np.asarray(stress, dtype=float)
        if tensor.shape == (6,):
            tensor = tensor[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
        for name, values, shape in (("forces", force, (len(crystal), 3)), ("stress", tensor, (3, 3))):
            if values.shape != shape or not np.isfinite(values).all():
                raise ValueError(
                    f"{name} must be {shape} finite numbers, got an array of shape {values.shape}: {values}"
                )
        return cls(crystal, force, crystal.volume * (tensor + tensor.T) / 2)

    def __len__(self) -> int:
        return len(self.crystal)


def known_forces(informed: Sequence[InformedCrystal], device: torch.device) -> KnownForces:
    """The network's record of what is known of a batch."""
    return KnownForces(
        forces=torch.from_numpy(np.concatenate([one.forces for one in informed])).to(device),
        virial=torch.from_numpy(np.stack([one.virial for one in informed])).to(device),
        has_forces=torch.ones(len(informed), dtype=torch.bool, device=device),
    )
