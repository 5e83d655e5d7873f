"""The :class:`Crystal` record: what the rest of the package knows of a structure.

Structures are converted and validated once, here at the door; inside, only the record is passed on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from deeprelax_ase.errors import (
    BrokenStructureError,
    CoordinateRangeError,
    DeepRelaxError,
    DisorderedStructureError,
    EmptyStructureError,
    MissingCellError,
    NonFiniteError,
    SingularCellError,
    UnsupportedElementError,
    VacuumError,
)
from deeprelax_ase.periodicity import periodic_directions, plane_normal

if TYPE_CHECKING:
    from ase import Atoms
    from ase.symbols import Symbols
    from pymatgen.core import Structure

#: A cell whose volume is below this fraction of |a||b||c| is taken as singular.
SINGULAR_CELL_RATIO = 1e-4

#: Å. No coordinate and no lattice vector is longer. In float64 distances are then right to 1e-9 Å, and an atom lies at
#: most some hundred thousand cells away; what is longer was read in another unit, or is what a failed step left.
LONGEST = 1e6

#: Å of vacuum above atoms that repeat in two directions, where their cell has less: more than any model sees across.
PUT_VACUUM = 12.0


@dataclass(frozen=True, eq=False)
class Crystal:
    """A crystal; also a layer or slab, with vacuum in its cell. The arrays are read-only copies.

    Attributes:
        numbers: (N,) int64, atomic numbers.
        positions: (N, 3) float64, Cartesian positions in Å, as given: atoms are not wrapped into the cell.
        cell: (3, 3) float64, lattice vectors in rows, Å.
        pbc: (3,) bool, periodic directions; all true once validated.
        constraints: ASE's, of atoms that may not move freely; whoever relaxes the crystal keeps them.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    constraints: tuple[Any, ...] = ()
    _validated = False  # the arrays cannot change, so that once is enough
    _given: Crystal | None = None

    def __init__(self, numbers, positions, cell, pbc=(True, True, True), constraints=()) -> None:
        fields = {
            "numbers": _whole(numbers).reshape(-1),
            "positions": np.array(positions, dtype=np.float64).reshape(-1, 3),
            "cell": np.array(cell, dtype=np.float64).reshape(3, 3),
            "pbc": periodic_directions(pbc),
        }
        if len(fields["numbers"]) != len(fields["positions"]):
            raise BrokenStructureError(
                f"{len(fields['numbers'])} atomic numbers, but {len(fields['positions'])} positions"
            )
        for name, array in fields.items():
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        object.__setattr__(self, "constraints", tuple(constraints))

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def fractional_positions(self) -> np.ndarray:
        """(N, 3) fractional coordinates, not wrapped."""
        return np.linalg.solve(self.cell.T, self.positions.T).T

    @property
    def symbols(self) -> Symbols:
        """ASE's symbols, for people to read; X where a number is that of no element."""
        from ase.symbols import Symbols

        return Symbols(np.where((self.numbers >= 1) & (self.numbers <= 118), self.numbers, 0))

    @property
    def volume(self) -> float:
        """Cell volume in Å³."""
        return abs(_determinant(self.cell))

    @property
    def as_given(self) -> Crystal:
        """The crystal without the vacuum that was put into its cell, repeating as it was given, to be handed out.

        Also of what :meth:`with_geometry` makes of such a crystal. All others are as they were given.
        """
        return self if self._given is None else self._given

    @classmethod
    def from_atoms(cls, atoms: Atoms) -> Crystal:
        """The crystal of an ASE ``Atoms``; calculator, magnetic moments and ``info`` stay with the atoms.

        Atoms that repeat in two directions get :data:`PUT_VACUUM` above them, unless their cell has as much.

        Raises:
            StructureError: see :func:`validate`; also for a fractional occupancy in ``atoms.info["occupancy"]``,
                where ASE's CIF reader puts it.
        """
        _refuse_partial_occupancy(atoms.info.get("occupancy"))
        constraints = deepcopy(atoms.constraints)
        return cls(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, constraints)._admitted()

    @classmethod
    def from_structure(cls, structure: Structure) -> Crystal:
        """The crystal of an ordered pymatgen ``Structure``; ``selective_dynamics`` of its sites is a constraint.

        Raises:
            DisorderedStructureError: a site is shared or partly occupied.
            StructureError: see :func:`validate`.
        """
        if not hasattr(structure, "lattice"):
            raise MissingCellError(
                f"{type(structure).__name__} has no lattice; deeprelax_ase relaxes crystals. Put the molecule into a "
                "crystal, or relax it with a calculator and an ASE optimizer."
            )
        if not structure.is_ordered:
            raise DisorderedStructureError(
                f"{structure.formula} has shared or partly occupied sites. Make an ordered structure first, for "
                "example with pymatgen's OrderDisorderedStructureTransformation."
            )
        if made_up := {str(site.specie) for site in structure if type(site.specie).__name__ == "DummySpecies"}:
            raise UnsupportedElementError(f"{', '.join(sorted(made_up))} is no element. Put elements in its place.")
        numbers = [site.specie.Z for site in structure]
        held = _held_sites(structure.site_properties.get("selective_dynamics"))
        return cls(numbers, structure.cart_coords, structure.lattice.matrix, structure.lattice.pbc, held)._admitted()

    @classmethod
    def of(cls, structure: Crystal | Atoms | Structure) -> Crystal:
        """The crystal of any supported object: ``Crystal``, ASE ``Atoms`` or pymatgen ``Structure``."""
        if isinstance(structure, Crystal):
            return structure if structure._validated else structure._admitted()
        if hasattr(structure, "numbers") and hasattr(structure, "cell"):
            return cls.from_atoms(structure)
        if hasattr(structure, "is_ordered"):
            return cls.from_structure(structure)
        raise TypeError(
            f"a Crystal, an ASE Atoms or a pymatgen Structure is needed, got {type(structure).__name__}. Read a file "
            "with ase.io.read first."
        )

    def _admitted(self) -> Crystal:
        """Validate the crystal, and add vacuum where it repeats in two directions."""
        crystal = _with_vacuum(self) if self.pbc.sum() == 2 else self
        validate(crystal)
        if crystal is not self:
            object.__setattr__(crystal, "_given", self)
        return crystal

    def to_atoms(self) -> Atoms:
        """A new ASE ``Atoms`` with these numbers, positions, cell and constraints."""
        from ase import Atoms

        held = deepcopy(list(self.constraints))
        return Atoms(numbers=self.numbers, positions=self.positions, cell=self.cell, pbc=self.pbc, constraint=held)

    def to_structure(self) -> Structure:
        """A new pymatgen ``Structure``; atoms keep their images (``to_unit_cell`` is off).

        Its ``lattice.pbc`` says in which directions it repeats. A layer without a vector out of its plane gets
        one, with vacuum, since pymatgen needs three.
        """
        from pymatgen.core import Element, Lattice, Structure

        species = [Element.from_Z(int(z)) for z in self.numbers]
        cell = self.cell if self.volume or self.pbc.sum() != 2 else _with_vacuum(self).cell
        lattice = Lattice(cell, pbc=tuple(self.pbc.tolist()))
        return Structure(lattice, species, self.positions, coords_are_cartesian=True)

    def with_geometry(self, positions: np.ndarray, cell: np.ndarray) -> Crystal:
        """The same atoms at new ``positions`` (N, 3) in a new ``cell`` (3, 3), both in Å."""
        crystal = Crystal(self.numbers, positions, cell, self.pbc, self.constraints)
        if (given := self._given) is not None:
            kept = np.where(given.pbc[:, None], crystal.cell, given.cell)
            object.__setattr__(crystal, "_given", Crystal(self.numbers, positions, kept, given.pbc, self.constraints))
        return crystal


def _held_sites(flags: Any) -> list[Any]:
    """ASE's constraints of ``selective_dynamics``, whether each site may move along x, y and z; None of all that do."""
    free = np.array([[True] * 3 if each is None else each for each in flags or ()], dtype=bool).reshape(-1, 3)
    if free.all():
        return []
    from ase.constraints import FixAtoms, FixCartesian

    wholly, partly = np.flatnonzero(~free.any(axis=1)), np.flatnonzero(free.any(axis=1) & ~free.all(axis=1))
    held: list[Any] = [FixAtoms(wholly)] if len(wholly) else []
    return held + [FixCartesian([int(n)], mask=(~free[n]).tolist()) for n in partly]


def _with_vacuum(crystal: Crystal) -> Crystal:
    """``crystal``, which repeats in two directions, repeated in all three with enough vacuum above it."""
    normal = plane_normal(crystal.pbc, crystal.cell)
    if normal is None or not len(crystal):
        return crystal
    cell, height = crystal.cell.copy(), np.ptp(crystal.positions @ normal) + PUT_VACUUM
    if not abs(cell[~crystal.pbc][0] @ normal) >= height:
        cell[~crystal.pbc] = height * normal
    return Crystal(crystal.numbers, crystal.positions, cell, constraints=crystal.constraints)


def crystal_or_error(structure: Any) -> Crystal | DeepRelaxError:
    """The crystal of any supported object, or the error in its place, whatever is in it."""
    try:
        return Crystal.of(structure)
    except DeepRelaxError as error:
        return error
    except Exception as error:  # whatever is in such an object
        told = error if isinstance(error, TypeError) else f"{type(error).__name__}: {error}"
        return BrokenStructureError(f"this is no structure that can be read: {told}")


def crystal_as_it_is(atoms: Any) -> Crystal | None:
    """The crystal of an object like ASE's ``Atoms``, unchecked, to be drawn or kept; None where there is none in it."""
    try:
        return Crystal(atoms.numbers, atoms.positions, np.asarray(atoms.cell), atoms.pbc)
    except Exception:  # whatever is in such an object
        return None


def _whole(numbers: object) -> np.ndarray:
    """(...) int64; nothing is rounded."""
    given = np.asarray(numbers)
    if given.dtype.kind == "i":
        return given.astype(np.int64)
    with np.errstate(invalid="ignore"):
        whole = given.astype(np.int64)
    if not np.array_equal(whole, given):
        raise UnsupportedElementError(f"atomic numbers must be whole, not {given.ravel()[:5].tolist()}")
    return whole


def _determinant(cell: np.ndarray) -> float:
    """Compute the determinant of a (3, 3) matrix in a tenth of the time that numpy takes just to begin."""
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = cell.tolist()
    return ax * (by * cz - bz * cy) + ay * (bz * cx - bx * cz) + az * (bx * cy - by * cx)


def validate(crystal: Crystal) -> None:
    """Check that ``crystal`` is something that can be relaxed at all, whatever the model.

    Distances between atoms are checked where they are computed, by the graph builders.

    Raises:
        EmptyStructureError, UnsupportedElementError, NonFiniteError, CoordinateRangeError, MissingCellError,
        VacuumError, SingularCellError: each message says how to mend the input.
    """
    if len(crystal) == 0:
        raise EmptyStructureError("the structure has no atoms; check the file it was read from")
    if wrong := sorted({z for z in crystal.numbers.tolist() if not 1 <= z <= 118}):
        raise UnsupportedElementError(
            f"atomic numbers {wrong[:5]} are those of no element, which go from 1 to 118. Read the file with the right "
            "format, or set atoms.numbers."
        )
    if not (np.isfinite(crystal.positions).all() and np.isfinite(crystal.cell).all()):
        bad = np.flatnonzero(~np.isfinite(crystal.positions).all(axis=1))
        where = f"positions of atoms {bad[:5].tolist()}" if len(bad) else "the cell"
        raise NonFiniteError(f"NaN or infinity in {where}; the step that made the structure failed: make it again")
    if (longest := max(np.abs(crystal.positions).max(), np.abs(crystal.cell).max())) > LONGEST:
        raise CoordinateRangeError(
            f"coordinates or lattice vectors reach {longest:.3g} Å; up to {LONGEST:.0e} Å distances between atoms are "
            "exact. Check their unit (Å), or wrap the atoms into the cell with atoms.wrap()."
        )
    lengths = [math.hypot(*vector) for vector in crystal.cell.tolist()]
    if not crystal.pbc.any() or not any(lengths):
        raise MissingCellError(
            "the structure has no periodic cell. deeprelax_ase relaxes crystals: for a crystal set atoms.cell and "
            "atoms.pbc = True; relax a molecule with a calculator and an ASE optimizer instead."
        )
    if not crystal.pbc.all():
        raise VacuumError(
            f"pbc={crystal.pbc.tolist()}: the atoms are a wire, which repeats in one direction only, and no model here "
            "has learnt to relax that. Relax it with a calculator and an ASE optimizer. If the atoms are a crystal, "
            "set atoms.pbc = True."
        )
    if crystal.volume <= SINGULAR_CELL_RATIO * math.prod(lengths):
        raise SingularCellError(
            f"the lattice vectors are (nearly) linearly dependent, lengths {np.round(lengths, 3).tolist()} Å, volume "
            f"{crystal.volume:.3g} Å³. Give three independent lattice vectors; atoms.cell.complete() adds missing ones."
        )
    object.__setattr__(crystal, "_validated", True)


def check_elements(crystal: Crystal, supported: Iterable[int], model: str) -> None:
    """Refuse elements outside ``supported`` (atomic numbers), those that ``model`` was trained on.

    Raises:
        UnsupportedElementError: names the elements and the model.
    """
    unknown = sorted(set(crystal.numbers.tolist()) - set(supported))
    if unknown:
        from ase.data import chemical_symbols

        names = [chemical_symbols[z] if 0 <= z < len(chemical_symbols) else f"Z={z}" for z in unknown]
        raise UnsupportedElementError(
            f"{model} was not trained on {', '.join(names)}. Choose another model (`deeprelax models` lists the "
            "elements of each), or relax this crystal with a calculator and an ASE optimizer."
        )


def _refuse_partial_occupancy(occupancy: object) -> None:
    """Refuse sites that no single element fills, by ``occupancy`` from ASE's CIF reader: shares of elements by site."""
    sites = {} if occupancy is None else occupancy if isinstance(occupancy, Mapping) else {"of all": occupancy}
    for site, fractions in sites.items():
        if not _is_whole(fractions):
            raise DisorderedStructureError(
                f"site {site} is occupied by {fractions}. Make an ordered structure first, for example with "
                "pymatgen's OrderDisorderedStructureTransformation, or delete atoms.info['occupancy'] if the atoms "
                "at hand are already ordered."
            )


def _is_whole(fractions: object) -> bool:
    """Whether a site has one element, and all of it; what is no number, such as a ``?`` in a CIF, does not say so."""
    amounts = list(fractions.values()) if isinstance(fractions, Mapping) else [fractions]
    return len(amounts) == 1 and isinstance(amounts[0], Real) and abs(float(amounts[0]) - 1) <= 1e-6
