"""Checks of a prediction before it is handed out: no atoms may collide, and the cell may not have burst."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import ConstraintError, DeepRelaxError, UnphysicalPredictionError, VacuumError
from deeprelax_ase.geometry.contacts import Contact, closest_contact, colliding
from deeprelax_ase.geometry.vacuum import Vacuum, widest_gaps
from deeprelax_ase.graph import CrystalGraph
from deeprelax_ase.graph.crystal_graph import determinants
from deeprelax_ase.prediction.allowed_strain import TILTED

if TYPE_CHECKING:
    from deeprelax_ase.prediction.cell_freedom import CellFreedom
    from deeprelax_ase.prediction.record import Prediction

#: A cell whose volume a model multiplies by more than this, or divides by more, has burst or collapsed.
LARGEST_VOLUME_RATIO = 8.0


class Flaw(IntEnum):
    """Reason why there is no prediction of a crystal."""

    NONE = 0
    MOLECULE = 1
    WIRE = 2
    NOT_FINITE = 3
    VOLUME = 4
    COLLISION = 5
    TILTED = 6


def keep_physical(start: CrystalGraph, positions: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The crystals where they are given, or where they were if that is nowhere, so that one spoils no other's batch.

    Args:
        start: the unrelaxed crystals.
        positions: (N, 3) Å.
        cell: (G, 3, 3) Å.

    Returns:
        Positions and cell, and (G,) the :class:`Flaw` of each: none where they are finite, and the volume is within
        :data:`LARGEST_VOLUME_RATIO` of what it was.
    """
    ratio = determinants(cell) / determinants(start.cell)  # NaN where the cell holds any
    lost = (~torch.isfinite(positions).all(dim=1)).to(cell.dtype)
    finite = torch.isfinite(ratio) & (torch.zeros_like(ratio).index_add(0, start.batch, lost) == 0)
    sized = (ratio > 1 / LARGEST_VOLUME_RATIO) & (ratio < LARGEST_VOLUME_RATIO)
    flaws = torch.where(sized, int(Flaw.NONE), int(Flaw.VOLUME))
    flaws = torch.where(finite, flaws, int(Flaw.NOT_FINITE))
    sound = flaws == Flaw.NONE
    kept = torch.where(sound[start.batch, None], positions, start.positions)
    return kept, torch.where(sound[:, None, None], cell, start.cell), flaws


def flaws_of_contacts(numbers: Tensor, positions: Tensor, cell: Tensor, batch: Tensor) -> Tensor:
    """(G,) the flaw of crystals in which two atoms collide; see :func:`~deeprelax_ase.geometry.contacts.colliding`."""
    return torch.where(colliding(numbers, positions, cell, batch), int(Flaw.COLLISION), int(Flaw.NONE))


def first_flaws(*flaws: Tensor) -> Tensor:
    """(G,) of each crystal the first flaw among ``flaws``, each (G,), that is one."""
    found = flaws[0]
    for more in flaws[1:]:
        found = torch.where(found == Flaw.NONE, more, found)
    return found


def flaws_of_vacuum(vacuum: Vacuum) -> Tensor:
    """(G,) the flaw of molecules and wires, which no model here has learnt to relax."""
    molecule = torch.where(vacuum.directions == 3, int(Flaw.MOLECULE), int(Flaw.NONE))
    return torch.where(vacuum.directions == 2, int(Flaw.WIRE), molecule)


def flaws_of_freedom(freedom: CellFreedom) -> Tensor:
    """(G,) the flaw of layers whose plane lies along no Cartesian axes, where the strain's mask does."""
    return torch.where(freedom.tilted(), int(Flaw.TILTED), int(Flaw.NONE))


def refuse_vacuum(crystal: Crystal, vacuum: Vacuum) -> None:
    """Refuse a ``crystal`` for its ``vacuum`` before anything is computed for it.

    Raises:
        VacuumError: it is a molecule or a wire.
    """
    if int(vacuum.directions) > 1:  # asked first, as it is of every crystal
        raise VacuumError(_about_vacuum(Flaw(int(flaws_of_vacuum(vacuum))), crystal))


def flaw_error(flaw: int, prediction: Prediction, contacts: tuple[Contact, Contact] | None = None) -> DeepRelaxError:
    """The error that says why there is no ``prediction``, and what to do instead.

    Args:
        flaw: a :class:`Flaw`.
        prediction: that there would be.
        contacts: closest ones of its relaxed and its unrelaxed crystal, where they are known.
    """
    if flaw == Flaw.TILTED:
        return ConstraintError(TILTED)
    if flaw in (Flaw.MOLECULE, Flaw.WIRE):
        return VacuumError(_about_vacuum(Flaw(flaw), prediction.initial))
    if flaw == Flaw.COLLISION:
        contacts = contacts or (closest_contact(prediction.relaxed), closest_contact(prediction.initial))
        return UnphysicalPredictionError(_about_collision(prediction.model, *contacts))
    what = {
        Flaw.NOT_FINITE: "coordinates that are not finite",
        Flaw.VOLUME: f"a volume beyond {LARGEST_VOLUME_RATIO:g} times what it was, or below a "
        f"{LARGEST_VOLUME_RATIO:g}th. Bring the cell near to a sensible volume first",
    }[Flaw(flaw)]
    return UnphysicalPredictionError(
        f"{prediction.model} predicts no crystal here: {what}, or relax this crystal with a calculator and an ASE "
        "optimizer."
    )


def _about_collision(model: str, contact: Contact, before: Contact) -> str:
    """Name the atoms that collide, and say whether they did from the start."""
    mend = "Relax this crystal with a calculator and an ASE optimizer."
    if before.collides:
        mend = (
            f"Atoms {before.first} and {before.second} are {before.distance:.2f} Å apart from the start: take one of "
            "them out, or move them apart."
        )
    return (
        f"{model} predicts no crystal here: atoms {contact.first} and {contact.second} end "
        f"{contact.distance:.2f} Å apart, and relaxed crystals of their elements keep {contact.least:.2f} Å. {mend}"
    )


def _about_vacuum(flaw: Flaw, crystal: Crystal) -> str:
    """Describe the directions and the width of the vacuum."""
    fractional = torch.from_numpy(crystal.fractional_positions)
    batch = torch.zeros(len(crystal), dtype=torch.long)
    heights = 1 / np.linalg.norm(np.linalg.inv(crystal.cell), axis=0)
    gaps = widest_gaps(fractional, batch, 1).squeeze(0).tolist()
    gaps = [share * height for share, height in zip(gaps, heights, strict=True)]
    along = ", ".join(f"{gap:.1f} Å along {axis}" for gap, axis in zip(gaps, "abc", strict=True))
    kind, directions = ("a molecule", "all three") if flaw == Flaw.MOLECULE else ("a wire", "two")
    return (
        f"the atoms are {kind}: there is vacuum around them in {directions} directions (empty: {along}), and no model "
        "here has learnt to relax that. Relax them with a calculator and an ASE optimizer. If they are a crystal, "
        "check the lengths of the cell and the unit of the positions (Å)."
    )
