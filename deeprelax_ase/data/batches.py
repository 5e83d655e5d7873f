"""Pairs as the networks see them: cut into batches, and as graphs, on the device that they lie on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from deeprelax_ase.data.pairs import RelaxationPairs
from deeprelax_ase.graph.crystal_graph import CrystalGraph, rows_times_matrices
from deeprelax_ase.graph.settings import GraphSettings
from deeprelax_ase.graph.torch_builder import neighbor_graph


@dataclass(frozen=True, eq=False)
class Batches:
    """Each crystal once, in order, in batches of about ``atoms`` atoms.

    Attributes:
        counts: (G,) atoms of each crystal.
        atoms: in a batch, to the nearest crystal.
    """

    counts: Tensor
    atoms: int

    def __iter__(self) -> Iterator[Tensor]:
        yield from cut(torch.arange(len(self.counts), device=self.counts.device), self.counts, self.atoms)


def cut(order: Tensor, counts: Tensor, atoms: int) -> list[Tensor]:
    """The crystals ``order`` (n,) in batches of about ``atoms`` atoms each."""
    last = counts[order].cumsum(0) - 1  # a crystal belongs where its last atom does
    bins = torch.div(last, atoms, rounding_mode="floor")
    return list(order.split([size for size in torch.bincount(bins).tolist() if size]))


def pair_graph(pairs: RelaxationPairs, settings: GraphSettings) -> CrystalGraph:
    """The graph of the unrelaxed crystals of ``pairs``, unchecked."""
    batch = pairs.batch
    positions = rows_times_matrices(pairs.fractional_initial, pairs.cell_initial[batch])
    return neighbor_graph(pairs.numbers, positions, pairs.cell_initial, batch, settings=settings)
