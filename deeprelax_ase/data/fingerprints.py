"""Fingerprints that equal crystals share, found for many of them at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deeprelax_ase.data.pairs import RelaxationPairs
from deeprelax_ase.graph.crystal_graph import edge_vectors, rows_times_matrices
from deeprelax_ase.graph.settings import GraphSettings
from deeprelax_ase.graph.torch_builder import neighbor_graph

#: The neighbours that are looked at: the twelve nearest within 6 Å, whatever cell they are in.
_NEIGHBOURS = GraphSettings(cutoff=6.0, max_neighbors=12, max_in_cell=0)

#: Å and relative volume to which fingerprints of crystals are rounded.
_ROUNDED = 0.02

#: Pairs whose graphs are built at once.
_AT_ONCE = 2000


@dataclass(frozen=True, eq=False)
class Surroundings:
    """Distances of atoms to their neighbours.

    Attributes:
        nearest: (N,) Å to the nearest one, infinite where there is none within 6 Å.
        mean: (N,) Å to the twelve nearest within 6 Å in the mean, zero without any.
    """

    nearest: Tensor
    mean: Tensor


def surroundings(
    pairs: RelaxationPairs, side: str, advance: Callable[[int], object] = lambda count: None
) -> Surroundings:
    """Measure the surroundings of the atoms of the ``initial`` or the ``relaxed`` crystals.

    ``advance`` is called now and then with how many crystals more are done.
    """
    cells, fractional = getattr(pairs, f"cell_{side}"), getattr(pairs, f"fractional_{side}")
    positions = rows_times_matrices(fractional, cells[pairs.batch])
    parts = []
    for chunk in torch.arange(len(pairs)).split(_AT_ONCE):
        part, atoms = pairs.take(chunk), pairs.atoms_of(chunk)
        graph = neighbor_graph(part.numbers, positions[atoms], cells[chunk], part.batch, settings=_NEIGHBOURS)
        lengths, to = edge_vectors(graph).norm(dim=1), graph.edge_index[1]
        nearest = lengths.new_full((len(atoms),), torch.inf).scatter_reduce(0, to, lengths, "amin")
        sums = lengths.new_zeros(len(atoms)).index_add(0, to, lengths)
        parts.append((nearest, sums / torch.bincount(to, minlength=len(atoms)).clamp_min(1)))
        advance(len(chunk))
    nearest, mean = (torch.cat(column) for column in zip(*parts, strict=True))
    return Surroundings(nearest, mean)


def fingerprints(pairs: RelaxationPairs, side: str, around: Surroundings | None = None) -> list[tuple]:
    """Compute what equal crystals share: composition, volume per atom, and distances to near neighbours.

    Distances are those of :class:`Surroundings`, averaged over the atoms of each element and rounded: cheap, and blind
    to the choice of cell, order and origin. Different crystals hardly ever share them.
    """
    around = surroundings(pairs, side) if around is None else around
    volumes = torch.linalg.det(getattr(pairs, f"cell_{side}")).abs() / pairs.counts
    rounded = (volumes.log() / (_ROUNDED / 2)).round().long().tolist()
    counts = pairs.counts.tolist()
    result: list[tuple] = []
    for numbers, lengths, volume in zip(pairs.numbers.split(counts), around.mean.split(counts), rounded, strict=True):
        kinds, places = numbers.unique(return_inverse=True)
        amounts = places.bincount()
        divisor = int(np.gcd.reduce(amounts.numpy()))
        means = torch.zeros(len(kinds), dtype=lengths.dtype).index_add(0, places, lengths) / amounts
        spread = tuple((means / _ROUNDED).round().long().tolist())
        result.append((tuple(kinds.tolist()), tuple((amounts // divisor).tolist()), volume, spread))
    return result
