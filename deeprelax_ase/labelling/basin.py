"""Whether a relaxation stayed in the basin that it began in, so that a network can learn it from where it began."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deeprelax_ase.data import MATCH_KINDS, MatchError, PairDataset, match
from deeprelax_ase.data.checks import AT_REST, suspicions
from deeprelax_ase.data.readers import RawPair
from deeprelax_ase.labelling.relaxation import Relaxation

#: Reason for those of which another mapping of the atoms fits better than the one that the relaxation went.
OTHER_MAPPING = "atoms took each other's places, or other lattice vectors fit better"

__all__ = ["AT_REST", "OTHER_MAPPING", "objections"]


def objections(relaxations: Sequence[Relaxation]) -> list[str | None]:
    """Of each relaxation the reason for not learning from it; None where there is none.

    The limits are those of ``deeprelax data check``, for volume, displacements, distances and swapped atoms
    (:mod:`deeprelax_ase.data.checks`), so that it finds nothing to look into in what is left. And the relaxed crystal,
    matched anew, must be nearest as it is.
    """
    if not relaxations:
        return []
    raw = (RawPair("", one.initial, one.relaxed, "train", in_order=True) for one in relaxations)
    masks = suspicions(PairDataset.of(raw).pairs)
    found: list[str | None] = [None] * len(relaxations)
    for reason, mask in masks.items():
        for place in mask.nonzero().squeeze(1).tolist():
            found[place] = found[place] or reason
    return [reason or _mapped_otherwise(one) for reason, one in zip(found, relaxations, strict=True)]


def _mapped_otherwise(one: Relaxation) -> str | None:
    try:
        same = match(one.initial, one.relaxed).how == MATCH_KINDS[0]
    except (MatchError, np.linalg.LinAlgError):
        same = False
    return None if same else OTHER_MAPPING
