"""The pairs that a run learns from, and how often each of them stands in an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from deeprelax_ase.data import LEVELS, PairDataset, RelaxationPairs, concatenate
from deeprelax_ase.data.forces import load_pairs_with_forces
from deeprelax_ase.data.pairs import has_labels
from deeprelax_ase.io.source import path_of
from deeprelax_ase.training.settings import DataSettings, PairSettings


def read_pairs(data: DataSettings) -> list[RelaxationPairs]:
    """The pairs under each kind of labels, all splits, in single precision."""

    def having(labels: str) -> tuple[str, ...]:
        files = {source: path_of(source) for source in data.sources if path_of(source).suffix == ".npz"}
        without = {source for source, file in files.items() if file.is_file() and not has_labels(file, labels)}
        return tuple(source for source in data.sources if source not in without) or data.sources

    return [
        PairDataset.read(
            having(labels),
            format=data.format,
            key=data.key,
            level=data.level,
            labels=labels,
            start_forces=data.start_forces,
            fractions=data.fractions,
            seed=data.seed,
            dtype=torch.float32,
        ).pairs
        for labels in data.labels
    ]


def epoch_pairs(data: DataSettings, parts: Sequence[RelaxationPairs]) -> RelaxationPairs:
    """Assemble the pairs of an epoch: the training split of ``parts``, and the pairs whose forces are known."""
    files = zip(data.sources, data.forces, strict=False)
    has_forces = [load_pairs_with_forces(*both, dtype=torch.float32).in_split("train") for both in files]
    return mixed([part.in_split("train") for part in parts], data.choice, has_forces=has_forces, seed=data.seed)


def mixed(
    parts: Sequence[RelaxationPairs], chosen: PairSettings, *, has_forces: Sequence[RelaxationPairs] = (), seed: int = 0
) -> RelaxationPairs:
    """All ``parts``, as often as ``chosen`` says, and those with known forces once; the same for the same ``seed``."""
    generator = torch.Generator().manual_seed(seed)

    def some(indices: Tensor, share: float) -> Tensor:
        order = torch.randperm(len(indices), generator=generator)
        return indices[order[: round(share * len(indices))]]

    pairs = concatenate([part.take(some(torch.arange(len(part)), chosen.share)) for part in parts])
    by_dft = pairs.take((pairs.level == LEVELS.index("PBE")).nonzero().squeeze(1))
    of_potential = pairs.level == LEVELS.index("OAM")
    borrowed = pairs.take(some(of_potential.nonzero().squeeze(1), chosen.borrowed))
    borrowed = replace(borrowed, level=torch.full_like(borrowed.level, LEVELS.index("PBE")))
    if chosen.potential < 1:
        kept = some(of_potential.nonzero().squeeze(1), chosen.potential)
        pairs = pairs.take(torch.cat([(~of_potential).nonzero().squeeze(1), kept]).sort().values)
    once = concatenate([pairs, borrowed])
    fixed = once.take(once.fixed_cell.nonzero().squeeze(1))
    dft_copies = [by_dft] * (chosen.dft_copies - 1)
    return concatenate([once, *dft_copies, *[fixed] * (chosen.fixed_cell_copies - 1), *has_forces])
