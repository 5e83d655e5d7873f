"""Crystals as periodic multigraphs: the record, and the builders that make it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.graph import matgl_builder, torch_builder
from deeprelax_ase.graph.checks import MIN_DISTANCE, check_density, check_distances
from deeprelax_ase.graph.crystal_graph import (
    CrystalGraph,
    affine_positions,
    atom_counts,
    collate,
    edge_batch,
    edge_vectors,
    fractional_positions,
)
from deeprelax_ase.graph.edges import CUTOFF_MARGIN, TIE_TOLERANCE, NeighborList, in_cell_pairs, select_edges
from deeprelax_ase.graph.matgl_builder import read_matgl_graph
from deeprelax_ase.graph.settings import DEFAULT_SETTINGS, GraphSettings
from deeprelax_ase.graph.torch_builder import neighbor_graph, neighbor_pairs

__all__ = [
    "BACKENDS",
    "CUTOFF_MARGIN",
    "DEFAULT_SETTINGS",
    "MIN_DISTANCE",
    "TIE_TOLERANCE",
    "CrystalGraph",
    "GraphSettings",
    "NeighborList",
    "affine_positions",
    "atom_counts",
    "build_graph",
    "check_density",
    "check_distances",
    "collate",
    "edge_batch",
    "edge_vectors",
    "fractional_positions",
    "in_cell_pairs",
    "neighbor_graph",
    "neighbor_pairs",
    "read_matgl_graph",
    "select_edges",
]

#: Names that ``build_graph(backend=...)`` accepts.
BACKENDS = ("torch", "matgl")


def build_graph(
    crystals: Sequence[Crystal],
    *,
    backend: str = "torch",
    settings: GraphSettings = DEFAULT_SETTINGS,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
) -> CrystalGraph:
    """One graph of validated crystals; both backends give the same one.

    Args:
        crystals: one or more.
        backend: "torch" lists the neighbours of all crystals at once, on ``device``. "matgl" converts each crystal with
            MatGL's converters, on the CPU; it takes a second or more to import MatGL, and longer where crystals are
            many.
        settings: those of the model.
        device: for the graph.
        dtype: of its floating-point tensors.

    Raises:
        ValueError: ``backend`` is unknown, or there are no crystals.
        BackendError: "matgl" is asked for, but cannot be imported.
        OverlappingAtomsError, IsolatedAtomError: see :func:`check_distances`.
    """
    if backend not in BACKENDS:
        raise ValueError(f"Unknown {backend=}, must be one of {', '.join(BACKENDS)}")
    if backend == "matgl":
        return matgl_builder.build_graph(crystals, settings=settings, dtype=dtype).to(device)
    return torch_builder.build_graph(crystals, settings=settings, device=device, dtype=dtype)
