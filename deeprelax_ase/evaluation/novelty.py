"""Fits what tells novelty: training crystals against outliers made of them, with a limit that others keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.data import RelaxationPairs, crystals_of
from deeprelax_ase.evaluation.outliers import MOST_ATOMS, SHAPES, TAUGHT_BY, Maker, substituted
from deeprelax_ase.graph import build_graph
from deeprelax_ase.models.model import Model
from deeprelax_ase.prediction.batching import attempt, grouped
from deeprelax_ase.prediction.devices import default_atoms_per_batch
from deeprelax_ase.prediction.inference import atom_scalars
from deeprelax_ase.progress import track
from deeprelax_ase.uncertainty.novelty import Novelty, fit_novelty


class AtomScalars(NamedTuple):
    """A network's features of the N atoms of G crystals, on the device of the network.

    Attributes:
        scalars: (N, F) see :func:`~deeprelax_ase.prediction.inference.atom_scalars`.
        numbers: (N,) atomic numbers.
        batch: (N,) the crystal of each atom.
        size: G.
    """

    scalars: Tensor
    numbers: Tensor
    batch: Tensor
    size: int


def fit_novelty_on(
    model: Model, training: RelaxationPairs, validation: RelaxationPairs, *, crystals: int, seed: int = 0
) -> tuple[Novelty, dict[str, object]]:
    """Fit the classifier that tells novelty to the ``model``; return it with a record of what it was fitted to.

    Args:
        model: on the device that is to compute.
        training: pairs that the model has learnt from. Kinds of crystals that are among them are no outliers.
        validation: ordinary pairs that it has not learnt from; as many are drawn to set the limit.
        crystals: so many training pairs are drawn, and of each one crystal is known, unrelaxed or relaxed in turn; of
            each kind of outliers a tenth of that is made.
        seed: of the draws and of the fit.
    """
    rng = np.random.default_rng(seed)
    known = _half_relaxed(_drawn(training, crystals, rng))
    makers = makers_for(training, model.card.elements)
    each = max(1, crystals // 10)
    strange = [made for maker in makers.values() for made in outliers(maker, training, each, rng)]
    atoms = atom_scalars_of(model, [*known, *strange], "novelty: training crystals and outliers")
    is_outlier = torch.arange(atoms.size, device=atoms.batch.device) >= len(known)
    novelty = fit_novelty(atoms.scalars, atoms.numbers, atoms.batch, is_outlier, seed=seed)
    unknown = crystals_of(_drawn(validation, crystals, rng), "initial")
    ordinary = atom_scalars_of(model, unknown, "novelty: validation crystals")
    fitted = {"crystals": len(known), "outliers": len(strange), "kinds": list(makers), "validation": ordinary.size}
    return novelty.limited(novelty.logits(*ordinary)), fitted | {"seed": seed}


def makers_for(training: RelaxationPairs, elements: Sequence[int]) -> Mapping[str, Maker]:
    """Makers of the kinds of outliers, by name, that ``training`` does not teach; of these ``elements``."""
    taught = {name for kind in training.kind.unique().tolist() for name in TAUGHT_BY.get(kind, ())}
    return {name: maker for name, maker in {**SHAPES, **substituted(elements)}.items() if name not in taught}


def outliers(maker: Maker, training: RelaxationPairs, count: int, rng: np.random.Generator) -> list[Crystal]:
    """Up to ``count`` of one kind, made of training crystals of which every other one is relaxed."""
    made = [maker(crystal, rng) for crystal in _half_relaxed(_drawn(training, count, rng))]
    return [crystal for crystal in made if crystal is not None and len(crystal) <= MOST_ATOMS]


def atom_scalars_of(model: Model, crystals: Sequence[Crystal], words: str) -> AtomScalars:
    """Compute the ``model``'s features of the atoms of the ``crystals``. Crystals without a graph are left out."""
    device = next(model.networks.parameters()).device

    def scalars_of(some: Sequence[Crystal]) -> list[Tensor]:
        graph = build_graph(some, settings=model.config.graph, device=device)
        return [*atom_scalars(model, graph).split([len(crystal) for crystal in some])]

    kept: list[tuple[Crystal, Tensor]] = []
    for batch in grouped(track(crystals, words), default_atoms_per_batch(device)):
        some = cast("list[Crystal]", batch)
        made = attempt(scalars_of, some, device)
        kept += [(crystal, scalars) for crystal, scalars in zip(some, made, strict=True) if isinstance(scalars, Tensor)]
    numbers = torch.from_numpy(np.concatenate([crystal.numbers for crystal, _ in kept]))
    counts = torch.tensor([len(crystal) for crystal, _ in kept])
    batch_of = torch.repeat_interleave(torch.arange(len(kept)), counts)
    return AtomScalars(torch.cat([x for _, x in kept]), numbers.to(device), batch_of.to(device), len(kept))


def _half_relaxed(pairs: RelaxationPairs) -> list[Crystal]:
    """One crystal of each pair, of every other one the relaxed one."""
    return [*crystals_of(pairs, "initial")[::2], *crystals_of(pairs, "relaxed")[1::2]]


def _drawn(pairs: RelaxationPairs, count: int, rng: np.random.Generator) -> RelaxationPairs:
    chosen = rng.choice(len(pairs), size=min(count, len(pairs)), replace=False)
    return pairs.take(torch.from_numpy(np.sort(chosen)))
