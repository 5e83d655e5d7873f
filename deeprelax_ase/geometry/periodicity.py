"""In how many directions linked atoms repeat: the dimension of what they make up, whatever cell it is given in."""

from __future__ import annotations

from typing import NamedTuple

import torch

from deeprelax_ase.graph.shapes import (
    Batch,
    CellOffsets,
    CrystalCounts,
    CrystalFlags,
    EdgeAtoms,
    EdgeFlags,
    EdgeIndex,
    LatticeIndices,
)

#: Times that chains of labels are halved in a round. Longer ones are followed in the next round.
_HALVINGS = 4


class Periodicity(NamedTuple):
    """In which directions the linked atoms of G crystals repeat.

    Attributes:
        rank: (G,) int64, in how many: 3 of a crystal, 2 of a layer, 1 of a wire, 0 of a molecule.
        indices: (G, 3) int64, Miller indices (hkl) of a layer's plane, without a common factor; zero for all others.
    """

    rank: CrystalCounts
    indices: LatticeIndices


def periodicity(edge_index: EdgeIndex, cell_offsets: CellOffsets, batch: Batch, size: int) -> Periodicity:
    """The periodicity of what the edges link, in whole numbers: exact, and the same for any choice of the cell.

    Atoms that are linked with an image of their own by a chain of edges repeat by the lattice vector that leads there.
    The lattice vectors of all such chains of a crystal span one, two or three directions (Larsen, Pandey, Strange and
    Jacobsen, Phys. Rev. Materials 3, 034003 (2019), look at each linked part for itself).

    Args:
        edge_index: (2, E) sources j and destinations i of the links; each may stand there in one direction or in both.
        cell_offsets: (E, 3) cell of atom j.
        batch: (N,) the crystal of each atom, ascending.
        size: G.
    """
    source, destination = edge_index
    closing = _closing_vectors(source, destination, cell_offsets, len(batch))
    crystal = batch[destination]

    first, any_first = _last_where((closing != 0).any(dim=1), closing, crystal, size)
    normals = _cross(first[crystal], closing)
    second, any_second = _last_where((normals != 0).any(dim=1), normals, crystal, size)
    out_of_plane = (second[crystal] * closing).sum(dim=1) != 0
    any_third = _last_where(out_of_plane, closing, crystal, size)[1]

    rank = any_first.long() + any_second.long() + any_third.long()
    divisor = torch.gcd(torch.gcd(second[:, 0], second[:, 1]), second[:, 2]).clamp_min(1)
    return Periodicity(rank, torch.where((rank == 2)[:, None], second // divisor[:, None], torch.zeros_like(second)))


def _closing_vectors(source: EdgeAtoms, destination: EdgeAtoms, offsets: CellOffsets, atoms: int) -> CellOffsets:
    """(E, 3) the lattice vector by which each edge closes a ring, in units of the cell; zero if it does not close one.

    Atom i stands for itself at first. Then each round joins linked groups: who stands for a group is linked to the
    lowest atom that stands for a neighbouring group, and all note in which cell they find it.
    """
    numbers, edges = torch.arange(atoms, device=offsets.device), torch.arange(len(source), device=offsets.device)
    root, image = numbers, offsets.new_zeros(atoms, 3)
    never = atoms * max(len(source), 1)
    while True:
        here, there = root[destination], root[source]
        between = offsets + image[source] - image[destination]  # `there` lies in that cell, as seen from `here`
        if torch.equal(here, there):  # waits for the device
            return between
        low, high = torch.minimum(here, there), torch.maximum(here, there)
        wish = torch.where(low < high, low * len(source) + edges, never)
        best = torch.full_like(root, never).scatter_reduce(0, high, wish, "amin")
        joins = best < never
        edge = torch.where(joins, best % len(source), 0)
        parent = torch.where(joins, best // len(source), numbers)
        way = torch.where(here[edge] > there[edge], 1, -1) * joins
        step = between[edge] * way[:, None]
        for _ in range(_HALVINGS):
            step, parent = step + step[parent], parent[parent]
        root, image = parent[root], image + step[root]


def _cross(left: CellOffsets, right: CellOffsets) -> CellOffsets:
    """Cross products of whole numbers, which not every device's own can."""
    ahead, behind = [1, 2, 0], [2, 0, 1]
    return left[:, ahead] * right[:, behind] - left[:, behind] * right[:, ahead]


def _last_where(
    chosen: EdgeFlags, vectors: CellOffsets, crystal: EdgeAtoms, size: int
) -> tuple[LatticeIndices, CrystalFlags]:
    """Of each crystal the vector (G, 3) of its last edge that is ``chosen``, zero if none is; and whether one is."""
    edges = torch.where(chosen, torch.arange(1, len(chosen) + 1, device=chosen.device), 0)
    last = edges.new_zeros(size).scatter_reduce(0, crystal, edges, "amax")
    found = last > 0
    padded = torch.cat([vectors.new_zeros(1, 3), vectors])
    return padded[last], found
