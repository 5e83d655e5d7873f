"""The same pair in other words: other lattice vectors, another order of the atoms, a cell twice as large."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.data.pairs import PER_ATOM
from deeprelax_ase.geometry.strain import matrix_product
from deeprelax_ase.graph.crystal_graph import rows_times_matrices

#: Product of the lengths of the lattice vectors over the volume, 1 for a right-angled cell, that no chosen cell exceeds
#: unless it already did: a neighbour list of a cell twice as skewed takes twice as many offsets.
MOST_SKEWED = 2.0

#: Shears that a crystal is offered, one after the other.
_SHEARS = 2


def augment_cells(
    pairs: RelaxationPairs,
    generator: torch.Generator,
    *,
    sheared: float = 0.0,
    permuted: float = 0.0,
    supercell: float = 0.0,
    supercell_atoms: int = 12,
) -> RelaxationPairs:
    """The ``pairs``, some of them in other cells and orders; both sides of a pair are changed alike.

    Cartesian displacements, strain and, per atom, energies are those of before, and so are forces where they are known.

    Args:
        pairs: the ones to describe anew.
        generator: of the random numbers, on the device of the pairs. A share of zero takes none of them.
        sheared: share of the crystals that get other lattice vectors, see :func:`shear`.
        permuted: share whose atoms are put in random order.
        supercell: share that is doubled along a random lattice vector.
        supercell_atoms: most atoms of a crystal that is doubled.
    """
    if supercell:
        pairs = double(pairs, _drawn(pairs, supercell, generator) & (pairs.counts <= supercell_atoms), generator)
    if sheared:
        pairs = shear(pairs, _drawn(pairs, sheared, generator), generator)
    if permuted:
        pairs = permute(pairs, _drawn(pairs, permuted, generator), generator)
    return pairs


def _drawn(pairs: RelaxationPairs, share: float, generator: torch.Generator) -> Tensor:
    """(G,) bool, true for a ``share`` of the crystals."""
    return torch.rand(len(pairs), device=pairs.counts.device, generator=generator) < share


def shear(pairs: RelaxationPairs, chosen: Tensor, generator: torch.Generator) -> RelaxationPairs:
    """Other lattice vectors, and so other fractional coordinates, for the crystals that are ``chosen`` (G,).

    One lattice vector is added to another or taken from it, twice unless that makes the unrelaxed cell too skewed, and
    all three are put in random order with random signs, so that half of the cells are left-handed. Atoms are wrapped
    into the unrelaxed cell.
    """
    change, inverse = _unimodular(pairs.cell_initial, generator)
    identity = torch.eye(3, dtype=change.dtype, device=change.device)
    change, inverse = (torch.where(chosen[:, None, None], matrix, identity) for matrix in (change, inverse))
    batch = pairs.batch
    initial, relaxed = (
        rows_times_matrices(s, inverse[batch]) for s in (pairs.fractional_initial, pairs.fractional_relaxed)
    )
    images = torch.where(chosen[batch, None], torch.floor(initial), torch.zeros_like(initial))
    return replace(
        pairs,
        fractional_initial=initial - images,
        fractional_relaxed=relaxed - images,
        cell_initial=matrix_product(change, pairs.cell_initial),
        cell_relaxed=matrix_product(change, pairs.cell_relaxed),
    )


def _unimodular(cell: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(G, 3, 3) U of whole numbers, with a determinant of ±1, for new lattice vectors U L; and its inverse."""
    size, device, dtype = len(cell), cell.device, cell.dtype

    def drawn(below: int, *shape: int) -> Tensor:
        return torch.randint(below, (size, *shape), device=device, generator=generator)

    identity = torch.eye(3, dtype=dtype, device=device).expand(size, 3, 3)
    change, inverse, skewness = identity, identity, _skewness(cell)
    for _ in range(_SHEARS):
        to = drawn(3)
        added = (to + 1 + drawn(2)) % 3  # another one
        sign = (2 * drawn(2) - 1).to(dtype)
        step = sign[:, None, None] * one_hot(to, 3).to(dtype)[:, :, None] * one_hot(added, 3).to(dtype)[:, None, :]
        tried = matrix_product(identity + step, change)
        found = _skewness(matrix_product(tried, cell))
        kept = found <= skewness.clamp_min(MOST_SKEWED)
        skewness = torch.where(kept, found, skewness)
        change = torch.where(kept[:, None, None], tried, change)
        inverse = torch.where(kept[:, None, None], matrix_product(inverse, identity - step), inverse)
    order = torch.rand(size, 3, device=device, generator=generator).argsort(dim=1)
    turn = one_hot(order, 3).to(dtype) * (2 * drawn(2, 3) - 1).to(dtype)[:, :, None]
    return matrix_product(turn, change), matrix_product(inverse, turn.mT)


def _skewness(cell: Tensor) -> Tensor:
    """(G,) product of the lengths of the lattice vectors over the volume."""
    a, b, c = cell.unbind(dim=1)
    volume = (torch.linalg.cross(a, b) * c).sum(dim=1).abs()
    return torch.linalg.vector_norm(cell, dim=2).prod(dim=1) / volume


def permute(pairs: RelaxationPairs, chosen: Tensor, generator: torch.Generator) -> RelaxationPairs:
    """The crystals that are ``chosen`` (G,) with their atoms in random order."""
    batch = pairs.batch
    drawn = torch.rand(len(batch), device=batch.device, generator=generator)
    # Two stable sorts rather than one of a sum, in which rounding could carry an atom into the next crystal.
    order = torch.where(chosen[batch], drawn, torch.zeros_like(drawn)).argsort(stable=True)
    order = order[batch[order].argsort(stable=True)]
    return replace(pairs, **{name: getattr(pairs, name)[order] for name in PER_ATOM})


def double(pairs: RelaxationPairs, chosen: Tensor, generator: torch.Generator) -> RelaxationPairs:
    """The crystals that are ``chosen`` (G,) twice, side by side along a random lattice vector.

    The virial, which grows with the crystal, is doubled. This waits for the device: how many atoms there are is new.
    """
    before, copies = pairs.counts, 1 + chosen.long()
    axis = torch.randint(3, (len(pairs),), device=before.device, generator=generator)
    along = one_hot(axis, 3) * chosen[:, None]  # (G, 3)
    counts = before * copies
    batch = torch.repeat_interleave(torch.arange(len(pairs), device=before.device), counts)
    within = torch.arange(len(batch), device=batch.device) - (counts.cumsum(0) - counts)[batch]
    atoms = (before.cumsum(0) - before)[batch] + within % before[batch]
    shift = (within // before[batch])[:, None] * along[batch]
    factors = (1 + along).to(pairs.cell_initial.dtype)
    pairs = replace(pairs, counts=counts, **{name: getattr(pairs, name)[atoms] for name in PER_ATOM})
    return replace(
        pairs,
        fractional_initial=(pairs.fractional_initial + shift) / factors[batch],
        fractional_relaxed=(pairs.fractional_relaxed + shift) / factors[batch],
        cell_initial=pairs.cell_initial * factors[:, :, None],
        cell_relaxed=pairs.cell_relaxed * factors[:, :, None],
        virial=pairs.virial * copies[:, None, None],
    )
