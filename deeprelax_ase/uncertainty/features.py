"""Features of the error in the end-to-end network's ensemble: implied distances, and what else calibration reads."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from deeprelax_ase.geometry.quantities import RelaxationQuantities
from deeprelax_ase.graph.crystal_graph import CrystalGraph, crystal_mean, rows_times_matrices
from deeprelax_ase.nn.deeprelax_e3 import NetworkInput, moved_vectors
from deeprelax_ase.nn.records import Relaxation
from deeprelax_ase.uncertainty.calibration import ErrorFeatures
from deeprelax_ase.uncertainty.ensemble import member_mean
from deeprelax_ase.uncertainty.kinds import kinds_of


def error_features(members: Relaxation, first: Relaxation, graph: CrystalGraph, kinds: Tensor) -> ErrorFeatures:
    """Compute the features of the ``members``' relaxations that indicate their errors.

    Args:
        members: their last relaxations, along a leading member axis.
        first: relaxations of the first recycle.
        graph: the crystals.
        kinds: (G,) of them, see :func:`crystal_kinds`.
    """
    mean, start = member_mean(members), member_mean(first)

    def over_atoms(values: Tensor) -> Tensor:
        return crystal_mean(values[:, None], graph.batch, graph.num_crystals).squeeze(1)

    scatter = (members.displacements - mean.displacements).square().sum(dim=2).mean(dim=0)
    return ErrorFeatures(
        displacement_scale=over_atoms(mean.displacement_scales),
        volume_scale=mean.volume_scales,
        shape_scale=mean.shape_scales,
        displacement_spread=over_atoms(scatter).sqrt(),
        strain_spread=(members.strain - mean.strain).square().sum(dim=(2, 3)).mean(dim=0).sqrt(),
        last_displacement=over_atoms(mean.displacements.square().sum(dim=1)).sqrt(),
        last_strain=torch.linalg.matrix_norm(mean.strain),
        first_displacement_scale=over_atoms(start.displacement_scales),
        first_volume_scale=start.volume_scales,
        kind=kinds,
    )


def crystal_kinds(graph: CrystalGraph, layered: Tensor, cell_kept: Tensor) -> Tensor:
    """(G,) the kinds of the crystals of ``graph``, see :func:`~deeprelax_ase.uncertainty.kinds.kinds_of`."""
    oxygen = graph.numbers == 8
    oxides = torch.zeros_like(cell_kept, dtype=torch.long).index_add(0, graph.batch, oxygen.long()) > 0
    return kinds_of(oxides, layered, cell_kept)


def step_sizes(initial: Tensor, relaxed: Tensor, cell: Tensor, batch: Tensor) -> np.ndarray:
    """(G,) Å, mean absolute Cartesian component of what the N atoms of G crystals move by, cell and drift apart.

    Args:
        initial, relaxed: (N, 3) fractional coordinates of the unrelaxed crystals, and where they are predicted.
        cell: (G, 3, 3) Å, predicted.
        batch: (N,) crystal of each atom, ascending.
    """
    moves = relaxed - initial
    moves = moves - crystal_mean(moves, batch, len(cell))[batch]
    lengths = rows_times_matrices(moves, cell[batch]).abs().mean(dim=1, keepdim=True)
    return crystal_mean(lengths, batch, len(cell)).squeeze(1).cpu().numpy()


def implied_distances(members: Relaxation, graph: CrystalGraph, given: NetworkInput) -> RelaxationQuantities:
    """The interatomic distances that the ``members`` imply on the edges of ``graph``, each with its scale.

    An error of length b in a random direction counts with b^2 / 3 along a bond; so do both atoms'. A strain counts
    with the square of the bond's length: a ninth of the volume's variance, and 2 / 15 of the shape's.

    Args:
        members: their relaxations, along a leading member axis.
        graph: the crystals that they start from.
        given: the same as the network reads it, with exact edge vectors.
    """
    moved = zip(members.displacements.double(), members.strain.double(), strict=True)
    lengths = torch.stack([torch.linalg.vector_norm(moved_vectors(given, d, s), dim=1) for d, s in moved])
    source, destination = graph.edge_index
    of_atoms = members.displacement_scales.square() / 3
    of_cell = members.volume_scales.square() / 9 + members.shape_scales.square() * 2 / 15
    variances = of_atoms[:, source] + of_atoms[:, destination]
    variances = variances + lengths.square() * of_cell[:, graph.batch[destination]]
    none = lengths[:, :0]
    return RelaxationQuantities(
        distances=lengths,
        distance_scales=variances.sqrt().to(lengths.dtype),
        displacements=none,
        displacement_scales=none,
        cell=graph.cell.expand(len(lengths), -1, -1, -1),
        anchors=graph.positions.expand(len(lengths), -1, -1),
    )
