"""Shortest distances of two atoms in relaxed crystals: atoms that are nearer have collided."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.graph import CrystalGraph, edge_batch
from deeprelax_ase.graph.crystal_graph import determinants
from deeprelax_ase.graph.edges import row_starts
from deeprelax_ase.graph.shapes import (
    Batch,
    Cells,
    CrystalFlags,
    Flags,
    Lengths,
    Numbers,
    PerCrystal,
    Positions,
    Values,
)
from deeprelax_ase.graph.torch_builder import batch_tensors, listed_pairs

#: Å, of each element, hydrogen to oganesson: Cordero et al., Dalton Trans. 2832 (2008), as ASE has them, which says 0.2
#: where nothing is known. Here too, as networks are trained where ASE is not installed.
# fmt: off
COVALENT_RADII = (
    0.31, 0.28, 1.28, 0.96, 0.84, 0.76, 0.71, 0.66, 0.57, 0.58, 1.66, 1.41, 1.21, 1.11, 1.07, 1.05, 1.02, 1.06,
    2.03, 1.76, 1.7, 1.6, 1.53, 1.39, 1.39, 1.32, 1.26, 1.24, 1.32, 1.22, 1.22, 1.2, 1.19, 1.2, 1.2, 1.16, 2.2,
    1.95, 1.9, 1.75, 1.64, 1.54, 1.47, 1.46, 1.42, 1.39, 1.45, 1.44, 1.42, 1.39, 1.39, 1.38, 1.39, 1.4, 2.44,
    2.15, 2.07, 2.04, 2.03, 2.01, 1.99, 1.98, 1.98, 1.96, 1.94, 1.92, 1.92, 1.89, 1.9, 1.87, 1.87, 1.75, 1.7,
    1.62, 1.51, 1.44, 1.41, 1.36, 1.36, 1.32, 1.45, 1.46, 1.48, 1.4, 1.5, 1.5, 2.6, 2.21, 2.15, 2.06, 2, 1.96,
    1.9, 1.87, 1.8, 1.69, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2,
)
# fmt: on

#: Of each element, hydrogen to curium, the shortest distance to any other atom in relaxed crystals, as a share of the
#: sum of their covalent radii: the least of all training crystals of ``pairs_*.npz``, as
#: ``benchmarks/geometry_limits.py`` measures it. Zero for elements that are not among them:
#: the least of all counts for those.
# fmt: off
NEAREST = (
    0.781, 0, 0.635, 0.776, 0.783, 0.699, 0.653, 0.647, 0.775, 0, 0.653, 0.719, 0.774, 0.801, 0.787, 0.778,
    0.788, 0, 0.627, 0.677, 0.636, 0.633, 0.584, 0.606, 0.596, 0.618, 0.638, 0.708, 0.761, 0.826, 0.787, 0.789,
    0.794, 0.727, 0.733, 0, 0.593, 0.652, 0.691, 0.632, 0.653, 0.629, 0.632, 0.63, 0.653, 0.729, 0.788, 0.754,
    0.799, 0.794, 0.764, 0.782, 0.745, 0, 0.571, 0.626, 0.64, 0.596, 0.665, 0.685, 0.673, 0.643, 0.676, 0.672,
    0.683, 0.692, 0.679, 0.704, 0.689, 0.679, 0.679, 0.647, 0.662, 0.636, 0.658, 0.677, 0.702, 0.743, 0.749,
    0.799, 0.728, 0.776, 0.724, 0, 0, 0, 0, 0, 0.643, 0.65, 0.615, 0.59, 0.602, 0.595, 0, 0,
)
# fmt: on

#: Atomic numbers of the elements that are no metals, some half-metals such as boron and tellurium among them; and 0.
NO_METALS = (0, 1, 2, *range(5, 11), *range(15, 19), *range(33, 37), *range(51, 55), 85, 86)

#: Atomic numbers of the metals of salts: alkali metals and alkaline earths.
SALT_METALS = (3, 4, 11, 12, 19, 20, 37, 38, 55, 56, 87, 88)

#: Share of :data:`NEAREST` below which atoms have collided: a prediction may be off by some hundredths of an Å.
TOLERATED = 0.9

#: Share of :data:`NEAREST` below which atoms of an unrelaxed crystal are nearer than in any training crystal before it
#: was relaxed, see there.
CROWDED = 0.67

#: Å, by which van der Waals radii exceed covalent ones; Pauling, The Nature of the Chemical Bond (1960), section 7-12.
VAN_DER_WAALS = 0.8

#: Å between the covalent spheres of two atoms, up to which they are bonded.
BONDED = 0.4


def colliding(numbers: Numbers, positions: Positions, cell: Cells, batch: Batch) -> CrystalFlags:
    """(G,) bool, in which crystals two atoms are nearer than :data:`TOLERATED` of what relaxed crystals keep.

    Of two elements, the one with the larger share of the radii counts: no relaxed crystal has less of either.

    Args:
        numbers: (N,) atomic numbers.
        positions: (N, 3) Å.
        cell: (G, 3, 3) Å.
        batch: (N,) the crystal of each atom, ascending.
    """
    limits = TOLERATED * nearest_kept().to(positions)
    found = torch.zeros_like(cell[:, 0, 0])
    for _, pairs in listed_pairs(positions, cell, batch, cutoff=_reach()):
        near = pairs.distances < limits[numbers[pairs.destination], numbers[pairs.source]]
        found = found.index_add(0, batch[pairs.destination], near.to(found))
    return found > 0


def crowded(graph: CrystalGraph, lengths: Lengths) -> CrystalFlags:
    """(G,) bool, in which unrelaxed crystals atoms are nearer than in any that models have learnt from.

    Args:
        graph: the unrelaxed crystals.
        lengths: (E,) Å, of its edges.
    """
    limits = CROWDED * nearest_kept().to(lengths)
    near = lengths < limits[graph.numbers[graph.edge_index[0]], graph.numbers[graph.edge_index[1]]]
    return torch.zeros_like(graph.cell[:, 0, 0]).index_add(0, edge_batch(graph), near.to(graph.cell)) > 0


class Contact(NamedTuple):
    """The two atoms of a crystal that are nearest to a collision, or furthest into one.

    Attributes:
        first, second: their places in the crystal; the same for an atom and its own image.
        distance: Å.
        least: Å, what relaxed crystals of their elements keep.
    """

    first: int
    second: int
    distance: float
    least: float

    @property
    def collides(self) -> bool:
        """Whether they are nearer than :data:`TOLERATED` of that."""
        return self.distance < TOLERATED * self.least


def closest_contact(crystal: Crystal) -> Contact:
    """The atoms of ``crystal`` that are nearest to a collision; infinitely far apart where none are near."""
    return closest_contacts([crystal])[0]


def closest_contacts(crystals: Sequence[Crystal]) -> list[Contact]:
    """:func:`closest_contact` of each of the ``crystals``, all together."""
    if not crystals:
        return []
    numbers, positions, cell, batch = batch_tensors(crystals)
    starts, limits = row_starts(batch, len(crystals)).tolist(), nearest_kept()
    nearest = [(float("inf"), Contact(0, 0, float("inf"), 0.0)) for _ in crystals]
    for _, pairs in listed_pairs(positions, cell, batch, cutoff=float(limits.max())):
        ratios = pairs.distances / limits[numbers[pairs.destination], numbers[pairs.source]]
        owner = batch[pairs.destination]
        least = ratios.new_full((len(crystals),), float("inf")).scatter_reduce(0, owner, ratios, "amin")
        worst = (ratios == least[owner]).nonzero().squeeze(1)
        worst = worst[owner[worst].diff(prepend=owner.new_full((1,), -1)) > 0]  # the first one in each crystal
        ends = (part[worst].tolist() for part in (owner, pairs.destination, pairs.source, pairs.distances, ratios))
        for g, i, j, distance, ratio in zip(*ends, strict=True):
            if ratio < nearest[g][0]:
                first, second = sorted((i - starts[g], j - starts[g]))
                nearest[g] = ratio, Contact(first, second, distance, distance / ratio)
    return [contact for _, contact in nearest]


def sphere_gaps(graph: CrystalGraph, lengths: Lengths) -> Lengths:
    """(E,) Å, between the covalent spheres of the ends of edges of these ``lengths``; negative where they overlap."""
    radii = covalent_radii().to(lengths)[graph.numbers]
    return lengths - radii[graph.edge_index].sum(dim=0)


def packing(graph: CrystalGraph, lengths: Lengths) -> PerCrystal:
    """(G,) share of the cell that van der Waals spheres fill, :data:`VAN_DER_WAALS` larger than covalent ones.

    Where bonds hold two spheres together, their overlap counts once. Meant for crystals of molecules: in others more
    than two spheres overlap.

    Args:
        graph: G crystals.
        lengths: (E,) Å, of its edges.
    """
    cell, edges, lengths = graph.cell.double(), graph.edge_index, lengths.double()
    radii = covalent_radii().to(lengths)[graph.numbers] + VAN_DER_WAALS
    filled = torch.zeros_like(cell[:, 0, 0]).index_add(0, graph.batch, 4 / 3 * torch.pi * radii**3)
    bonded = (sphere_gaps(graph, lengths) <= BONDED).nonzero().squeeze(1)
    one, other = radii[edges[:, bonded]]
    apart = lengths[bonded]
    # the lens of two spheres; each bond is in the graph from both ends
    lens = apart**2 + 2 * apart * (one + other) - 3 * (one - other) ** 2
    lens = torch.pi * (one + other - apart) ** 2 * lens / (12 * apart)
    owner = graph.batch[edges[1, bonded]]
    return filled.index_add(0, owner, -lens / 2) / determinants(cell).abs()


@cache
def metallic() -> Flags:
    """(Z,) bool by atomic number, whether it is a metal's; false at 0."""
    flags = torch.ones(len(COVALENT_RADII) + 1, dtype=torch.bool)
    flags[list(NO_METALS)] = False
    return flags


@cache
def salt_metals() -> Flags:
    """(Z,) bool by atomic number, whether it is among :data:`SALT_METALS`; false at 0."""
    flags = torch.zeros(len(COVALENT_RADII) + 1, dtype=torch.bool)
    flags[list(SALT_METALS)] = True
    return flags


@cache
def covalent_radii() -> Values:
    """(Z,) Å, :data:`COVALENT_RADII` by atomic number; zero at 0, which is no element's."""
    return torch.tensor((0.0, *COVALENT_RADII), dtype=torch.float64)


@cache
def nearest_kept() -> Values:
    """(Z, Z) Å by atomic numbers, what relaxed crystals keep; of elements that are not among them, the least share."""
    radii = covalent_radii()
    shares = torch.zeros_like(radii)
    shares[1 : len(NEAREST) + 1] = torch.tensor(NEAREST, dtype=shares.dtype)
    shares = torch.where(shares > 0, shares, shares[shares > 0].min())
    return torch.maximum(shares[:, None], shares) * (radii[:, None] + radii)


@cache
def _reach() -> float:
    """Å, beyond which no two atoms have collided."""
    return TOLERATED * float(nearest_kept().max())
