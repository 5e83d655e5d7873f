"""How the shipped end-to-end models are trained, and how a run departs from that by named settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deeprelax_ase.data import LEVELS, RelaxationPairs, concatenate, load_pairs
from deeprelax_ase.data.forces import load_pairs_with_forces
from deeprelax_ase.nn import DeepRelaxE3Config
from deeprelax_ase.training.augment import AugmentationSettings
from deeprelax_ase.training.settings import TrainingSettings


@dataclass(frozen=True)
class PairSettings:
    """Which pairs a network sees, and how often.

    Attributes:
        dft_copies: times that pairs which DFT relaxed stand in each epoch: they are few beside the potentials' and what
            the models are for.
        borrowed: share of the potential's pairs that stand a second time, as if they were DFT's: DFT's own all start
            near their minima.
        share: of all training pairs, for studies of data size.
    """

    dft_copies: int = 3
    borrowed: float = 0.5
    share: float = 1.0


CONFIG = DeepRelaxE3Config(channels=192, levels=LEVELS)
AUGMENTATION = AugmentationSettings(
    interpolated=0.25, relaxed=0.1, perturbed=0.2, strained=0.2, rattled=0.2, rewrapped=0.0
)
SETTINGS = TrainingSettings(
    atoms_per_batch=12000, learning_rate=2e-3, clip=10.0, tempering=1.0, weight_decay=0.1, augmentation=AUGMENTATION
)
PAIRS = PairSettings()


def departing(changes: dict[str, Any]) -> tuple[DeepRelaxE3Config, TrainingSettings, PairSettings]:
    """Network, training and pairs, with ``changes`` by the names of their fields or those of the augmentation.

    Raises:
        ValueError: there is no such field.
    """
    records = (CONFIG, SETTINGS, AUGMENTATION, PAIRS)
    known = {f.name for record in records for f in fields(record)} - {"augmentation"}
    if unknown := set(changes) - known:
        raise ValueError(f"Unknown settings {sorted(unknown)}, must be among {sorted(known)}")

    def of(record: Any) -> dict[str, Any]:
        return {f.name: changes[f.name] for f in fields(record) if f.name in changes}

    augmentation = replace(AUGMENTATION, **of(AUGMENTATION))
    settings = replace(SETTINGS, **of(SETTINGS), augmentation=augmentation)
    return replace(CONFIG, **of(CONFIG)), settings, replace(PAIRS, **of(PAIRS))


def training_pairs(
    files: list[Path], chosen: PairSettings = PAIRS, *, forces: Sequence[Path] = (), seed: int = 0
) -> RelaxationPairs:
    """The train split under both kinds of labels, as often as ``chosen`` says; the same for the same ``seed``.

    With ``forces``, a file for each of ``files``, their pairs with known forces too.
    """
    parts = [load_pairs(files, labels=name, dtype=torch.float32).in_split("train") for name in ("relaxed", "m3gnet")]
    known = zip(files, forces, strict=bool(forces))
    has_forces = [load_pairs_with_forces(*both, dtype=torch.float32).in_split("train") for both in known]
    return mixed(parts, chosen, has_forces=has_forces, seed=seed)


def mixed(
    parts: Sequence[RelaxationPairs], chosen: PairSettings, *, has_forces: Sequence[RelaxationPairs] = (), seed: int = 0
) -> RelaxationPairs:
    """All ``parts``, as often as ``chosen`` says, and the ``informed`` ones once; the same for the same ``seed``."""
    generator = torch.Generator().manual_seed(seed)

    def some(indices: Tensor, share: float) -> Tensor:
        order = torch.randperm(len(indices), generator=generator)
        return indices[order[: round(share * len(indices))]]

    pairs = concatenate([part.take(some(torch.arange(len(part)), chosen.share)) for part in parts])
    by_dft = (pairs.level == LEVELS.index("PBE")).nonzero().squeeze(1)
    borrowed = pairs.take(some((pairs.level == LEVELS.index("OAM")).nonzero().squeeze(1), chosen.borrowed))
    borrowed = replace(borrowed, level=torch.full_like(borrowed.level, LEVELS.index("PBE")))
    return concatenate([pairs, borrowed, *[pairs.take(by_dft)] * (chosen.dft_copies - 1), *has_forces])
