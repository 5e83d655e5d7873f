"""The distances that the geometry solver has to meet, and the pull that unmet ones exert on the atoms.

Everything here is laid out for speed: a batch of G crystals takes some twenty small tensor operations per evaluation,
coordinates run along the first axis, and every buffer is allocated once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from deeprelax_ase.geometry.quantities import RelaxationQuantities
from deeprelax_ase.graph.crystal_graph import CrystalGraph, edge_batch
from deeprelax_ase.graph.shapes import AtomFlags, Batch, Columns, EdgeAtoms, Lengths, TermLengths, Terms, TermShifts

#: Å. Two points nearer than this have no direction to each other: their distance pulls with less than its full weight,
#: and not at all where they coincide.
_SHORTEST = 1e-12


@dataclass(frozen=True, eq=False)
class DistanceTerms:
    """The terms of eq. (20) that depend on the positions, all in one list.

    The first E' terms are edges, of length ``|r_source - r_destination + shift|``; the others are in-cell pairs, whose
    length is measured from a fixed anchor, ``|r_source + shift|`` with the anchor in the shift. Edges between an atom
    and its own images are left out: the cell alone sets their length.

    Attributes:
        source: (T,) int64, atom j of each term.
        destination: (E',) int64, atom i of the edges.
        shifts: (3, T) Å, ``k L`` of an edge, minus the anchor of atom i for an in-cell pair.
        lower: (T,) Å, lower bounds.
        upper: (T,) Å, upper bounds.
        batch: (N,) int64, the crystal of each atom.
    """

    source: Terms
    destination: EdgeAtoms
    shifts: TermShifts
    lower: TermLengths
    upper: TermLengths
    batch: Batch


def distance_terms(graph: CrystalGraph, quantities: RelaxationQuantities, *, bound_scale: float = 1.0) -> DistanceTerms:
    """The terms of a batch of crystals, in the floating-point type of ``quantities``."""
    source, destination = graph.edge_index
    pair_source, pair_destination = graph.edge_index[:, graph.in_cell]
    edges = (source != destination).nonzero().squeeze(1)
    offsets = graph.cell_offsets[edges].to(quantities.cell)
    shifts = torch.einsum("ek,ekx->xe", offsets, quantities.cell[edge_batch(graph)[edges]])
    edge_bounds = distance_bounds(quantities.distances, quantities.distance_scales, bound_scale=bound_scale)
    pair_bounds = distance_bounds(quantities.displacements, quantities.displacement_scales, bound_scale=bound_scale)
    lower, upper = (torch.cat([e[edges], p]) for e, p in zip(edge_bounds, pair_bounds, strict=True))
    return DistanceTerms(
        source=torch.cat([source[edges], pair_source]),
        destination=destination[edges],
        shifts=torch.cat([shifts, -quantities.anchors[pair_destination].T], dim=1),
        lower=lower,
        upper=upper,
        batch=graph.batch,
    )


def select_atoms(terms: DistanceTerms, kept: AtomFlags) -> DistanceTerms:
    """The terms of some crystals alone: those whose atoms are ``kept``, (N,) bool; the crystals keep their numbers."""
    number = kept.cumsum(0) - 1
    keep = kept[terms.source]
    keep_edges = keep[: len(terms.destination)]
    return replace(
        terms,
        source=number[terms.source[keep]],
        destination=number[terms.destination[keep_edges]],
        shifts=terms.shifts[:, keep],
        lower=terms.lower[keep],
        upper=terms.upper[keep],
        batch=terms.batch[kept],
    )


class PullEvaluator:
    """Evaluates the pull on the atoms for one list of terms, in buffers of its own.

    The pull is the gradient of the bounded loss (20): each distance outside its bounds adds a unit vector along
    itself. Within ``softness`` Å of a bound that vector fades in linearly, because a gradient that jumps at the bound
    would let rounding decide on which side of it atoms bounce.
    """

    def __init__(self, terms: DistanceTerms) -> None:
        atoms, count, edges = len(terms.batch), len(terms.source), len(terms.destination)
        self.terms = terms
        axes = atoms * torch.arange(3, device=terms.source.device)[:, None]
        self._index = torch.cat([(axes + terms.source).reshape(-1), (axes + terms.destination).reshape(-1)])
        ends = terms.shifts.new_empty(3 * (count + edges))
        self._ends = ends
        self._vectors, self._destination_ends = ends[: 3 * count].view(3, count), ends[3 * count :].view(3, edges)
        self._edge_vectors = self._vectors[:, :edges]
        self._squares = torch.empty_like(self._vectors)
        self._lengths = terms.shifts.new_empty(1, count)
        self._excess = torch.empty_like(self._lengths)
        pulls = torch.empty_like(ends)
        self._pulls = pulls
        self._source_pulls, self._destination_pulls = pulls[: 3 * count].view(3, count), pulls[3 * count :].view(3, -1)
        self._edge_pulls = self._source_pulls[:, :edges]
        self._ones = terms.shifts.new_ones(1, 3)
        self._total = terms.shifts.new_empty(3, atoms)

    def __call__(self, positions: Columns, softness: float) -> Columns:
        """(3, N) the pull on each atom at ``positions`` (3, N); the next call overwrites it."""
        vectors, lengths, excess = self._vectors, self._lengths, self._excess
        torch.index_select(positions.view(-1), 0, self._index, out=self._ends)
        self._edge_vectors.sub_(self._destination_ends)
        vectors.add_(self.terms.shifts)
        torch.mul(vectors, vectors, out=self._squares)
        torch.mm(self._ones, self._squares, out=lengths).sqrt_()  # several times faster than sum or norm along axis 0
        torch.clamp(lengths, self.terms.lower, self.terms.upper, out=excess)
        torch.sub(lengths, excess, out=excess)
        excess.mul_(1 / softness).clamp_(-1, 1).div_(lengths.clamp_min_(_SHORTEST))
        torch.mul(vectors, excess, out=self._source_pulls)
        torch.neg(self._edge_pulls, out=self._destination_pulls)
        # A flat scatter_add is an order of magnitude faster on the CPU than index_add along an axis.
        self._total.zero_().view(-1).scatter_add_(0, self._index, self._pulls)
        return self._total


def distance_bounds(distances: Lengths, scales: Lengths, *, bound_scale: float = 1.0) -> tuple[Lengths, Lengths]:
    """Lower and upper bounds ``d - s b`` and ``d + s b``, eqs. (18)-(19); no lower bound is negative.

    Args:
        distances: (E,) Å, predicted distances d.
        scales: (E,) Å, their Laplace scales ``b = exp(u)``, not logarithms; zero makes the bounds coincide.
        bound_scale: s, the half-width of the bounds in scales; the paper's is 1.

    Returns:
        Two tensors (E,), Å.
    """
    half_widths = bound_scale * scales
    return (distances - half_widths).clamp_min(0), distances + half_widths


def bounded_euclidean_distance_loss(lengths: Lengths, lower: Lengths, upper: Lengths) -> Lengths:
    """(E,) Å, by how much each length falls outside its bounds: the terms of eq. (20), before they are summed."""
    return torch.relu(lengths - upper) + torch.relu(lower - lengths)
