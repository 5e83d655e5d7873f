"""Relaxing pairs in bulk, on the device that they lie on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.data.batches import Batches, pair_graph
from deeprelax_ase.graph.crystal_graph import rows_times_matrices
from deeprelax_ase.models.model import Model
from deeprelax_ase.prediction.devices import default_atoms_per_batch
from deeprelax_ase.prediction.inference import BatchRelaxation, InferenceSettings, relax


@dataclass(frozen=True, eq=False)
class PairPredictions:
    """Predictions of a model for G pairs of N atoms.

    Attributes:
        fractional: (N, 3) fractional coordinates.
        cell: (G, 3, 3) Å.
        uncertainty: (G,) Å², the global uncertainty U, eq. (24), whose square root the predictor tells.
        energies: (G,) eV/atom of the relaxed crystals; nan where none is told, and of models that tell none.
        energy_scales: (G,) eV/atom, their Laplace scales; nan of models that tell none.
        kinds: (G,) of the crystals, see :func:`~deeprelax_ase.uncertainty.calibration.kinds_of`; nan for the paper's
            network.
    """

    fractional: Tensor
    cell: Tensor
    uncertainty: Tensor
    energies: Tensor
    energy_scales: Tensor
    kinds: Tensor


@torch.no_grad()
def predict_pairs(
    model: Model,
    pairs: RelaxationPairs,
    *,
    recycles: int | None = None,
    atoms_per_batch: int | None = None,
) -> PairPredictions:
    """Predict as :class:`~deeprelax_ase.Predictor` does, but without a search for the symmetry of the pairs.

    Fixed cells are kept where the model reads that they are, see :class:`~deeprelax_ase.nn.DeepRelaxE3Config`.

    Args:
        model: of either architecture, on any device; it is moved to that of the pairs.
        pairs: their unrelaxed crystals are relaxed.
        recycles: see :class:`~deeprelax_ase.Predictor`.
        atoms_per_batch: bounds the memory, see :meth:`~deeprelax_ase.Predictor.predict_many`.

    Raises:
        ModelError: the model has no use for ``recycles``.
        ValueError: there are no pairs.
    """
    if not len(pairs):
        raise ValueError("there are no pairs to relax")
    settings = InferenceSettings.of(model.card, recycles=recycles)
    device = pairs.counts.device
    networks = model.networks.to(device)
    if model.energy is not None:
        model.energy.to(device)
    dtype = next(networks.parameters()).dtype
    atoms = default_atoms_per_batch(device) if atoms_per_batch is None else atoms_per_batch
    fixed = pairs.fixed_cell & bool(getattr(model.config, "reads_cell_freedom", False))
    parts, order = [], []
    for relax_cell in (True, False):
        crystals = (fixed != relax_cell).nonzero().squeeze(1)
        for chunk in Batches(pairs.counts[crystals], atoms):
            graph = pair_graph(pairs.take(crystals[chunk]), model.config.graph)
            relaxed = relax(model, graph, settings, dtype=dtype, relax_cell=relax_cell)
            fractional = rows_times_matrices(relaxed.positions, torch.linalg.inv(relaxed.cell)[graph.batch])
            parts.append(PairPredictions(fractional, relaxed.cell, relaxed.uncertainty.crystals.total, *_told(relaxed)))
        order.append(crystals)
    return _in_order(parts, torch.cat(order), pairs)


def _in_order(parts: Sequence[PairPredictions], order: Tensor, pairs: RelaxationPairs) -> PairPredictions:
    """The ``parts``, which hold the ``pairs`` in that ``order`` (G,), as one and in the order of the pairs."""
    joined = {f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(PairPredictions)}
    crystals, atoms = order.argsort(), pairs.atoms_of(order).argsort()
    return PairPredictions(**{name: t[atoms if name == "fractional" else crystals] for name, t in joined.items()})


def _told(relaxed: BatchRelaxation) -> tuple[Tensor, Tensor, Tensor]:
    """(G,) energies, their scales, and the kinds of crystals that bounds tell apart."""
    nothing = torch.full_like(relaxed.cell[:, 0, 0], torch.nan)
    energies, scales = (nothing, nothing) if relaxed.energies is None else relaxed.energies
    kinds = nothing if relaxed.features is None else relaxed.features.kind
    return energies.masked_fill(relaxed.flaws != 0, torch.nan), scales, kinds
