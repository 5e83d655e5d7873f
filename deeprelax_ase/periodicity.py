"""In which directions a crystal repeats."""

from __future__ import annotations

from typing import Any

import numpy as np

from deeprelax_ase.errors import BrokenStructureError

#: Words for whether a direction repeats.
_TRUTHS = {"t": True, "true": True, "1": True, "f": False, "false": False, "0": False}


def periodic_directions(pbc: Any) -> np.ndarray:
    """(3,) bool, whether each direction repeats, of one value or three, or of words for them.

    Raises:
        BrokenStructureError: of a direction it is not told.
    """
    words = pbc.split() if isinstance(pbc, str) else pbc
    given = np.array(words if np.ndim(words) else [words] * 3)
    if given.dtype.kind in "US":
        given = np.array([_TRUTHS.get(word.lower()) for word in given.tolist()] * (3 if given.size == 1 else 1))
    given = given.reshape(3)
    if given.dtype != bool and any(one is None or one != one for one in given.tolist()):
        told = np.ravel(np.array(pbc, dtype=object)).tolist()
        raise BrokenStructureError(
            f"pbc={told} does not say of every direction whether it repeats: write true or false three times"
        )
    return given.astype(bool)


def plane_normal(pbc: np.ndarray, cell: np.ndarray) -> np.ndarray | None:
    """(3,) unit vector out of the plane in which a ``cell`` (3, 3) repeats in two directions; None for all others."""
    periodic = np.asarray(pbc, dtype=bool)
    if periodic.sum() != 2:
        return None
    normal = np.cross(*cell[periodic])
    length = np.linalg.norm(normal)
    return normal / length if length > 0 else None
