"""Errors of inference on pairs, during training and of the finished model."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from deeprelax_ase.data import LEVELS, RelaxationPairs
from deeprelax_ase.evaluation.metrics import prediction_errors
from deeprelax_ase.evaluation.pair_predictions import predict_pairs
from deeprelax_ase.models.model import Model, model_of
from deeprelax_ase.nn import DeepRelax, DeepRelaxE3
from deeprelax_ase.training.heads import without_heads


def mean_errors(
    model: Model, pairs: RelaxationPairs, *, recycles: int, atoms_per_batch: int | None = None
) -> dict[str, float]:
    """Mean over ``pairs`` of each of :func:`~deeprelax_ase.evaluation.metrics.prediction_errors`."""
    predicted = predict_pairs(model, pairs, recycles=recycles, atoms_per_batch=atoms_per_batch)
    fractional, cell = predicted.fractional.to(pairs.fractional_relaxed), predicted.cell.to(pairs.cell_relaxed)
    return {name: values.double().mean().item() for name, values in prediction_errors(pairs, fractional, cell).items()}


def predicted_errors(network: nn.Module, pairs: RelaxationPairs, *, atoms_per_batch: int) -> dict[str, float]:
    """Mean errors in Å of a ``network`` in training as it is used, an end-to-end one with one recycle.

    They stand beside the error of the loss, by which weights are chosen: that sees crystals as training does, with the
    forces that are told and the direction of vacuum that the pairs have.

    Args:
        network: with its averaged weights, without gradients.
        pairs: on its device; an end-to-end network relaxes each to its own level of theory.
        atoms_per_batch: bounds the memory.
    """
    plain = cast("DeepRelax | DeepRelaxE3", without_heads(network))
    index = pairs.level if isinstance(plain, DeepRelaxE3) else torch.zeros_like(pairs.level)
    totals = {"predicted coordinates": 0.0, "predicted lattice": 0.0}
    for number in index.unique().tolist():
        own = pairs.take((index == number).nonzero().squeeze(1))
        model = model_of([plain], "in training", level=LEVELS[number] if isinstance(plain, DeepRelaxE3) else "")
        found = mean_errors(model, own, recycles=1, atoms_per_batch=atoms_per_batch)
        for name in totals:
            totals[name] += found[name.removeprefix("predicted ")] * len(own) / len(pairs)
    return totals
