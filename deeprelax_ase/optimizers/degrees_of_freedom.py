"""Degrees of freedom, read from bare ``Atoms`` or an ASE filter; refused where the jump cannot honour them exactly."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.filters import Filter, StrainFilter, UnitCellFilter

from deeprelax_ase.crystal import plane_normal
from deeprelax_ase.errors import CalculatorError, ConstraintError
from deeprelax_ase.optimizers.checked_atoms import CheckedAtoms
from deeprelax_ase.optimizers.filters import RememberingCellFilter
from deeprelax_ase.optimizers.slab import layer_of

#: Constraints that are linear projections of a displacement, which ASE applies to any step, the jump among them.
HONOURED = ("FixAtoms", "FixCartesian", "FixCom", "FixScaled", "FixSymmetry", "FixedLine", "FixedPlane")

_WAY_OUT = "or relax with a plain ASE optimizer, such as FIRE, which honours it."

#: A slab's normal counts as a Cartesian axis within this sine.
_ALIGNED = 1e-6


@dataclass(frozen=True, eq=False)
class AllowedStrain:
    """Strain that a cell may undergo, in the terms of ASE's filters.

    Attributes:
        mask: (3, 3), 1 for components of the strain that may change, 0 for those that are kept.
        hydrostatic: only in all directions alike.
        constant_volume: without a change of the volume.
        pressure: eV/Å³, external; the relaxed crystal is that of least enthalpy.
        plane: (3, 3) projector onto the plane of a layer that no ``mask`` can say, as it lies along no Cartesian axes,
            or its cell has no volume: for a jump alone, as ASE's filters take none. None for all others.
    """

    mask: np.ndarray = field(default_factory=lambda: np.ones((3, 3)))
    hydrostatic: bool = False
    constant_volume: bool = False
    pressure: float = 0.0
    plane: np.ndarray | None = None

    @classmethod
    def in_plane(cls, normal: np.ndarray, cell: np.ndarray) -> AllowedStrain:
        """Allow strain in the plane of a layer with this ``normal`` (3,) in a ``cell`` (3, 3)."""
        axis = int(np.abs(normal).argmax())
        if not _lies_along_axes(normal) or np.linalg.det(cell) == 0:
            return cls(plane=np.eye(3) - np.outer(normal, normal))
        mask = np.ones((3, 3))
        mask[axis], mask[:, axis] = 0, 0
        return cls(mask)

    @property
    def free(self) -> bool:
        """Whether every strain is allowed."""
        return bool(self.mask.all()) and not self.hydrostatic and not self.constant_volume and self.plane is None


@dataclass(frozen=True, eq=False)
class DegreesOfFreedom:
    """The degrees of freedom of a relaxation.

    Attributes:
        checked: the caller's atoms.
        target: of the finishing optimizer: ``atoms`` themselves or a filter around them.
        cell: how the cell may change; None where it is kept, and never written to.
        visible: (N,) bool, the atoms that may move beyond being carried along by the cell.
        own_filter: whether ``target`` is a filter made here, not the caller's.
        normal: (3,) unit vector out of the plane of atoms that repeat in two directions only, and of bare atoms whose
            cell moves in the plane of a layer; None for all others.
    """

    checked: CheckedAtoms
    target: Atoms | Filter
    cell: AllowedStrain | None
    visible: np.ndarray
    own_filter: bool = False
    normal: np.ndarray | None = None

    @property
    def atoms(self) -> Atoms:
        """The caller's atoms."""
        return self.checked.atoms

    @property
    def moves_cell(self) -> bool:
        """Whether the cell is relaxed."""
        return self.cell is not None

    @property
    def free(self) -> bool:
        """Whether nothing restricts the motion, but that the cell may be kept."""
        return (self.cell is None or self.cell.free) and bool(self.visible.all()) and not self.atoms.constraints

    @property
    def pressure(self) -> float:
        """eV/Å³, external."""
        return 0.0 if self.cell is None else self.cell.pressure

    @property
    def has_calculator(self) -> bool:
        """Whether forces can be had. Results read from a file do not count: they are those of one geometry only."""
        return not (self.atoms.calc is None or isinstance(self.atoms.calc, SinglePointCalculator))

    @property
    def orig_cell(self) -> np.ndarray | None:
        """(3, 3) Å, the cell that a cell filter measures its deformation from; None where the cell is kept."""
        return np.array(self.target.orig_cell) if isinstance(self.target, UnitCellFilter) else None

    def restore_orig_cell(self, orig_cell: np.ndarray | None) -> None:
        """Measure the deformation from ``orig_cell`` (3, 3) in Å again, as ASE's BFGS has it done after a restart.

        A filter of the caller's that measures it from elsewhere than the cell that the atoms have now is left alone.
        """
        if orig_cell is None or not isinstance(self.target, UnitCellFilter):
            return
        if self.own_filter or np.allclose(self.target.orig_cell, self.atoms.cell.array, rtol=0, atol=1e-9):
            self.target.orig_cell = orig_cell


def degrees_of_freedom(atoms: Atoms | Filter, *, relax_cell: bool | None) -> DegreesOfFreedom:
    """The degrees of freedom that ``atoms`` stand for.

    Bare ``Atoms`` move as ``relax_cell`` says; None keeps the cell of slabs and moves all others. Layers and slabs are
    strained in their plane only. A filter says for itself: ``FrechetCellFilter``, ``UnitCellFilter`` and
    ``ExpCellFilter`` move positions and cell, within ``mask``, ``hydrostatic_strain``, ``constant_volume``;
    ``StrainFilter`` the cell alone, and a plain ``Filter`` the positions of the atoms that it shows.

    Raises:
        ConstraintError: the filter or a constraint is of a kind that the jump cannot honour.
    """
    if isinstance(atoms, Atoms):
        refuse_constraints(atoms)
        everything = np.ones(len(atoms), dtype=bool)
        checked = CheckedAtoms(atoms)
        layer = None if relax_cell is False else layer_of(checked)
        if relax_cell is False or (relax_cell is None and layer is not None and layer.thick):
            return DegreesOfFreedom(checked, atoms, None, everything, normal=plane_normal(atoms.pbc, atoms.cell.array))
        normal = None if layer is None else layer.normal
        cell = AllowedStrain() if normal is None else AllowedStrain.in_plane(normal, atoms.cell.array)
        own = RememberingCellFilter(atoms, mask=None if cell.mask.all() else cell.mask)
        return DegreesOfFreedom(checked, own, cell, everything, own_filter=True, normal=normal)
    dof = _dof_of_filter(atoms)
    refuse_constraints(dof.atoms)
    return dof


def refuse_constraints(atoms: Atoms) -> None:
    """Refuse atoms that carry constraints that the jump cannot honour.

    Raises:
        ConstraintError: names the constraints.
    """
    names = {type(c).__name__ for c in atoms.constraints if not _is_honoured(c)}
    if names:
        raise ConstraintError(
            f"the atoms carry constraints ({', '.join(sorted(names))}) that a jump cannot keep exactly; it keeps "
            f"{', '.join(HONOURED)}. Remove the others with atoms.set_constraint() if they may be dropped, {_WAY_OUT}"
        )


def refuse_missing_stress(dof: DegreesOfFreedom) -> None:
    """Refuse to relax the cell of bare atoms under a calculator that has no stress.

    Raises:
        CalculatorError: says how to relax without it.
    """
    calculator = dof.atoms.calc
    if dof.own_filter and "stress" not in getattr(calculator, "implemented_properties", ["stress"]):
        raise CalculatorError(
            f"{type(calculator).__name__} gives no stress, so the cell cannot be relaxed under it. Keep the cell with "
            "relax_cell=False, or leave the calculator out for the jump alone."
        )


def refuse_tilted_layers(dof: DegreesOfFreedom) -> None:
    """Refuse to strain a layer under a calculator whose plane ASE's filters cannot keep to.

    Raises:
        ConstraintError: says how to turn it, or what to give it.
    """
    if dof.cell is None or dof.cell.plane is None or dof.normal is None or not dof.has_calculator:
        return
    if not _lies_along_axes(dof.normal):
        raise ConstraintError(
            f"the atoms are a layer whose normal {np.round(dof.normal, 3).tolist()} is no Cartesian axis, and ASE's "
            "filters strain along these. Turn the slab (atoms.rotate(normal, 'z', rotate_cell=True)), keep the cell "
            "with relax_cell=False, or leave the calculator out for the jump alone."
        )
    raise ConstraintError(
        "the cell has no vector out of the plane, so that it has no volume and no stress. Give it one with "
        f"atoms.center(vacuum=10, axis={int(np.flatnonzero(~dof.atoms.pbc)[0])}), keep it with relax_cell=False, or "
        "leave the calculator out for the jump alone."
    )


def refuse_pressure_alone(dof: DegreesOfFreedom) -> None:
    """Refuse pressure without a calculator, whose finish would look after it: the model knows none.

    Raises:
        ConstraintError: says what to do.
    """
    if dof.pressure and not dof.has_calculator:
        raise ConstraintError(
            f"scalar_pressure is {dof.pressure:g} eV/Å^3, and the model predicts the crystal without pressure. "
            "Attach a calculator, whose finish applies it, or leave the pressure out."
        )


def _is_honoured(constraint: object) -> bool:
    cls = type(constraint)
    return cls.__module__.startswith("ase.") and cls.__name__ in HONOURED


def _lies_along_axes(normal: np.ndarray) -> bool:
    return bool(1 - np.abs(normal).max() <= _ALIGNED**2)


def _dof_of_filter(target: object) -> DegreesOfFreedom:
    if not (isinstance(target, Filter) and type(target).__module__.startswith("ase.")):
        raise _refusal(target, "it is neither Atoms nor one of ASE's filters")
    atoms = target.atoms
    if not isinstance(atoms, Atoms):
        raise _refusal(target, "it filters something else than Atoms")
    checked, everything = CheckedAtoms(atoms), np.ones(len(atoms), dtype=bool)
    normal = plane_normal(atoms.pbc, atoms.cell.array)
    if isinstance(target, UnitCellFilter):
        cell = AllowedStrain(
            _whole_mask(target),
            bool(target.hydrostatic_strain),
            bool(target.constant_volume),
            float(target.scalar_pressure),
        )
        if cell.constant_volume and not _is_group(cell.mask):
            raise _refusal(target, "constant_volume is on, and its mask frees shears but not all that they lead to")
        return DegreesOfFreedom(checked, target, cell, everything, normal=normal)
    if isinstance(target, StrainFilter):
        return DegreesOfFreedom(checked, target, AllowedStrain(_whole_mask(target)), ~everything, normal=normal)
    visible = ~everything
    visible[target.index] = True
    return DegreesOfFreedom(checked, target, None, visible, normal=normal)


def _whole_mask(target: UnitCellFilter | StrainFilter) -> np.ndarray:
    """(3, 3) mask of zeros and ones."""
    mask = np.asarray(target.mask, dtype=float)
    if mask.shape == (6,):
        mask = mask[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
    if not np.isin(mask, (0, 1)).all() or (mask != mask.T).any():
        raise _refusal(target, f"its mask {mask.tolist()} is no symmetric choice of components")
    return mask


def _is_group(mask: np.ndarray) -> bool:
    """Whether deformations within the ``mask``, made one after the other, are within it again."""
    free = (mask + np.eye(3)).astype(bool)
    reached = free.astype(int) @ free.astype(int) > 0
    lengths = np.diag(mask).astype(bool)
    shears = (mask - np.diag(np.diag(mask))).any(axis=0)
    return bool((reached == free).all() and (lengths | ~shears).all())


def _refusal(target: object, reason: str) -> ConstraintError:
    return ConstraintError(
        f"{type(target).__name__}: {reason}, and the jump cannot honour that. Pass bare Atoms, with relax_cell=False "
        f"to keep the cell, or FrechetCellFilter(atoms); {_WAY_OUT}"
    )
