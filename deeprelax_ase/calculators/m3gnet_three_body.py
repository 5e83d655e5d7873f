"""M3GNet's sums over angles, as MatGL 2 takes them, without a list of the angles.

For a bond s of atom i, the network sums over the other bonds d of this atom within 4 Å a function of the angle times a
vector that belongs to d. The function is a Legendre polynomial, which is a sum of products of spherical harmonics of s
and of d. So bonds are summed up atom by atom once, and each bond reads the sum: the work grows with bonds, not angles.

MatGL 2 numbers the bonds within 4 Å among themselves but looks their numbers up among all bonds within 5 Å. The k-th
bond within 4 Å of a crystal so takes its angle from itself, and its weight and the atom at its end from the crystal's
k-th bond of all, which is also the one that is updated. The stored weights were trained so, and the stored potential is
what comes of it: the right bonds would give another, off by up to 1e-3 eV/Å. Energies and forces thus depend on the
order in which bonds are listed, by up to 5e-5 eV an atom and 1e-3 eV/Å on crystals of our data.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from deeprelax_ase.graph.edges import row_starts
from deeprelax_ase.graph.shapes import (
    AngularBasis,
    AtomFeatures,
    Batch,
    EdgeAtoms,
    EdgeFeatures,
    EdgeFlags,
    Lengths,
)

#: The harmonics of each order, among nine.
_ORDERS = (slice(0, 1), slice(1, 4), slice(4, 9))


class ThreeBodyEdges(NamedTuple):
    """Input of the sums over angles for each edge; edges longer than 4 Å contribute nothing.

    Attributes:
        centers: (E,) int64, the atom whose angles are meant.
        ends: (E,) int64, the atom whose features multiply the edge's radial functions.
        targets: (E,) int64, the edge that receives the sum.
        radial: (E, 9) weighted radial functions, three of each order.
        angular: (E, 9) spherical harmonics.
        weights: (E,) of the edge as it receives.
    """

    centers: EdgeAtoms
    ends: EdgeAtoms
    targets: EdgeAtoms
    radial: EdgeFeatures
    angular: AngularBasis
    weights: Lengths


def three_body_sums(edges: ThreeBodyEdges, atoms: AtomFeatures) -> EdgeFeatures:
    """(E, 9) for each edge the sum over the other edges of its centre, three radial functions of each order.

    Args:
        edges: see there.
        atoms: (N, 9) features, which multiply the radial functions of the edges that end there.
    """
    values = edges.radial * atoms.index_select(0, edges.ends)
    angular = edges.angular[:, :, None]
    parts = [angular[:, m] * values[:, None, 3 * order : 3 * order + 3] for order, m in enumerate(_ORDERS)]
    products = torch.cat(parts, dim=1)  # (E, 9, 3)
    sums = products.new_zeros(len(atoms), 9, 3).index_add(0, edges.centers, products).index_select(0, edges.centers)
    sums = angular * (sums - products)  # the edge itself makes no angle
    received = torch.cat([sums[:, m].sum(dim=1) for m in _ORDERS], dim=1)
    return torch.zeros_like(values).index_add(0, edges.targets, received * edges.weights[:, None])


@torch.no_grad()
def three_body_places(
    listed: EdgeFlags, near: EdgeFlags, centers: EdgeAtoms, batch: Batch, crystals: int
) -> tuple[EdgeAtoms, EdgeAtoms]:
    """Find for each near edge the one that gives its weight and end, and the one that receives its sum, as in MatGL 2.

    Args:
        listed: (E,) edges that MatGL lists at all, those within 5 Å.
        near: (E,) those of them within 4 Å.
        centers: (E,) int64, ascending.
        batch: (N,) int64, crystal of each atom.
        crystals: how many there are.

    Returns:
        two (E,) int64, edges; an edge that is not near has itself.
    """
    edges = torch.arange(len(centers), device=centers.device)
    crystal = batch.index_select(0, centers)
    starts = row_starts(crystal, crystals)[:-1]

    def before(flags: EdgeFlags) -> tuple[EdgeAtoms, EdgeAtoms]:
        """Count the flags that are set before each edge: in the batch up to its crystal, and in the crystal."""
        counts = torch.cat([starts.new_zeros(1), flags.cumsum(0)])
        first = counts.index_select(0, starts).index_select(0, crystal)
        return first, counts[:-1] - first

    first, rank = before(listed)
    # The edge of each rank among those listed; the others share a place that nobody reads.
    place = torch.where(listed, first + rank, len(edges))
    ranked = edges.new_zeros(len(edges) + 1).scatter(0, place, edges)
    _, number = before(near)
    bonds = starts.new_zeros(len(batch)).index_add(0, centers, near.long()).index_select(0, centers)
    angled = near & (bonds > 1)
    # MatGL counts receivers by where their angles start: bonds without angles are left out, but for the very first.
    lonely = (near & (number == 0) & (bonds == 1)).long()
    lead = starts.new_zeros(crystals).index_add(0, crystal, lonely).index_select(0, crystal)
    _, receiver = before(angled)
    places = torch.where(near, ranked[first + torch.where(near, number, 0)], edges)
    targets = torch.where(angled, ranked[first + torch.where(angled, receiver + lead, 0)], edges)
    return places, targets
