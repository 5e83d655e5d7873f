"""Relaxing pairs in bulk on the device that they lie on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.geometry import EDGSettings
from deeprelax_ase.graph.record import rows_times_matrices
from deeprelax_ase.models.registry import Model
from deeprelax_ase.nn import DeepRelaxE3
from deeprelax_ase.nn.heads import matrix_product, symmetric_exponential
from deeprelax_ase.prediction.inference import relax_by_distances, relax_end_to_end
from deeprelax_ase.training.batches import Batches
from deeprelax_ase.training.graphs import pair_graph


@dataclass(frozen=True, eq=False)
class BulkRelaxation:
    """Predictions for G pairs of N atoms.

    Attributes:
        fractional: (N, 3) fractional coordinates.
        cell: (G, 3, 3) Å.
        displacement_scales: (N,) Å, mean over the members.
        volume_scales, shape_scales: (G,), likewise.
        displacement_variance: (N,) Å², scatter of the members.
        strain_variance: (G,) likewise, of the strain's Frobenius norm.
    """

    fractional: Tensor
    cell: Tensor
    displacement_scales: Tensor
    volume_scales: Tensor
    shape_scales: Tensor
    displacement_variance: Tensor
    strain_variance: Tensor


@torch.no_grad()
def relax_pairs(
    networks: Sequence[DeepRelaxE3],
    pairs: RelaxationPairs,
    level: str,
    *,
    recycles: int = 1,
    atoms_per_batch: int | None = None,
) -> BulkRelaxation:
    """Relax the unrelaxed crystals of ``pairs`` with the mean of the ``networks``, ``recycles`` times over.

    Args:
        networks: members of an ensemble.
        pairs: what to relax.
        level: name of the level of theory to relax to.
        recycles: how often the prediction is made the start of another one.
        atoms_per_batch: bounds the memory; by default 20,000, and 200 on a CPU, whose caches larger batches outgrow.

    Raises:
        ValueError: a network does not know ``level``, there are no pairs, or fewer than one pass is asked for.
    """
    if not len(pairs) or recycles < 1:
        raise ValueError(f"{len(pairs)} pairs and {recycles} passes: there must be at least one of each")
    for network in networks:
        if level not in network.config.levels:
            raise ValueError(f"Unknown {level=}, must be one of {network.config.levels}")
    parts = []
    for chunk in _batches(pairs, atoms_per_batch):
        batch = pairs.take(chunk)
        for _ in range(recycles):
            part = _pass(networks, batch, level)
            batch = replace(batch, fractional_initial=part.fractional, cell_initial=part.cell)
        parts.append(part)
    return BulkRelaxation(
        **{name: torch.cat([getattr(p, name) for p in parts]) for name in BulkRelaxation.__dataclass_fields__}
    )


def _pass(networks: Sequence[DeepRelaxE3], pairs: RelaxationPairs, level: str) -> BulkRelaxation:
    graph = pair_graph(pairs, networks[0].config.graph)
    members = [network(graph, network.config.levels.index(level))[-1] for network in networks]
    displacements = torch.stack([m.displacements for m in members])
    strains = torch.stack([m.strain for m in members])
    cell = matrix_product(pairs.cell_initial, symmetric_exponential(strains.mean(dim=0)))
    moved = rows_times_matrices(displacements.mean(dim=0), torch.linalg.inv(cell)[graph.batch])
    return BulkRelaxation(
        fractional=pairs.fractional_initial + moved,
        cell=cell,
        displacement_scales=torch.stack([m.displacement_scales for m in members]).mean(dim=0),
        volume_scales=torch.stack([m.volume_scales for m in members]).mean(dim=0),
        shape_scales=torch.stack([m.shape_scales for m in members]).mean(dim=0),
        displacement_variance=(displacements - displacements.mean(dim=0)).square().sum(dim=2).mean(dim=0),
        strain_variance=(strains - strains.mean(dim=0)).square().sum(dim=(2, 3)).mean(dim=0),
    )


@dataclass(frozen=True, eq=False)
class BulkPrediction:
    """What a model predicts for G pairs of N atoms.

    Attributes:
        fractional: (N, 3) fractional coordinates.
        cell: (G, 3, 3) Å.
        uncertainty: (G,) Å², the global uncertainty U, eq. (24), whose square root the predictor tells.
    """

    fractional: Tensor
    cell: Tensor
    uncertainty: Tensor


@torch.no_grad()
def predict_pairs(
    model: Model,
    pairs: RelaxationPairs,
    *,
    recycles: int | None = None,
    solver: EDGSettings | None = None,
    atoms_per_batch: int | None = None,
) -> BulkPrediction:
    """What :class:`~deeprelax_ase.Predictor` predicts, on the device of the pairs, without their symmetry.

    Args:
        model: of either architecture, on any device; it is moved to that of the pairs.
        pairs: whose unrelaxed crystals are relaxed.
        recycles: of an end-to-end network; the card's number by default.
        solver: settings of the geometry solver of the paper's network; the card's by default.
        atoms_per_batch: bounds the memory; by default 20,000, and 200 on a CPU.
    """
    networks, parts = model.networks.to(pairs.counts.device), []
    for chunk in _batches(pairs, atoms_per_batch):
        batch = pairs.take(chunk)
        exact = pair_graph(batch, model.config.graph).to(dtype=torch.float64)
        if isinstance(networks[0], DeepRelaxE3):
            looks = model.card.recycles if recycles is None else recycles
            relaxed = relax_end_to_end(model, exact, torch.float32, _untimed, relax_cell=True, recycles=looks)
        else:
            settings = EDGSettings(**model.card.solver) if solver is None else solver
            relaxed = relax_by_distances(model, exact, torch.float32, _untimed, relax_cell=True, solver=settings)
        fractional = rows_times_matrices(relaxed.positions, torch.linalg.inv(relaxed.cell)[exact.batch])
        parts.append(BulkPrediction(fractional, relaxed.cell, relaxed.uncertainty.crystals.total))
    return BulkPrediction(
        **{name: torch.cat([getattr(p, name) for p in parts]) for name in BulkPrediction.__dataclass_fields__}
    )


def _batches(pairs: RelaxationPairs, atoms: int | None) -> Batches:
    """The ``pairs`` in batches of so many atoms, by default of what the device that they lie on is fastest with."""
    usual = 200 if pairs.counts.device.type == "cpu" else 20000
    return Batches(pairs.counts, usual if atoms is None else atoms)


def _untimed(stage: str) -> AbstractContextManager[None]:
    return nullcontext()
