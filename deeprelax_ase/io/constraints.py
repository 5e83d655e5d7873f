"""Constraints of atoms: those that are kept when a crystal is relaxed, and their text in tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from deeprelax_ase.errors import ConstraintError, StructureFileError

#: Constraints that are linear projections of a displacement, which ASE applies to any step, the jump among them.
HONOURED = ("FixAtoms", "FixCartesian", "FixCom", "FixScaled", "FixSymmetry", "FixedLine", "FixedPlane")

#: Those of them that relaxations in batches keep: they take directions from single atoms, or hold a space group.
IN_BATCHES = ("FixAtoms", "FixCartesian", "FixSymmetry", "FixedLine", "FixedPlane")


def refuse_constraints(constraints: Iterable[object]) -> None:
    """Refuse constraints that a jump cannot keep exactly.

    Raises:
        ConstraintError: names them.
    """
    names = {
        type(c).__name__
        for c in constraints
        if not (type(c).__module__.startswith("ase.") and type(c).__name__ in HONOURED)
    }
    if names:
        raise ConstraintError(
            f"the atoms carry constraints ({', '.join(sorted(names))}) that a jump cannot keep exactly; it keeps "
            f"{', '.join(HONOURED)}. Remove the others with atoms.set_constraint() if they may be dropped, "
            "or relax with a plain ASE optimizer, such as FIRE, which honours it."
        )


def are_kept_in_batches(constraints: Sequence[Any]) -> bool:
    """Whether relaxations in batches keep the ``constraints`` of a crystal: these, one for an atom or for all."""
    if any(type(held).__name__ not in IN_BATCHES for held in constraints):
        return False
    if symmetries := [held for held in constraints if type(held).__name__ == "FixSymmetry"]:
        whole = symmetries[0].do_adjust_positions and symmetries[0].do_adjust_cell
        return len(constraints) == 1 and whole
    directions = [np.atleast_1d(held.index) for held in constraints if type(held).__name__ != "FixAtoms"]
    indices = np.concatenate([np.zeros(0, dtype=int), *directions])
    return len(np.unique(indices)) == len(indices)


def constraints_text(constraints: Iterable[Any]) -> str | None:
    """The ``constraints`` as JSON, in ASE's form; None for none.

    Raises:
        ConstraintError: one of them is none that is kept.
    """
    from ase.io.jsonio import encode

    held = list(constraints)
    refuse_constraints(held)
    return encode([constraint.todict() for constraint in held]) if held else None


def constraints_of(text: str | None) -> list[Any]:
    """The inverse of :func:`constraints_text`.

    Raises:
        StructureFileError: the text is not of this form, or names what is no constraint that is kept.
    """
    if not text:
        return []
    from ase.constraints import dict2constraint
    from ase.io.jsonio import decode

    try:
        told = decode(text, always_array=False)
        if unknown := sorted({each["name"] for each in told} - set(HONOURED)):
            raise ValueError(f"{unknown} are none that are kept")
        return [dict2constraint(each) for each in told]
    except Exception as error:  # whatever is in it
        raise StructureFileError(f"its constraints cannot be read ({type(error).__name__}: {error})") from error


def along_axes(atoms: Any) -> tuple[list[Any], set[str]]:
    """The constraints of ``atoms`` as one ``FixAtoms`` or a ``FixCartesian`` of each atom, and names of the others.

    ``FixScaled``, ``FixedLine`` and ``FixedPlane`` are such where what they leave an atom is along Cartesian axes: all
    that extended XYZ has a place for. ASE 3.25 takes atoms that no ``FixCartesian`` is of for fixed.
    """
    from ase.constraints import FixAtoms, FixCartesian

    fixed = np.zeros((len(atoms), 3), dtype=bool)
    lost: set[str] = set()
    for held in atoms.constraints:
        free, name = None, type(held).__name__
        if name == "FixScaled":
            rows = atoms.cell.array[~np.asarray(held.mask, dtype=bool)]
            free = np.linalg.pinv(rows) @ rows
        elif name in ("FixedLine", "FixedPlane"):
            along = np.outer(held.dir, held.dir)
            free = along if name == "FixedLine" else np.eye(3) - along
        if free is not None and np.allclose(free, np.diag(np.diag(free).round()), rtol=0, atol=1e-8):
            fixed[held.index] |= np.diag(free) < 0.5
        elif name in ("FixAtoms", "FixCartesian"):
            fixed[held.index] |= np.asarray(held.mask, dtype=bool) if name == "FixCartesian" else True
        else:
            lost.add(name)
    if (fixed.all(axis=1) == fixed.any(axis=1)).all():
        whole = fixed.all(axis=1)
        return ([FixAtoms(mask=whole)] if whole.any() else []), lost
    return [FixCartesian(n, mask=mask) for n, mask in enumerate(fixed)], lost


def leave_alike(atoms: Any, other: Any) -> bool:
    """Whether the constraints of both leave the atoms of the same crystal the same ways to go."""
    ways = np.random.default_rng(0).normal(0, 0.1, (len(atoms), 3))

    def gone(one: Any) -> np.ndarray:
        moved = one.copy()
        moved.set_positions(one.positions + ways)
        return moved.positions - one.positions

    return len(atoms) == len(other) and np.allclose(gone(atoms), gone(other), rtol=0, atol=1e-3)
