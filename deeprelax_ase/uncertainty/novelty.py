"""Novelty: a measure of how unlike a crystal is to those that a network has learnt from, by its features of the atoms.

Distances in a network's features say little here: crystals of unseen chemical systems, which it relaxes well, lie as
far from what it knows as slabs do. The difference is learnt: a small perceptron reads the atoms' scalars, and is
fitted to tell training crystals from outliers that are made of them (outlier exposure: Hendrycks, Mazeika & Dietterich,
ICLR 2019, arXiv:1812.04606). For atom i of element z with scalars x_i::

    a_i, b_i = V silu(W x_i + c_z)
    logit = max_i a_i + mean_i b_i
    novelty = exp(logit - limit)

One atom that is unlike all others is enough, as in a defect; or a little of it in all of them, as under pressure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn import functional

from deeprelax_ase.graph.crystal_graph import crystal_mean
from deeprelax_ase.graph.shapes import Batch, Numbers, PerCrystal, Scalars

#: Share of ordinary validation crystals that stay within the limit.
KNOWN = 0.985

#: Elements that a network may know, and one for none.
_ELEMENTS = 119

#: Channels of the perceptron.
_HIDDEN = 64

#: Atoms by which the mean of an element leans towards that of all: of a rare one little is known.
_PRIOR = 5.0

#: Steps of the fit, the largest step, the decay of weights, and the share of channels that are left out at random.
_STEPS, _RATE, _DECAY, _DROPOUT = 500, 4e-3, 1e-2, 0.4

#: Directions of the scalars that are read, where known atoms differ most. All of them tell molecules less well.
_DIRECTIONS = 128

#: Crystals that a step sees, about.
_BATCH = 500

#: Logarithm of the largest novelty.
_LARGEST = math.log(1e6)


@dataclass(frozen=True, eq=False)
class Novelty:
    """Classifier of crystals that are novel to a network with F scalars an atom.

    Attributes:
        weight: (F, C) W above.
        bias: (119, C) c above, by atomic number.
        readout: (C, 2) V above.
        limit: () logarithm of the odds that ordinary crystals keep.
    """

    weight: Tensor
    bias: Tensor
    readout: Tensor
    limit: Tensor

    def logits(self, scalars: Scalars, numbers: Numbers, batch: Batch, size: int) -> PerCrystal:
        """(G,) logarithm of the odds that each of ``size`` crystals is an outlier, in single precision.

        Args:
            scalars: (N, F) x of the network's first member after its first block, in the first recycle.
            numbers: (N,) atomic numbers.
            batch: (N,) the crystal of each atom.
            size: G.
        """
        hidden = functional.silu(scalars.to(self.weight.dtype) @ self.weight + self.bias[numbers])
        return _pooled(hidden @ self.readout, batch, size)

    def of(self, scalars: Scalars, numbers: Numbers, batch: Batch, size: int) -> PerCrystal:
        """(G,) the novelty: odds over those that ordinary crystals keep; arguments as of :meth:`logits`."""
        return (self.logits(scalars, numbers, batch, size) - self.limit).clamp(max=_LARGEST).exp()

    def limited(self, ordinary: PerCrystal) -> Novelty:
        """The same with the limit that most ``ordinary`` crystals keep, whose logits (n,) are given."""
        return replace(self, limit=torch.quantile(ordinary, KNOWN))

    def to(self, device: torch.device | str) -> Novelty:
        """All tensors on ``device``."""
        return Novelty(**{name: tensor.to(device) for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """By name, to be stored with a model."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Novelty:
        """The inverse of :meth:`tensors`.

        Raises:
            ValueError: they are not those of a novelty.
        """
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        channels = shapes.get("weight", (0, 0))[-1]
        wanted = {"bias": (_ELEMENTS, channels), "readout": (channels, 2), "limit": ()}
        if {name: shape for name, shape in shapes.items() if name != "weight"} != wanted:
            raise ValueError(f"tensors of the shapes {shapes} tell no novelty")
        return cls(**{name: tensor.float() for name, tensor in tensors.items()})


def fit_novelty(scalars: Tensor, numbers: Tensor, batch: Tensor, outliers: Tensor, *, seed: int = 0) -> Novelty:
    """Fit a classifier that tells the ``outliers`` from the other crystals; its limit is still to be set.

    Args:
        scalars: (N, F) see :meth:`Novelty.logits`.
        numbers: (N,) atomic numbers.
        batch: (N,) the crystal of each atom.
        outliers: (G,) bool, which crystals are outliers; the others are known to the network.
        seed: of the perceptron's first weights, and of what is left out.

    Raises:
        ValueError: there are no outliers, or nothing else.
    """
    if outliers.all() or not outliers.any():
        raise ValueError(f"{int(outliers.sum())} outliers of {len(outliers)} crystals: novelty needs both kinds")
    scalars, known = scalars.float(), ~outliers[batch]
    means = _element_means(scalars[known], numbers[known])
    centred = scalars - means[numbers]
    whitening = _whitening(centred[known])
    inputs, truth = centred @ whitening, outliers.float()
    weights = torch.where(outliers, 0.5 / truth.mean(), 0.5 / (1 - truth.mean()))  # both kinds count alike
    with torch.random.fork_rng(devices=[scalars.device] if scalars.is_cuda else []):
        torch.manual_seed(seed)
        first, last = torch.nn.Linear(inputs.shape[1], _HIDDEN), torch.nn.Linear(_HIDDEN, 2, bias=False)
        network = torch.nn.Sequential(first, torch.nn.SiLU(), last).to(scalars.device)
        optimizer = torch.optim.AdamW(network.parameters(), _RATE, weight_decay=_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=_STEPS)
        for _ in range(_STEPS):
            chosen = torch.rand(len(truth), device=inputs.device) < _BATCH / len(truth)
            atoms, owner = chosen[batch], (chosen.cumsum(0) - 1)[batch]
            read = network(functional.dropout(inputs[atoms], _DROPOUT))
            logits = _pooled(read, owner[atoms], int(chosen.sum()))
            loss = functional.binary_cross_entropy_with_logits(logits, truth[chosen], weights[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.requires_grad_(False)
    weight = whitening @ first.weight.T
    return Novelty(weight, first.bias - means @ weight, last.weight.T.contiguous(), weight.new_zeros(()))


def _pooled(atoms: Tensor, batch: Batch, size: int) -> PerCrystal:
    """(size,) largest of the first column of ``atoms`` (N, 2), and mean of the second."""
    strongest, mild = atoms.unbind(dim=1)
    largest = torch.full_like(strongest[:1], -math.inf).expand(size).scatter_reduce(0, batch, strongest, "amax")
    return largest + crystal_mean(mild[:, None], batch, size).squeeze(1)


def _element_means(scalars: Tensor, numbers: Tensor) -> Tensor:
    """(119, F) mean scalars of the atoms of each element."""
    sums = scalars.new_zeros(_ELEMENTS, scalars.shape[1]).index_add(0, numbers, scalars)
    counts = torch.bincount(numbers, minlength=_ELEMENTS)[:, None]
    return (sums + _PRIOR * scalars.mean(dim=0)) / (counts + _PRIOR)


def _whitening(centred: Tensor) -> Tensor:
    """(F, D) what makes the covariance of the ``centred`` scalars (N, F) the identity in their main directions."""
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    return (vectors / values.clamp_min(1e-6 * values[-1]).sqrt())[:, -_DIRECTIONS:]
