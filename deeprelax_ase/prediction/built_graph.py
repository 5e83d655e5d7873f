"""The :class:`BuiltGraph` record: a crystal's graph and what was seen in it, for whoever needs the same again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.geometry.vacuum import Vacuum, vacuum_of
from deeprelax_ase.graph import CrystalGraph, GraphSettings, build_graph, edge_vectors

#: Those of end-to-end networks, whose prediction may go on from what a first look at the crystal took.
END_TO_END = GraphSettings(max_in_cell=0)


class BuiltGraph(NamedTuple):
    """The graph of one crystal, in float64.

    Attributes:
        graph: with the edges that ``settings`` ask for, as :func:`~deeprelax_ase.graph.build_graph` builds them.
        settings: choice of the neighbours that are edges.
        vectors: (E, 3) Å, along the edges.
        vacuum: of the crystal.
    """

    graph: CrystalGraph
    settings: GraphSettings
    vectors: Tensor
    vacuum: Vacuum

    @classmethod
    def of(cls, crystal: Crystal, settings: GraphSettings = END_TO_END) -> BuiltGraph:
        """Build that of a validated ``crystal``, by torch on the CPU.

        Raises:
            StructureError: atoms are on top of each other, or alone.
        """
        graph = build_graph([crystal], settings=settings)
        vectors = edge_vectors(graph)
        return cls(graph, settings, vectors, vacuum_of(graph, vectors))

    def usable(self, *, settings: GraphSettings, backend: str, device: torch.device) -> BuiltGraph | None:
        """Hand it out on ``device``, if a model that reads such a graph would build the same."""
        return self.to(device) if settings == self.settings and backend == "torch" else None

    def to(self, device: torch.device) -> BuiltGraph:
        """Move it to ``device``."""
        vacuum = Vacuum(*(tensor.to(device) for tensor in self.vacuum))
        return BuiltGraph(self.graph.to(device), self.settings, self.vectors.to(device), vacuum)


def vacua_of(crystals: Sequence[Crystal], *, device: torch.device | str = "cpu") -> list[Vacuum]:
    """Find the vacuum in each of the validated ``crystals``, all together on ``device``; the results are on the CPU.

    Raises:
        StructureError: of one of them, see :meth:`BuiltGraph.of`.
    """
    vacuum = vacuum_of(build_graph(crystals, settings=END_TO_END, device=device))
    return [Vacuum(*parts) for parts in zip(*(tensor.cpu().split(1) for tensor in vacuum), strict=True)]
