"""Admission of structures to a model: whatever is given becomes a crystal that it can relax, or says why not.

Forces and stress of a calculator come with them where the model is to read these.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from deeprelax_ase.crystal import Crystal, check_elements, crystal_or_error
from deeprelax_ase.errors import DeepRelaxError
from deeprelax_ase.io.constraints import refuse_constraints
from deeprelax_ase.nn.records import KnownForces
from deeprelax_ase.prediction.allowed_strain import refuse_symmetry_of

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import ArrayLike
    from pymatgen.core import Structure


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


class Admission(NamedTuple):
    """Requirements that structures have to meet for a model.

    Attributes:
        elements: atomic numbers that it knows.
        model: its name.
        keeps_symmetry: whether constraints that break the symmetry are refused.
    """

    elements: Collection[int]
    model: str
    keeps_symmetry: bool

    def admit(self, structure: Crystal | Atoms | Structure) -> Crystal:
        """Read a ``structure``.

        Raises:
            StructureError: the model cannot relax it; the message says how to mend it.
            ConstraintError: its constraints cannot be kept exactly.
        """
        crystal = Crystal.of(structure)
        refuse_constraints(crystal.constraints)
        if self.keeps_symmetry:
            refuse_symmetry_of(crystal.constraints)
        check_elements(crystal, self.elements, self.model)
        return crystal

    def admit_or_tell(self, structure: Crystal | Atoms | Structure) -> Crystal | DeepRelaxError:
        """:meth:`admit` it, or hand out the error."""
        crystal = crystal_or_error(structure)
        try:
            return self.admit(crystal) if isinstance(crystal, Crystal) else crystal
        except DeepRelaxError as error:
            return error

    def admit_with_forces(
        self, found: tuple[Crystal | Atoms | Structure, ArrayLike, ArrayLike]
    ) -> InformedCrystal | DeepRelaxError:
        """The same of a structure with its forces in eV/Å and its stress in eV/Å³.

        Raises:
            ValueError: these are of another shape, or not finite.
        """
        crystal = self.admit_or_tell(found[0])
        return InformedCrystal.of(crystal, *found[1:]) if isinstance(crystal, Crystal) else crystal


def known_forces(informed: Sequence[InformedCrystal], device: torch.device) -> KnownForces:
    """The network's record of what is known of a batch."""
    return KnownForces(
        forces=torch.from_numpy(np.concatenate([one.forces for one in informed])).to(device),
        virial=torch.from_numpy(np.stack([one.virial for one in informed])).to(device),
        has_forces=torch.ones(len(informed), dtype=torch.bool, device=device),
    )
