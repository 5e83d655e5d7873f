"""Checks of a crystal that need its distances: overlapping and isolated atoms.

Everything that can be told without distances is checked by :func:`deeprelax_ase.crystal.validate`. These functions
read results back from the device: skip them where the crystals are known to be sound, as in training.
"""

from __future__ import annotations

import math

import torch

from deeprelax_ase.errors import IsolatedAtomError, OverlappingAtomsError
from deeprelax_ase.graph.crystal_graph import determinants
from deeprelax_ase.graph.edges import NeighborList, row_starts
from deeprelax_ase.graph.shapes import Batch, Cells, Destinations

#: Å. Atoms nearer than this are an error of the input: the shortest bond of all, that of H2, measures 0.74 Å.
MIN_DISTANCE = 0.5

#: Å³ per atom. Not even the densest packing of spheres, pi / sqrt(18), gets spheres of diameter MIN_DISTANCE below it.
MIN_VOLUME = MIN_DISTANCE**3 / math.sqrt(2)

#: Å³ per atom, below which a crystal has collapsed under its potential: hydrogen, the densest, keeps 1 Å³ at hundreds
#: of GPa. Long before :data:`MIN_VOLUME` a potential lists so many neighbours that it never ends, or fills the memory.
COLLAPSED = 0.5

#: Å across the thinnest direction of a cell, below which a potential lists neighbours without an end, for any volume.
FLAT = 0.05


def check_density(cell: Cells, batch: Batch) -> None:
    """Refuse cells so small that atoms must overlap, before their endless neighbours are listed.

    Args:
        cell: (G, 3, 3) Å.
        batch: (N,) int64, the crystal of each atom, ascending.

    Raises:
        OverlappingAtomsError: too little volume for the number of atoms.
    """
    starts = row_starts(batch, len(cell))
    counts = starts[1:] - starts[:-1]
    volumes = determinants(cell.double()).abs()
    crowded = (volumes < MIN_VOLUME * counts).nonzero().squeeze(1)
    if len(crowded):
        worst = int(crowded[0])
        raise OverlappingAtomsError(
            f"{_prefix(worst, len(cell))}{int(counts[worst])} atom(s) in a cell of {float(volumes[worst]):.3g} Å³ must "
            f"be nearer than {MIN_DISTANCE} Å to each other or to their images. Check the lengths of the cell and "
            "their unit (Å)."
        )


def check_distances(
    neighbors: NeighborList, batch: Batch, destinations: Destinations | None = None, *, cutoff: float
) -> None:
    """Refuse crystals whose distances no relaxation can start from.

    Args:
        neighbors: every pair within the cutoff.
        batch: (N,) int64, the crystal of each atom, ascending.
        destinations: ascending atoms i that ``neighbors`` were listed of; all by default.
        cutoff: Å, for the message.

    Raises:
        OverlappingAtomsError: two atoms, or an atom and its own image, are nearer than :data:`MIN_DISTANCE`.
        IsolatedAtomError: an atom has no neighbour within the cutoff, not even an image of its own.
    """
    close = (neighbors.distances < MIN_DISTANCE).nonzero().squeeze(1)
    if len(close):
        raise OverlappingAtomsError(_overlap(neighbors, int(close[0]), batch))
    if destinations is None:
        destinations = torch.arange(len(batch), device=batch.device)
    alone = destinations[~torch.isin(destinations, neighbors.destination)]
    if len(alone):
        raise IsolatedAtomError(_isolation(alone, batch, cutoff))


def _overlap(neighbors: NeighborList, pair: int, batch: Batch) -> str:
    i, j = int(neighbors.destination[pair]), int(neighbors.source[pair])
    offset, distance = neighbors.offsets[pair].tolist(), float(neighbors.distances[pair])
    crystal, first = _locate(batch, i)
    prefix = _prefix(crystal, int(batch[-1]) + 1)
    other = "its own image" if i == j else f"atom {j - first}"
    where = f" in the neighbouring cell {offset}" if any(offset) else ""
    return (
        f"{prefix}atom {i - first} and {other}{where} are {distance:.3f} Å apart, less than {MIN_DISTANCE} Å. Remove "
        "duplicate atoms (ase.geometry.get_duplicate_atoms finds them), or check the lengths of the cell and the unit "
        "of the positions (Å)."
    )


def _isolation(alone: Destinations, batch: Batch, cutoff: float) -> str:
    crystal, first = _locate(batch, int(alone[0]))
    atoms = (alone[batch[alone] == crystal] - first).tolist()
    named = f"atom {atoms[0]} has" if len(atoms) == 1 else f"atoms {atoms[:5]}{' and more' * (len(atoms) > 5)} have"
    return (
        f"{_prefix(crystal, int(batch[-1]) + 1)}{named} no neighbour within {cutoff} Å. The model knows dense "
        "crystals: take out the vacuum, or check the lengths of the cell and the unit of the positions (Å)."
    )


def _prefix(crystal: int, count: int) -> str:
    """Names the crystal where there are several."""
    return f"crystal {crystal}: " if count > 1 else ""


def _locate(batch: Batch, atom: int) -> tuple[int, int]:
    """The crystal of ``atom`` and the first atom of that crystal."""
    crystal = batch[atom]
    return int(crystal), int(torch.searchsorted(batch, crystal))
