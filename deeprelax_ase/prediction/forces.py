"""Forces and stress of a calculator, as the network reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.nn.records import KnownForces

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def known_forces(crystal: Crystal, forces: ArrayLike, stress: ArrayLike, device: torch.device) -> KnownForces:
    """The network's record of them.

    Raises:
        ValueError: they are of another shape, or not finite.
    """
    force, tensor = np.asarray(forces, dtype=float), np.asarray(stress, dtype=float)
    if tensor.shape == (6,):
        tensor = tensor[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
    for name, values, shape in (("forces", force, (len(crystal), 3)), ("stress", tensor, (3, 3))):
        if values.shape != shape or not np.isfinite(values).all():
            raise ValueError(f"{name} must be {shape} finite numbers, got an array of shape {values.shape}: {values}")
    virial = crystal.volume * (tensor + tensor.T) / 2
    return KnownForces(
        forces=torch.from_numpy(force).to(device),
        virial=torch.from_numpy(virial)[None].to(device),
        has_forces=torch.ones(1, dtype=torch.bool, device=device),
    )
