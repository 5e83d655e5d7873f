"""The DeepRelax network: from a :class:`CrystalGraph` to :class:`RelaxationQuantities`."""

from __future__ import annotations

import torch
from torch import nn

from deeprelax_ase.geometry.quantities import RelaxationQuantities
from deeprelax_ase.graph.crystal_graph import CrystalGraph, affine_positions, edge_vectors
from deeprelax_ase.graph.shapes import CellOffsets, Cells, EdgeFeatures, EdgeVectors, Lengths, PairInts, Scalars
from deeprelax_ase.nn.basis import GaussianBasis, cell_offset_encoding
from deeprelax_ase.nn.config import DeepRelaxConfig
from deeprelax_ase.nn.heads import DistanceHead, LatticeHead, StrainHead
from deeprelax_ase.nn.paegnn import PaEGNN


class DeepRelax(nn.Module):
    """PaEGNN with the heads of eqs. (8)-(10); see :class:`DeepRelaxConfig` for the switches.

    Geometry (vectors, cell, distances) stays in the graph's floating-point type; the network computes in the type of
    its parameters or, under autocast, in the lower one.
    """

    def __init__(self, config: DeepRelaxConfig) -> None:
        super().__init__()
        self.config = config
        edge_channels = config.num_basis + (config.encoding_channels if config.cell_offset_encoding else 0)
        self.basis = GaussianBasis(config.num_basis, config.basis_stop)
        self.backbone = PaEGNN(
            config.channels, config.num_layers, edge_channels, config.num_elements, config.max_neighbors
        )

        def distance_head() -> DistanceHead:
            return DistanceHead(
                config.channels,
                edge_channels,
                directional=config.directional_heads,
                uncertainty=config.local_uncertainty,
                residual=config.distance_baseline != "none",
            )

        self.distance_head, self.displacement_head = distance_head(), distance_head()
        self.lattice_head: nn.Module = (
            StrainHead(config.channels, edge_channels, config.max_neighbors)
            if config.lattice_head == "strain"
            else LatticeHead(config.channels, residual=config.lattice_head == "residual")
        )

    def compile_parts(self, *, dynamic: bool) -> None:
        """Have backbone and heads compiled; ``dynamic`` for batches of any size, otherwise anew for each."""
        for part in (self.backbone, self.distance_head, self.displacement_head, self.lattice_head):
            part.compile(dynamic=dynamic)

    def forward(
        self,
        graph: CrystalGraph,
        *,
        cell: Cells | None = None,
        anchor_cell: Cells | None = None,
        pairs: PairInts | None = None,
    ) -> RelaxationQuantities:
        """Predict the relaxation quantities.

        Args:
            graph: the unrelaxed crystals.
            cell: (G, 3, 3) Å, a relaxed cell to use instead of the predicted one, for relaxation at fixed cell.
            anchor_cell: (G, 3, 3) Å, the cell that carries the anchors of the displacements under the ``carried``
                baseline: the relaxed cell by default. Training passes the true one, so that the displacement head
                learns what atoms do beyond following the cell, free of the error of a cell still being learnt; the
                distance head keeps the predicted cell, so that its scale covers that error.
            pairs: (P,) the graph's in-cell edges, where they are known: to find them, the host waits for the device.
        """
        config = self.config
        vectors = edge_vectors(graph)
        lengths = torch.linalg.vector_norm(vectors, dim=-1)
        directions = vectors / lengths[:, None]
        features = self._edge_features(lengths, graph.cell_offsets)
        x, v = self.backbone(graph.numbers, graph.edge_index, features, directions.to(features.dtype))
        if cell is None:
            cell = self._cell(x, graph, features, directions)
        pairs = graph.in_cell.nonzero().squeeze(1) if pairs is None else pairs
        anchors, baseline = graph.positions, torch.zeros_like(lengths)
        pair_baseline = baseline[pairs]
        if config.distance_baseline == "carried":
            baseline = _carried_lengths(graph, cell.detach())
            anchor_cell = cell.detach() if anchor_cell is None else anchor_cell
            anchors = affine_positions(graph, anchor_cell)
            pair_baseline = _carried_lengths(graph, anchor_cell)[pairs]
        directions = directions.to(features.dtype)
        edges = (graph.edge_index, features, directions)
        in_cell = (graph.edge_index[:, pairs], features[pairs], directions[pairs])
        distances, distance_scales = self.distance_head(x, v, *edges)
        displacements, displacement_scales = self.displacement_head(x, v, *in_cell)
        return RelaxationQuantities(
            distances=(baseline + distances).abs(),  # eq. (8)
            distance_scales=_or_zero(distance_scales, lengths),  # eq. (9)
            displacements=(pair_baseline + displacements).abs(),
            displacement_scales=_or_zero(displacement_scales, lengths[pairs]),
            cell=cell,
            anchors=anchors,
        )

    def _edge_features(self, lengths: Lengths, offsets: CellOffsets) -> EdgeFeatures:
        """(E, edge_channels), lambda(d) and p(K) side by side."""
        features = self.basis(lengths.to(self.basis.centers.dtype))
        if not self.config.cell_offset_encoding:
            return features
        encoding = cell_offset_encoding(offsets, self.config.encoding_channels, self.config.offset_range)
        return torch.cat([features, encoding.to(features.dtype)], dim=-1)

    def _cell(self, x: Scalars, graph: CrystalGraph, features: EdgeFeatures, directions: EdgeVectors) -> Cells:
        if isinstance(self.lattice_head, StrainHead):
            return self.lattice_head(x, graph.cell, graph.batch, graph.edge_index, features, directions)
        return self.lattice_head(x, graph.cell, graph.batch)


def _carried_lengths(graph: CrystalGraph, cell: Cells) -> Lengths:
    """(E,) Å, the length of each edge once ``cell`` has carried the atoms along."""
    return torch.linalg.vector_norm(edge_vectors(graph, affine_positions(graph, cell), cell), dim=-1)


def _or_zero(scales: Lengths | None, like: Lengths) -> Lengths:
    return torch.zeros_like(like) if scales is None else scales.to(like.dtype)
