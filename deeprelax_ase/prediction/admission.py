"""Admission of structures to a model: whatever is given becomes a crystal that it can relax, or says why not."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

from deeprelax_ase.crystal import Crystal, check_elements, crystal_or_error
from deeprelax_ase.errors import DeepRelaxError
from deeprelax_ase.io.constraints import refuse_constraints
from deeprelax_ase.prediction.allowed_strain import refuse_symmetry_of
from deeprelax_ase.prediction.forces import InformedCrystal

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import ArrayLike
    from pymatgen.core import Structure


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
