"""The :class:`AllowedStrain` record: how a cell may move, the one that every door takes and passes on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from deeprelax_ase.errors import ConstraintError

#: Components of a strain in ASE's order.
COMPONENTS = ("xx", "yy", "zz", "yz", "xz", "xy")

#: Why a layer is refused.
TILTED = (
    "the atoms are a layer whose plane lies along no Cartesian axes, and the mask of its strain does. Turn it "
    "(atoms.rotate(normal, 'z', rotate_cell=True)), or leave the mask out: layers are strained in their plane alone."
)

#: Of a projector that was computed.
_ROUNDING = 1e-6

_VOIGT = np.array([[0, 5, 4], [5, 1, 3], [4, 3, 2]])


@dataclass(frozen=True)
class AllowedStrain:
    """Strain that a cell may undergo, in the terms of ASE's filters.

    Attributes:
        mask: six times 1 for a component of the strain that may change, or 0 for one that is kept: xx, yy, zz, yz, xz,
            xy. ASE's (3, 3) is taken too.
        hydrostatic: only in all directions alike.
        constant_volume: without a change of the volume.
        pressure: eV/Å³, external; the relaxed crystal is that of least enthalpy. 1 GPa is ``ase.units.GPa``.

    Raises:
        ConstraintError: the mask is no symmetric choice of components, or the pressure no number.
    """

    mask: tuple[int, ...] = (1, 1, 1, 1, 1, 1)
    hydrostatic: bool = False
    constant_volume: bool = False
    pressure: float = 0.0

    def __post_init__(self) -> None:
        given = np.asarray(self.mask)
        whole = given[_VOIGT] if given.shape == (6,) else given
        if whole.shape != (3, 3) or not np.isin(whole, (0, 1)).all() or (whole != whole.T).any():
            raise ConstraintError(
                f"the mask {given.tolist()} is no symmetric choice of components: give six times 0 or 1, for "
                f"{', '.join(COMPONENTS)}"
            )
        if not math.isfinite(self.pressure):
            raise ConstraintError(f"the pressure {self.pressure} eV/Å^3 is no number")
        object.__setattr__(self, "mask", tuple(whole[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]].astype(int).tolist()))

    @property
    def matrix(self) -> np.ndarray:
        """(3, 3) the mask as zeros and ones."""
        return np.array(self.mask, dtype=float)[_VOIGT]

    @property
    def free(self) -> bool:
        """Whether every strain is allowed."""
        return all(self.mask) and not self.hydrostatic and not self.constant_volume

    @property
    def closed(self) -> bool:
        """Whether deformations within the mask, made one after the other, are within it again."""
        if all(self.mask):  # as most are
            return True
        mask = self.matrix
        free = (mask + np.eye(3)).astype(bool)
        reached = free.astype(int) @ free.astype(int) > 0
        lengths = np.diag(mask).astype(bool)
        shears = (mask - np.diag(np.diag(mask))).any(axis=0)
        return bool((reached == free).all() and (lengths | ~shears).all())

    def without_pressure(self) -> AllowedStrain:
        """The same at no pressure, as the network predicts."""
        return replace(self, pressure=0.0)

    def frees(self, plane: np.ndarray) -> bool:
        """Whether every strain within the plane of a layer is allowed, of which ``plane`` (3, 3) is the projector."""
        axes = np.abs(plane).max(axis=0) > _ROUNDING
        mixed = self.hydrostatic or self.constant_volume
        return not mixed and bool(self.matrix[np.ix_(axes, axes)].all())

    def within(self, mask: np.ndarray) -> AllowedStrain:
        """The same, where ``mask`` (3, 3) allows it as well."""
        return replace(self, mask=tuple((self.matrix * mask).tolist()))

    @classmethod
    def parse_mask(cls, text: str) -> tuple[int, ...]:
        """Read a mask from the names of the components that may change, ``xx,yy,xy``, or from six times 0 or 1.

        Raises:
            ConstraintError: it is neither.
        """
        words = text.replace(",", " ").split()
        digits = list("".join(words))
        if len(digits) == len(COMPONENTS) and set(digits) <= {"0", "1"}:
            return tuple(map(int, digits))
        if not words or not set(words) <= set(COMPONENTS):
            raise ConstraintError(
                f"the mask {text!r} is none: name the components of the strain that may change, of "
                f"{', '.join(COMPONENTS)}, such as xx,yy,xy"
            )
        return tuple(int(name in words) for name in COMPONENTS)


#: What doors take as ``relax_cell``: whether the cell moves, None for all but those of slabs; or how it may.
RelaxCell = bool | AllowedStrain | None


def checked_relax_cell(given: object) -> RelaxCell:
    """``given`` as ``relax_cell``; NumPy's truth values are taken too.

    Raises:
        ConstraintError: it is something else, such as a mask alone, which is true to Python and would free everything.
    """
    if given is None or isinstance(given, AllowedStrain):
        return given
    if isinstance(given, bool | np.bool_):
        return bool(given)
    raise ConstraintError(
        f"relax_cell={given!r} is none of True, False, None and an AllowedStrain. A mask goes into one, such as "
        "AllowedStrain((1, 1, 0, 0, 0, 1))."
    )


def without_pressure(relax_cell: RelaxCell) -> RelaxCell:
    """``relax_cell`` as the network is asked: it predicts at no pressure."""
    return relax_cell.without_pressure() if isinstance(relax_cell, AllowedStrain) else relax_cell


def refuse_pressure_alone(pressure: float) -> None:
    """Refuse a ``pressure`` in eV/Å³ without a calculator, whose finish would look after it: the model knows none.

    Raises:
        ConstraintError: says what to do.
    """
    if pressure:
        from ase import units  # prediction alone needs no ASE

        raise ConstraintError(
            f"the pressure is {pressure / units.GPa:g} GPa, and the model predicts crystals without pressure. Give a "
            "calculator that finishes every crystal, as its finish applies it, or leave the pressure out."
        )


def refuse_useless(
    relax_cell: RelaxCell, *, keep_symmetry: bool | None = None, rattle: float = 0.0, finishes_all: bool
) -> None:
    """Refuse what means nothing in a relaxation of many crystals.

    Args:
        relax_cell: how their cells may move.
        keep_symmetry: whether their symmetry is to be kept.
        rattle: Å, by which they are displaced first.
        finishes_all: whether a calculator finishes every crystal.

    Raises:
        ConstraintError: a pressure where predictions are handed out as they are, or a mask that nothing keeps exactly.
        ValueError: rattled crystals have no symmetry to keep, or the width is no length.
    """
    if isinstance(relax_cell, AllowedStrain):
        refuse_open(relax_cell)
        if not finishes_all:
            refuse_pressure_alone(relax_cell.pressure)
    if not 0 <= rattle < math.inf:
        raise ValueError(f"{rattle=} must be a length in Å, 0 for none")
    if rattle and keep_symmetry:
        raise ValueError(f"{rattle=} breaks the symmetry that keep_symmetry=True is to keep: leave one of them out")


def refuse_open(cell: AllowedStrain) -> None:
    """Refuse a mask that deformations leave when they are made one after the other: nothing would be kept exactly.

    Raises:
        ConstraintError: says which masks are taken.
    """
    if not cell.closed:
        names = [name for name, free in zip(COMPONENTS, cell.mask, strict=True) if free]
        raise ConstraintError(
            f"the mask {','.join(names)} frees shears but not all that they lead to. With a shear, such as xy, free "
            "the lengths xx and yy and the shears between all axes that it links; or pass one of ASE's filters to "
            "DeepRelaxOptimizer, which keeps such a mask as ASE does."
        )


def refuse_broken_symmetry(cell: AllowedStrain, rotations: Sequence[np.ndarray]) -> None:
    """Refuse to keep the symmetry of a crystal whose ``cell`` may not move as it asks.

    Args:
        cell: how it may move.
        rotations: (3, 3) of the space group, for Cartesian vectors in rows.

    Raises:
        ConstraintError: says what to leave out.
    """
    mask, turns = cell.matrix, np.stack(rotations)
    for row, column in np.argwhere(np.triu(mask)):
        strain = np.zeros((3, 3))
        strain[row, column] = strain[column, row] = 1
        mean = (turns.transpose(0, 2, 1) @ strain @ turns).mean(axis=0)
        if np.abs(mean * (1 - mask)).max() > 1e-6:
            names = ",".join(name for name, free in zip(COMPONENTS, cell.mask, strict=True) if free)
            raise ConstraintError(
                f"the symmetry is to be kept, and the mask {names} breaks it: the space group strains other components "
                "along with these. Leave keep_symmetry or the mask out."
            )


def refuse_symmetry_of(constraints: Iterable[object]) -> None:
    """Refuse to keep the symmetry of atoms with other ``constraints``.

    Raises:
        ConstraintError: says what to leave out.
    """
    others = sorted({type(c).__name__ for c in constraints} - {"FixSymmetry"})
    if others:
        raise ConstraintError(
            f"the symmetry is to be kept, and the atoms carry constraints ({', '.join(others)}) that may break it. "
            "Leave keep_symmetry out, or remove them with atoms.set_constraint()."
        )


def cell_limits(relax_cell: RelaxCell) -> tuple[bool | None, AllowedStrain | None]:
    """Whether cells move, see :data:`RelaxCell`, and what limits their strain in a prediction; None for nothing.

    Raises:
        ConstraintError: there is a pressure, the mask cannot be kept exactly, or it is no way for a cell to move.
    """
    relax_cell = checked_relax_cell(relax_cell)
    if not isinstance(relax_cell, AllowedStrain):
        return relax_cell, None
    refuse_pressure_alone(relax_cell.pressure)
    refuse_open(relax_cell)
    if not any(relax_cell.mask):
        return False, None
    return True, None if relax_cell.free else relax_cell


def along_axes(normal: np.ndarray) -> bool:
    """Whether a unit vector ``normal`` (3,) is a Cartesian axis, to a sine of 1e-6."""
    return bool(1 - np.abs(normal).max() <= 1e-12)
