"""What may move: read from bare ``Atoms`` or an ASE filter, and refused where the jump cannot honour it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.filters import Filter, FrechetCellFilter, UnitCellFilter

from deeprelax_ase.errors import CalculatorError, ConstraintError

_WAY_OUT = "or relax with a plain ASE optimizer, such as FIRE, which honours it."


@dataclass(frozen=True, eq=False)
class Freedom:
    """The degrees of freedom of a relaxation.

    Attributes:
        atoms: the caller's atoms.
        target: what the finishing optimizer moves: ``atoms`` themselves or a filter around them.
        moves_cell: whether the cell is relaxed; if not, it is never written to.
        own_filter: whether ``target`` is a filter made here, not the caller's.
    """

    atoms: Atoms
    target: Atoms | Filter
    moves_cell: bool
    own_filter: bool = False

    @property
    def has_calculator(self) -> bool:
        """Whether forces can be had. Results read from a file do not count: they are those of one geometry only."""
        return not (self.atoms.calc is None or isinstance(self.atoms.calc, SinglePointCalculator))

    @property
    def orig_cell(self) -> np.ndarray | None:
        """(3, 3) Å, the cell that a cell filter measures its deformation from; None where the cell is kept."""
        return np.array(self.target.orig_cell) if isinstance(self.target, UnitCellFilter) else None

    def restore_orig_cell(self, orig_cell: np.ndarray | None) -> None:
        """Measure the deformation from ``orig_cell`` (3, 3) in Å again; the caller's own filter is left alone."""
        if self.own_filter and orig_cell is not None and isinstance(self.target, UnitCellFilter):
            self.target.orig_cell = orig_cell


def freedom_of(atoms: Atoms | Filter, *, relax_cell: bool) -> Freedom:
    """The degrees of freedom that ``atoms`` stand for.

    Bare ``Atoms`` move as ``relax_cell`` says. A filter says for itself: ``FrechetCellFilter``, ``UnitCellFilter`` and
    ``ExpCellFilter`` without restrictions move positions and cell, a plain ``Filter`` that shows every atom moves
    positions.

    Raises:
        ConstraintError: the atoms carry constraints, or the filter restricts the motion.
    """
    if isinstance(atoms, Atoms):
        refuse_constraints(atoms)
        if relax_cell:
            return Freedom(atoms, FrechetCellFilter(atoms), moves_cell=True, own_filter=True)
        return Freedom(atoms, atoms, moves_cell=False)
    reason = _restriction(atoms)
    if reason is not None:
        raise ConstraintError(
            f"{type(atoms).__name__}: {reason}, and the jump cannot honour that. Pass bare Atoms, with "
            f"relax_cell=False to keep the cell, or FrechetCellFilter(atoms) with its defaults; {_WAY_OUT}"
        )
    refuse_constraints(atoms.atoms)
    return Freedom(atoms.atoms, atoms, moves_cell=isinstance(atoms, UnitCellFilter))


def refuse_constraints(atoms: Atoms) -> None:
    """Refuse atoms that carry constraints of any kind.

    Raises:
        ConstraintError: names the constraints.
    """
    if atoms.constraints:
        names = ", ".join(sorted({type(constraint).__name__ for constraint in atoms.constraints}))
        raise ConstraintError(
            f"the atoms carry constraints ({names}), and the jump moves every atom. Remove them with "
            f"atoms.set_constraint() if all atoms may move, {_WAY_OUT}"
        )


def refuse_missing_stress(freedom: Freedom) -> None:
    """Refuse to relax the cell of bare atoms under a calculator that has no stress.

    Raises:
        CalculatorError: says how to relax without it.
    """
    calculator = freedom.atoms.calc
    if freedom.own_filter and "stress" not in getattr(calculator, "implemented_properties", ["stress"]):
        raise CalculatorError(
            f"{type(calculator).__name__} gives no stress, so the cell cannot be relaxed under it. Keep the cell with "
            "relax_cell=False, or leave the calculator out for the jump alone."
        )


def _restriction(target: object) -> str | None:
    """Why ``target`` is not free to move; None for a filter that is. Only ASE's own filters are known to be."""
    if not (isinstance(target, Filter) and type(target).__module__.startswith("ase.")):
        return "it is neither Atoms nor one of ASE's filters"
    if not isinstance(target.atoms, Atoms):
        return "it filters something else than Atoms"
    if isinstance(target, UnitCellFilter):
        return _cell_restriction(target)
    if hasattr(target, "strain"):
        return "it moves the cell and holds the scaled positions"
    if len(np.unique(np.arange(len(target.atoms))[target.index])) < len(target.atoms):
        return "it hides some of the atoms"
    return None


def _cell_restriction(target: UnitCellFilter) -> str | None:
    if np.any(np.asarray(target.mask) != 1):
        return f"its mask {np.asarray(target.mask, dtype=int).tolist()} fixes parts of the cell"
    if target.hydrostatic_strain:
        return "hydrostatic_strain is on"
    if target.constant_volume:
        return "constant_volume is on"
    if target.scalar_pressure != 0:
        return f"scalar_pressure is {target.scalar_pressure:g} eV/Å^3"
    return None
