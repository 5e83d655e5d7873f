"""Nearest periodic images of atoms, for comparisons of two crystals."""

from __future__ import annotations

import torch
from torch import Tensor

from deeprelax_ase.graph.crystal_graph import crystal_mean, rows_times_matrices
from deeprelax_ase.graph.shapes import (
    AtomSuperbases,
    Batch,
    Cells,
    CrystalCounts,
    CrystalFlags,
    PerCrystal,
    Positions,
    Superbases,
)

#: Pairs of the four vectors of a superbase.
_PAIRS = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))

#: Sums of the four vectors (15, 4), over any of them but not all. The first row sums none.
_SUMS = torch.tensor([[bits >> k & 1 for k in range(4)] for bits in range(15)])

#: Å². A sum of squares that is lower by less than this is rounding.
_LEAST = 1e-9

#: Atoms of a crystal, at most, that are tried as the one that did not move.
_REFERENCES = 64

#: Rounds of each search at most. Each round shortens the displacements, and few are taken.
_ROUNDS = 100


def nearest_displacements(difference: Positions, cell: Cells, batch: Batch) -> Positions:
    """Displacements less their mean, to the images that make the sum of their squares the least; (N, 3) Å.

    Neither the images that ``difference`` stands for matter, nor the origin, nor the choice of lattice vectors.
    The least sum is certain for one or two atoms, and where no two displacements differ by half the shortest lattice
    vector. Elsewhere it is the least that a search finds which takes each atom (of 64 at most) as the one that did not
    move.

    Args:
        difference: (N, 3) between fractional coordinates.
        cell: (G, 3, 3) Å, lattice vectors in rows.
        batch: (N,) crystal of each atom, ascending.
    """
    superbase = obtuse_superbase(cell.double())
    given = rows_times_matrices(difference.double(), cell.double()[batch])
    counts = torch.bincount(batch, minlength=len(cell))
    first = counts.cumsum(0) - counts
    best = _nearest_to(given[first[batch]], given, superbase, batch)
    crystals = _doubtful(best, superbase, counts, batch).nonzero().squeeze(1)
    if len(crystals):
        chosen = torch.isin(batch, crystals)
        within = torch.repeat_interleave(torch.arange(len(crystals), device=batch.device), counts[crystals])
        best[chosen] = _searched(best[chosen], superbase[crystals], within)
    return best.to(difference.dtype)


def obtuse_superbase(cell: Cells) -> Superbases:
    """Four vectors (G, 4, 3) that sum up to zero, no two at an acute angle, any three of which span the lattice.

    Selling's reduction: where two of them form an acute angle, one is turned round and added to the other two.
    """
    vectors = torch.cat([-cell.sum(dim=1, keepdim=True), cell], dim=1)
    steps = _selling_steps().to(vectors)
    first, second = torch.tensor(_PAIRS, device=cell.device).unbind(dim=1)
    for _ in range(10 * _ROUNDS):
        products = vectors @ vectors.mT
        rounding = 1e-9 * products.diagonal(dim1=1, dim2=2).amax(dim=1)
        worst, which = products[:, first, second].max(dim=1)
        acute = worst > rounding
        if not acute.any():
            break
        vectors = steps[torch.where(acute, which, len(_PAIRS))] @ vectors
    return vectors


def _selling_steps() -> Tensor:
    """(7, 4, 4) matrices that remove the acute angle of each of the six pairs; the last one changes nothing."""
    steps = torch.eye(4).repeat(len(_PAIRS) + 1, 1, 1)
    for step, (turned, kept) in zip(steps, _PAIRS, strict=False):
        step[:, turned] = 1
        step[turned, turned], step[kept, turned] = -1, 0
    return steps


def _shortest(vectors: Positions, superbase: AtomSuperbases) -> Positions:
    """The shortest (n, 3) that differ from ``vectors`` (n, 3) by a vector of the lattice, of which each has its own.

    It is among fifteen: the rest of the coordinates after rounding down, less any sum of vectors of the superbase
    (McKilliam, Grant and Clarkson, SIAM J. Discrete Math. 28, 1405 (2014)).
    """
    base = superbase[:, 1:]
    multiples = torch.linalg.solve(base.mT, vectors[:, :, None]).squeeze(2)
    rest = rows_times_matrices(multiples - multiples.floor(), base)
    images = rest[:, None] - _SUMS.to(superbase) @ superbase
    nearest = images.square().sum(dim=2).argmin(dim=1)
    return images[torch.arange(len(images), device=images.device), nearest]


def _nearest_to(drift: Positions, displacements: Positions, superbase: Superbases, batch: Batch) -> Positions:
    """``displacements`` (N, 3) to the images nearest to a ``drift`` (N, 3) of the crystals, less their mean."""
    found = _shortest(displacements - drift, superbase[batch])
    return found - crystal_mean(found, batch, len(superbase))[batch]


def _doubtful(displacements: Positions, superbase: Superbases, counts: CrystalCounts, batch: Batch) -> CrystalFlags:
    """(G,) bool, where other images may be nearer.

    No other images can be nearer where all displacements differ by less than half the shortest lattice vector: the sum
    of squares is that of the differences between each two displacements, and each of these is to its nearest image.
    """
    lengths = torch.linalg.vector_norm(_SUMS[1:].to(superbase) @ superbase, dim=2)
    longest = torch.linalg.vector_norm(displacements, dim=1)
    longest = longest.new_zeros(len(superbase)).scatter_reduce(0, batch, longest, "amax")
    return (4 * longest >= lengths.amin(dim=1)) & (counts > 2)


def _searched(displacements: Positions, superbase: Superbases, batch: Batch) -> Positions:
    """Find the least displacements over starts in which one atom or another did not move."""
    counts = torch.bincount(batch, minlength=len(superbase))
    first = counts.cumsum(0) - counts
    best, least = displacements, torch.full((len(superbase),), torch.inf).to(superbase)
    for reference in range(min(_REFERENCES, int(counts.max()))):
        within = torch.where(counts > _REFERENCES, reference * counts // _REFERENCES, reference % counts)
        found = _nearest_to(displacements[(first + within)[batch]], displacements, superbase, batch)
        found = _moved_one_by_one(_about_their_mean(found, superbase, batch), superbase, batch)
        squares = _sum_of_squares(found, superbase, batch)
        better = squares < least - _LEAST
        best = torch.where(better[batch, None], found, best)
        least = torch.where(better, squares, least)
    return best


def _about_their_mean(displacements: Positions, superbase: Superbases, batch: Batch) -> Positions:
    """Images nearest to the mean, and the mean of these images, until they agree."""
    least = _sum_of_squares(displacements, superbase, batch)
    for _ in range(_ROUNDS):
        displacements = _nearest_to(torch.zeros_like(displacements), displacements, superbase, batch)
        squares = _sum_of_squares(displacements, superbase, batch)
        if not (squares < least - _LEAST).any():
            break
        least = squares
    return displacements


def _moved_one_by_one(displacements: Positions, superbase: Superbases, batch: Batch) -> Positions:
    """Takes the atom of each crystal to another image that gains most by it, until none gains.

    A displacement ``r`` that becomes ``r + v``, and the mean with it, changes the sum of squares by
    ``2 r.v + v² (1 - 1/N)``.
    """
    size, atoms = len(superbase), torch.arange(len(batch), device=batch.device)
    vectors = _SUMS[1:].to(superbase) @ superbase
    of_mean = 1 - 1 / torch.bincount(batch, minlength=size).to(superbase)
    constant = vectors.square().sum(dim=2) * of_mean[:, None]
    for _ in range(_ROUNDS):
        change = 2 * torch.einsum("nx,nvx->nv", displacements, vectors[batch]) + constant[batch]
        gain, which = change.min(dim=1)
        most = gain.new_zeros(size).scatter_reduce(0, batch, gain, "amin")
        gains = (gain <= most[batch]) & (gain < -_LEAST)
        if not gains.any():
            break
        one = torch.full_like(batch[:size], len(batch)).scatter_reduce(
            0, batch, torch.where(gains, atoms, len(batch)), "amin"
        )
        one = one[one < len(batch)]
        moves = torch.zeros_like(displacements).index_put((one,), vectors[batch[one], which[one]])
        displacements = displacements + moves - crystal_mean(moves, batch, size)[batch]
    return displacements


def _sum_of_squares(displacements: Positions, superbase: Superbases, batch: Batch) -> PerCrystal:
    """(G,) Å²."""
    return superbase.new_zeros(len(superbase)).index_add(0, batch, displacements.square().sum(dim=1))
