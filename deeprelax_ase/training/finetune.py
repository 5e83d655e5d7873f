"""Transfer learning: a shipped or trained model goes on with a few pairs of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from deeprelax_ase.models.loading import load_model
from deeprelax_ase.nn import DeepRelaxE3Config
from deeprelax_ase.prediction.devices import is_gpu
from deeprelax_ase.training.augment import AugmentationSettings
from deeprelax_ase.training.config import run_config
from deeprelax_ase.training.settings import DataSettings, RunConfig, TrainingSettings

#: Parts that stay as they are: none; those that know the elements; all but the last block, or all but the heads.
FREEZE = ("none", "elements", "backbone")

#: Fine-tuning is short, the rate low, and the starts are those of the data: near each other, as in use. On a CPU a step
#: takes the longer the more atoms it has, so that small batches make the most of it.
FINETUNING = TrainingSettings(
    max_epochs=60,
    atoms_per_batch=120,
    learning_rate=3e-4,
    weight_decay=0.05,
    warmup=0.05,
    clip=10.0,
    average_decay=0.99,
    tempering=1.0,
    recycled=0.3,
    patience=8,
    validate_every=1.0,
    log_every=10,
    lattice_weight=1.0,
    augmentation=AugmentationSettings(
        interpolated=0.15, relaxed=0.05, perturbed=0.1, strained=0.2, rattled=0.2, rewrapped=0.0
    ),
)

#: The same on a GPU, where a step of few atoms takes as long as one of many.
GPU_FINETUNING = replace(FINETUNING, atoms_per_batch=2000, smallest_batch=FINETUNING.atoms_per_batch)


def finetune_config(
    model: str,
    data: DataSettings,
    out: str | Path,
    *,
    name: str | None = None,
    freeze: str = "none",
    members: int | None = None,
    scratch: bool = False,
    device: str = "auto",
    changes: Sequence[str] = (),
    **training: Any,
) -> RunConfig:
    """The run that fine-tunes ``model`` on ``data``.

    Args:
        model: name of a shipped model, or path of a card.
        data: pairs, 50 to a few thousand.
        out: folder of the run.
        name: of the new model; that of the old one with ``-tuned`` by default.
        freeze: the part that stays as it is, see :data:`FREEZE`.
        members: how many of the ensemble's networks go on; all by default.
        scratch: begin with random weights instead, to see what the transfer is worth.
        device: ``cpu``, ``cuda`` or ``auto``; on a GPU batches are larger.
        changes: settings of the run that differ, as ``NAME=VALUE``.
        **training: fields of :class:`~deeprelax_ase.training.settings.TrainingSettings` that differ.

    Raises:
        ModelError: the model is unknown.
        DeviceError: the device is not to be had.
        ValueError: ``freeze`` or a setting is unknown, or the model has fewer members.
    """
    loaded = load_model(model)
    if members is not None and not 1 <= members <= len(loaded.networks):
        raise ValueError(f"{members=} must be between 1 and {len(loaded.networks)}, the size of {loaded.card.name}")
    network = {"architecture": loaded.card.architecture, **loaded.config.to_dict()}
    start: dict[str, Any] = {}
    if not scratch:
        frozen = frozen_parts(loaded.config, freeze)
        start = {"initial": str(model), "frozen": frozen, "description": f"Fine-tuned from {loaded.card.name}."}
    return run_config(
        {
            "name": name or f"{loaded.card.name}-tuned",
            "out": out,
            "data": asdict(data),
            "network": network,
            "training": training,
            "device": device,
            "members": members or len(loaded.networks),
            **start,
        },
        changes,
        training=GPU_FINETUNING if is_gpu(device) else FINETUNING,
    )


def frozen_parts(config: Any, freeze: str) -> tuple[str, ...]:
    """Beginnings of the names of the parameters that stay.

    Raises:
        ValueError: ``freeze`` is unknown.
    """
    if freeze not in FREEZE:
        raise ValueError(f"Unknown {freeze=}, must be one of {FREEZE}")
    if freeze == "none":
        return ()
    if isinstance(config, DeepRelaxE3Config):
        reader = ("forces",) if config.reads_forces else ()
        earlier = tuple(f"blocks.{n}" for n in range(config.num_blocks - 1))
        return ("elements", "levels", *reader, *(earlier if freeze == "backbone" else ()))
    return ("backbone.embedding",) if freeze == "elements" else ("backbone",)
