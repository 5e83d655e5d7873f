"""Graphs of pairs that are already on the device."""

from __future__ import annotations

from deeprelax_ase.data import Pairs
from deeprelax_ase.graph.record import CrystalGraph, rows_times_matrices
from deeprelax_ase.graph.settings import GraphSettings
from deeprelax_ase.graph.torch_neighbors import neighbor_graph


def pair_graph(pairs: Pairs, settings: GraphSettings) -> CrystalGraph:
    """The graph of the unrelaxed crystals of ``pairs``, unchecked."""
    batch = pairs.batch
    positions = rows_times_matrices(pairs.scaled_initial, pairs.cell_initial[batch])
    return neighbor_graph(pairs.numbers, positions, pairs.cell_initial, batch, settings=settings)
