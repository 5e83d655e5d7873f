"""How the shipped end-to-end models are trained, and how a run departs from that by named settings."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from deeprelax_ase.data import LEVELS, Pairs, concatenate, load_pairs
from deeprelax_ase.nn import DeepRelaxE3Config
from deeprelax_ase.training.augment import AugmentationSettings
from deeprelax_ase.training.settings import TrainingSettings

CONFIG = DeepRelaxE3Config(channels=192, levels=LEVELS)
AUGMENTATION = AugmentationSettings(on_the_way=0.2, arrived=0.05, around=0.15, strained=0.2, rattled=0.2, rewrapped=0.0)
SETTINGS = TrainingSettings(atoms_per_batch=12000, learning_rate=2e-3, clip=10.0, augmentation=AUGMENTATION)


def departing(changes: dict[str, Any]) -> tuple[DeepRelaxE3Config, TrainingSettings]:
    """Network and training, with ``changes`` by the names of their fields or those of the augmentation.

    Raises:
        ValueError: there is no such field.
    """
    known = {f.name for record in (CONFIG, SETTINGS, AUGMENTATION) for f in fields(record)} - {"augmentation"}
    if unknown := set(changes) - known:
        raise ValueError(f"Unknown settings {sorted(unknown)}, must be among {sorted(known)}")

    def of(record: Any) -> dict[str, Any]:
        return {f.name: changes[f.name] for f in fields(record) if f.name in changes}

    augmentation = replace(AUGMENTATION, **of(AUGMENTATION))
    return replace(CONFIG, **of(CONFIG)), replace(SETTINGS, **of(SETTINGS), augmentation=augmentation)


def training_pairs(files: list[Path], *, labels: tuple[str, ...] = ("relaxed", "m3gnet"), dft_copies: int = 3) -> Pairs:
    """The train split under all ``labels``, pairs that DFT relaxed ``dft_copies`` times over.

    They are few beside the potentials' and what the models are for.
    """
    parts = [load_pairs(files, labels=name, dtype=torch.float32).in_split("train") for name in labels]
    pairs = concatenate(parts)
    by_dft = (pairs.level == LEVELS.index("PBE")).nonzero().squeeze(1)
    return concatenate([pairs, *[pairs.take(by_dft)] * (dft_copies - 1)])
