"""Degrees of freedom, read from bare ``Atoms`` or an ASE filter; refused where the jump cannot honour them exactly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.cell import Cell
from ase.filters import Filter, StrainFilter, UnitCellFilter
from ase.units import GPa

from deeprelax_ase.calculators.identity import calculator_name
from deeprelax_ase.errors import CalculatorError, ConstraintError, StructureError
from deeprelax_ase.io.constraints import refuse_constraints
from deeprelax_ase.optimizers.checked_atoms import CheckedAtoms
from deeprelax_ase.optimizers.filters import RememberingCellFilter
from deeprelax_ase.periodicity import plane_normal
from deeprelax_ase.prediction.allowed_strain import (
    TILTED,
    AllowedStrain,
    RelaxCell,
    along_axes,
    checked_relax_cell,
    refuse_open,
)

#: What cells may do where nothing else is said.
_FREE = AllowedStrain()

_WAY_OUT = "or relax with a plain ASE optimizer, such as FIRE, which honours it."


@dataclass(frozen=True, eq=False)
class DegreesOfFreedom:
    """The degrees of freedom of a relaxation.

    Attributes:
        checked: the caller's atoms.
        given: what the finishing optimizer moves: ``atoms`` themselves or the caller's filter around them; None where
            a filter is made here of bare atoms whose cell moves, see :attr:`target`.
        cell: how the cell may change; None where it is kept, and never written to.
        visible: (N,) bool, the atoms that may move beyond being carried along by the cell.
        normal: (3,) unit vector out of the plane of atoms that repeat in two directions only, and of bare atoms whose
            cell moves in the plane of a layer; None for all others.
        plane: (3, 3) projector onto the plane of a layer that no mask can say, as it lies along no Cartesian axes, or
            its cell has no volume: for a jump alone, as ASE's filters take none. None for all others.
        asked: what the model is asked: whether the cell moves, or how it may. It knows no pressure.
        started: the cell that a filter made here measures deformations from; None without one.
    """

    checked: CheckedAtoms
    given: Atoms | Filter | None
    cell: AllowedStrain | None
    visible: np.ndarray
    normal: np.ndarray | None = None
    plane: np.ndarray | None = None
    asked: bool | AllowedStrain = True
    started: Cell | None = None

    @property
    def own_filter(self) -> bool:
        """Whether :attr:`target` is a filter made here, not the caller's."""
        return self.given is None

    @cached_property
    def target(self) -> Atoms | Filter:
        """Atoms or filter that the finishing optimizer moves; a filter is made once it is asked for: many need none."""
        if self.given is not None:
            return self.given
        cell: AllowedStrain = self.cell  # type: ignore[assignment]
        own = RememberingCellFilter(
            self.atoms,
            mask=None if all(cell.mask) else cell.matrix,
            hydrostatic_strain=cell.hydrostatic,
            constant_volume=cell.constant_volume,
            scalar_pressure=cell.pressure,
        )
        own.orig_cell = self.started
        return own

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
        cell_free = self.cell is None or (self.cell.free and self.plane is None)
        return cell_free and bool(self.visible.all()) and not self.atoms.constraints

    @property
    def as_learned(self) -> bool:
        """Whether all moves that moved when the model's labels were made, but for cells that ``asked`` keeps."""
        pressed = self.cell is not None and (self.cell.pressure or not self.cell.closed)
        return not pressed and not self._limited and not self.atoms.constraints and bool(self.visible.all())

    @property
    def _limited(self) -> bool:
        """Whether the cell may not move as it is ``asked`` in all the ways in which it would: layers in their plane."""
        if not isinstance(self.asked, AllowedStrain):
            return False
        return self.normal is None or not self.asked.frees(np.eye(3) - np.outer(self.normal, self.normal))

    @property
    def pressure(self) -> float:
        """eV/Å³, external."""
        return 0.0 if self.cell is None else self.cell.pressure

    @property
    def told_pressure(self) -> str:
        """The pressure, to be put behind what went wrong; nothing without one."""
        return f" under a pressure of {self.pressure / GPa:g} GPa" if self.pressure else ""

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


def degrees_of_freedom(
    atoms: Atoms | Filter, *, relax_cell: RelaxCell, checked: CheckedAtoms | None = None
) -> DegreesOfFreedom:
    """The degrees of freedom that ``atoms`` stand for.

    Bare ``Atoms`` move as ``relax_cell`` says; None keeps the cell of slabs and moves all others. Layers and slabs are
    strained in their plane only. A filter says for itself: ``FrechetCellFilter``, ``UnitCellFilter`` and
    ``ExpCellFilter`` move positions and cell, within ``mask``, ``hydrostatic_strain``, ``constant_volume``;
    ``StrainFilter`` the cell alone, and a plain ``Filter`` the positions of the atoms that it shows. ``checked`` are
    bare atoms that have been looked at before.

    Raises:
        ConstraintError: the filter or a constraint is of a kind that the jump cannot honour.
    """
    if isinstance(atoms, Atoms):
        refuse_constraints(atoms.constraints)
        return _dof_of_atoms(checked or CheckedAtoms(atoms), relax_cell)
    dof = _dof_of_filter(atoms)
    refuse_constraints(dof.atoms.constraints)
    return dof


def _dof_of_atoms(checked: CheckedAtoms, relax_cell: RelaxCell) -> DegreesOfFreedom:
    atoms, relax_cell = checked.atoms, checked_relax_cell(relax_cell)
    limits = relax_cell if isinstance(relax_cell, AllowedStrain) else _FREE
    refuse_open(limits)
    moves = relax_cell if limits is not relax_cell else any(limits.mask)
    everything = np.ones(len(atoms), dtype=bool)
    layer = None if moves is False else layer_of(checked)
    if moves is False or (moves is None and layer is not None and layer.thick):
        normal = plane_normal(atoms.pbc, atoms.cell.array)
        return DegreesOfFreedom(checked, atoms, None, everything, normal=normal, asked=False)
    normal = None if layer is None else layer.normal
    cell, plane = (limits, None) if normal is None else _in_plane(limits, normal, atoms.cell.array)
    started = atoms.get_cell()
    return DegreesOfFreedom(
        checked, None, cell, everything, normal=normal, plane=plane, asked=_asked(limits), started=started
    )


def _in_plane(limits: AllowedStrain, normal: np.ndarray, cell: np.ndarray) -> tuple[AllowedStrain, np.ndarray | None]:
    """Of ``limits`` what is in the plane of a layer with this ``normal`` (3,) in a ``cell`` (3, 3); its projector."""
    if limits.pressure:
        raise ConstraintError(
            f"the pressure is {limits.pressure:g} eV/Å^3, and the atoms are a layer or slab, whose cell holds vacuum: "
            "it feels none. Leave the pressure out."
        )
    plane, aligned = np.eye(3) - np.outer(normal, normal), along_axes(normal)
    if not aligned and not all(limits.mask):
        raise ConstraintError(TILTED)
    if not aligned or np.linalg.det(cell) == 0:
        return limits, plane
    axes = np.diag(plane).round()
    return limits.within(np.outer(axes, axes)), None


def refuse_missing_stress(dof: DegreesOfFreedom) -> None:
    """Refuse to relax the cell of bare atoms under a calculator that has no stress.

    Raises:
        CalculatorError: says how to relax without it.
    """
    calculator = dof.atoms.calc
    if dof.own_filter and "stress" not in getattr(calculator, "implemented_properties", ["stress"]):
        raise CalculatorError(
            f"{calculator_name(calculator)} gives no stress, so the cell cannot be relaxed under it. Keep the cell "
            "(relax_cell=False), or leave the calculator out for the jump alone."
        )


def refuse_tilted_layers(dof: DegreesOfFreedom) -> None:
    """Refuse to strain a layer under a calculator whose plane ASE's filters cannot keep to.

    Raises:
        ConstraintError: says how to turn it, or what to give it.
    """
    if dof.plane is None or dof.normal is None or not dof.has_calculator:
        return
    if not along_axes(dof.normal):
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
            _mask_of(target),
            bool(target.hydrostatic_strain),
            bool(target.constant_volume),
            float(target.scalar_pressure),
        )
        if cell.constant_volume and not cell.closed:
            raise _refusal(target, "constant_volume is on, and its mask frees shears but not all that they lead to")
        return DegreesOfFreedom(checked, target, cell, everything, normal=normal, asked=_asked(cell))
    if isinstance(target, StrainFilter):
        cell = AllowedStrain(_mask_of(target))
        return DegreesOfFreedom(checked, target, cell, ~everything, normal=normal, asked=_asked(cell))
    visible = ~everything
    visible[target.index] = True
    return DegreesOfFreedom(checked, target, None, visible, normal=normal, asked=False)


def _asked(cell: AllowedStrain) -> bool | AllowedStrain:
    """The question to the model, which knows no pressure, and no mask that deformations leave."""
    return True if cell.free or not cell.closed else cell.without_pressure()


def _mask_of(target: UnitCellFilter | StrainFilter) -> tuple[int, ...]:
    mask = np.asarray(target.mask, dtype=float)
    try:
        return AllowedStrain(tuple(mask.tolist())).mask
    except ConstraintError as error:
        raise _refusal(target, f"its mask {mask.tolist()} is no symmetric choice of components") from error


def _refusal(target: object, reason: str) -> ConstraintError:
    return ConstraintError(
        f"{type(target).__name__}: {reason}, and the jump cannot honour that. Pass bare Atoms, with relax_cell=False "
        f"to keep the cell, or FrechetCellFilter(atoms); {_WAY_OUT}"
    )


class Layer(NamedTuple):
    """Atoms with vacuum in one direction.

    Attributes:
        normal: (3,) unit vector out of their plane.
        thick: whether they are a slab, whose cell is kept unless asked.
    """

    normal: np.ndarray
    thick: bool


def layer_of(checked: CheckedAtoms) -> Layer | None:
    """The layer or slab that the atoms are; None for all others, and for what no model can relax."""
    normal = plane_normal(checked.atoms.pbc, checked.atoms.cell.array)
    try:
        vacuum = checked.vacuum()
    except StructureError:  # the jump tells why
        return None if normal is None else Layer(normal, thick=False)
    if normal is None and vacuum.directions.item() == 1:
        projector = np.eye(3) - vacuum.planes[0].numpy()
        across = projector[np.argmax(np.diag(projector))]
        normal = across / np.linalg.norm(across)
    return None if normal is None else Layer(normal, thick=bool(vacuum.slabs.item()))
