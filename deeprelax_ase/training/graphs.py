"""Graphs and planes of pairs that are already on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.data.batches import Batches, cut, pair_graph
from deeprelax_ase.geometry.vacuum import in_plane_projectors, strain_projectors
from deeprelax_ase.graph.crystal_graph import CrystalGraph, collate, rows_times_matrices
from deeprelax_ase.graph.settings import GraphSettings
from deeprelax_ase.training.settings import TrainingSettings


def pair_strain_projectors(pairs: RelaxationPairs) -> Tensor:
    """(G, 3, 3) projectors onto the directions in which the unrelaxed cells of ``pairs`` may be strained."""
    return strain_projectors(pairs.fractional_initial, pairs.cell_initial, pairs.batch, pairs.fixed_cell)


@dataclass(frozen=True, eq=False)
class KeptGraphs:
    """The graphs of all pairs, built once, on their device.

    Attributes:
        whole: all pairs as one graph.
        edges: (G,) edges of each crystal.
        first_edge, first_atom: (G,) where those of each crystal begin.
    """

    whole: CrystalGraph
    edges: Tensor
    first_edge: Tensor
    first_atom: Tensor

    @classmethod
    def of(cls, pairs: RelaxationPairs, settings: GraphSettings, *, atoms_at_once: int = 50000) -> KeptGraphs:
        """Build the graphs of ``pairs``, of about so many atoms at once."""
        counts = pairs.counts
        chunks = cut(torch.arange(len(counts), device=counts.device), counts, atoms_at_once)
        whole = collate([pair_graph(pairs.take(chunk), settings) for chunk in chunks])
        edges = torch.bincount(whole.batch[whole.edge_index[1]], minlength=len(pairs))
        return cls(whole, edges, edges.cumsum(0) - edges, counts.cumsum(0) - counts)

    def take(self, crystals: Tensor, pairs: RelaxationPairs) -> CrystalGraph:
        """The graph of the pairs with the indices ``crystals`` (n,), which are ``pairs``."""
        edges, whole = self.edges[crystals], self.whole
        first = edges.cumsum(0) - edges
        shift = torch.repeat_interleave(self.first_edge[crystals] - first, edges)
        chosen = torch.arange(len(shift), device=shift.device) + shift
        moved = (pairs.counts.cumsum(0) - pairs.counts) - self.first_atom[crystals]
        batch = pairs.batch
        return CrystalGraph(
            numbers=pairs.numbers,
            positions=rows_times_matrices(pairs.fractional_initial, pairs.cell_initial[batch]),
            cell=pairs.cell_initial,
            batch=batch,
            edge_index=whole.edge_index[:, chosen] + torch.repeat_interleave(moved, edges),
            cell_offsets=whole.cell_offsets[chosen],
            in_cell=whole.in_cell[chosen],
        )


def kept_graphs(
    pairs: RelaxationPairs, graph: GraphSettings, settings: TrainingSettings, device: torch.device
) -> KeptGraphs | None:
    """The graphs of ``pairs`` on ``device``, if they can be kept there: not if augmentation changes them."""
    resident = pairs.counts.device.type == device.type
    if not settings.keep_graphs or settings.augmentation.changes or not resident:
        return None
    if device.type == "cuda":
        usual = len(pairs.numbers) * (graph.max_neighbors + graph.max_in_cell) * 41  # bytes
        if 2 * usual > torch.cuda.mem_get_info(device)[0]:
            return None
    return KeptGraphs.of(pairs, graph)


def kept_planes(pairs: RelaxationPairs, settings: TrainingSettings) -> Tensor | None:
    """(G, 3, 3) the planes of all ``pairs``, found once: in every batch that is a third of augmentation's kernels.

    None where it asks for none, or for those of the cells that it makes.
    """
    if not settings.augmentation.changes or settings.augmentation.augments_cells:
        return None
    batches = (pairs.take(crystals) for crystals in Batches(pairs.counts, settings.atoms_per_batch))
    return torch.cat([in_plane_projectors(part.fractional_initial, part.cell_initial, part.batch) for part in batches])
