"""Reasons to doubt a prediction by the geometry of its crystal alone: models do not know crystals like it.

The network's own features tell novelty too, see :mod:`deeprelax_ase.uncertainty.novelty`. The reasons here hold for all
models, and name the problem.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.geometry.contacts import Contact, closest_contacts
from deeprelax_ase.prediction.inference import BatchRelaxation

#: Of molecules, chains, layers far apart and slabs, see :class:`~deeprelax_ase.geometry.vacuum.Vacuum`. How far
#: predictions of the first three are off stands in ``benchmarks/geometry_limits.md``.
_REASONS = (
    "it is made of molecules or atoms that do not touch, and how far apart they come to lie is hardly learnt",
    "it is made of chains that do not touch, and how far apart they come to lie is hardly learnt",
    "it is made of thick layers that are far apart for a crystal's, or is a slab with little vacuum",
    "it is a slab, and the model has learnt none",
    "it is a slab whose cell is to move, and the model has learnt slabs in kept cells",
)


def doubts_of(crystals: Sequence[Crystal], relaxation: BatchRelaxation, *, knows_slabs: bool) -> list[str]:
    """Find the reason to doubt each of the unrelaxed ``crystals``; empty where there is none.

    Args:
        crystals: G unrelaxed ones.
        relaxation: of them.
        knows_slabs: whether the model has learnt slabs, whose cells are kept.
    """
    vacuum = relaxation.vacuum
    slabs = vacuum.slabs & (not knows_slabs), vacuum.slabs & ~relaxation.fixed_cell
    flags = (relaxation.crowded, vacuum.molecular, vacuum.stringy, vacuum.parted, *slabs)
    told = torch.stack(flags, dim=1).cpu()
    doubts = [""] * len(crystals)
    crowded = told[:, 0].nonzero().squeeze(1).tolist()
    for place in (told.any(dim=1) & ~told[:, 0]).nonzero().squeeze(1).tolist():
        doubts[place] = _REASONS[int(told[place, 1:].int().argmax())]
    for place, contact in zip(crowded, closest_contacts([crystals[g] for g in crowded]), strict=True):
        doubts[place] = _crowded(contact)
    return doubts


def _crowded(contact: Contact) -> str:
    return (
        f"its atoms {contact.first} and {contact.second} are {contact.distance:.2f} Å apart from the start, nearer "
        "than in any crystal that the model has learnt from"
    )
