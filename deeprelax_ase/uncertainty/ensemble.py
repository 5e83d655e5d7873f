"""The error that an ensemble expects of itself: section 4.7 of the DeepRelax paper (arXiv:2404.00865).

The members' quantities come as one :class:`RelaxationQuantities` whose tensors carry a leading member axis M.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from torch import Tensor

from deeprelax_ase.geometry.quantities import RelaxationQuantities
from deeprelax_ase.graph.crystal_graph import CrystalGraph, edge_batch
from deeprelax_ase.nn.records import Relaxation

Record = TypeVar("Record", Relaxation, RelaxationQuantities)


@dataclass(frozen=True, eq=False)
class UncertaintyParts:
    """The two parts of an uncertainty, Å².

    Attributes:
        aleatoric: scatter that the data itself has, eq. (21).
        epistemic: disagreement of the members, eq. (23).
    """

    aleatoric: Tensor
    epistemic: Tensor

    @property
    def total(self) -> Tensor:
        """Their sum, eq. (24)."""
        return self.aleatoric + self.epistemic


@dataclass(frozen=True, eq=False)
class EnsembleUncertainty:
    """Uncertainties of a batch of G crystals with N atoms, E edges and P in-cell pairs, Å².

    Attributes:
        crystals: (G,) over all distances and displacements of a crystal: the global uncertainty of the paper.
        atoms: (N,) over those at which the atom takes part, as source or destination.
        distances: (E,) of each edge alone.
        displacements: (P,) of each in-cell pair alone.
    """

    crystals: UncertaintyParts
    atoms: UncertaintyParts
    distances: UncertaintyParts
    displacements: UncertaintyParts


def stack_members(members: Sequence[Record]) -> Record:
    """One record of the records of all members, along a leading axis."""
    names = [f.name for f in fields(members[0])]
    return type(members[0])(**{name: torch.stack([getattr(m, name) for m in members]) for name in names})


def member_mean(members: Record) -> Record:
    """The record averaged over its leading member axis."""
    return type(members)(**{f.name: getattr(members, f.name).mean(dim=0) for f in fields(members)})


def ensemble_mean(quantities: RelaxationQuantities) -> RelaxationQuantities:
    """The quantities averaged over the members, eq. (22), without the member axis.

    Raises:
        ValueError: there is no member axis.
    """
    _check_member_axis(quantities)
    return member_mean(quantities)


def ensemble_uncertainty(quantities: RelaxationQuantities, graph: CrystalGraph) -> EnsembleUncertainty:
    """Aleatoric and epistemic uncertainty, eqs. (21)-(24), of crystals, atoms, edges and pairs.

    Distances and displacements count alike: the mean over the N distance pairs of the paper runs over both. A single
    member has an epistemic uncertainty of zero.

    Args:
        quantities: of the M members, for the edges of ``graph``; a leading member axis on every tensor.
        graph: the crystals.

    Raises:
        ValueError: there is no member axis.
    """
    _check_member_axis(quantities)
    values = torch.cat([quantities.distances, quantities.displacements], dim=1)
    scales = torch.cat([quantities.distance_scales, quantities.displacement_scales], dim=1).mean(dim=0)
    variances = (values - values.mean(dim=0)).square().mean(dim=0)
    edge_crystal = edge_batch(graph)
    crystal = torch.cat([edge_crystal, edge_crystal[graph.in_cell]])
    source, destination = torch.cat([graph.edge_index, graph.edge_index[:, graph.in_cell]], dim=1)

    def over_crystals(x: Tensor) -> Tensor:
        return _segment_mean([x], [crystal], graph.num_crystals)

    other = source != destination  # an edge between an atom and its own image counts once

    def over_atoms(x: Tensor) -> Tensor:
        return _segment_mean([x, x[other]], [destination, source[other]], graph.num_atoms)

    edges = graph.num_edges
    return EnsembleUncertainty(
        crystals=_parts(scales, variances, over_crystals),
        atoms=_parts(scales, variances, over_atoms),
        distances=_parts(scales[:edges], variances[:edges], _itself),
        displacements=_parts(scales[edges:], variances[edges:], _itself),
    )


def _parts(scales: Tensor, variances: Tensor, mean: Callable[[Tensor], Tensor]) -> UncertaintyParts:
    """Eqs. (21) and (23), the mean over distance pairs being ``mean``."""
    return UncertaintyParts(aleatoric=mean(scales).square(), epistemic=mean(variances))


def _itself(x: Tensor) -> Tensor:
    return x


def _segment_mean(values: list[Tensor], segments: list[Tensor], size: int) -> Tensor:
    """(size,) mean of the values of each segment; zero where it has none."""
    sums, counts = (values[0].new_zeros(size) for _ in range(2))
    for value, segment in zip(values, segments, strict=True):
        sums.index_add_(0, segment, value)
        counts.index_add_(0, segment, torch.ones_like(value))
    return sums / counts.clamp_min(1)


def _check_member_axis(quantities: RelaxationQuantities) -> None:
    if quantities.distances.ndim != 2:
        raise ValueError(
            f"distances of shape {tuple(quantities.distances.shape)} have no member axis; stack the members' "
            "quantities along a new first axis, (1, E) for a single one"
        )
