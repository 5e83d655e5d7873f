"""A round of learning once its labels are there: the model tuned on them, and the tuned one calibrated anew."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from deeprelax_ase.data import PairDataset
from deeprelax_ase.evaluation.calibrate import calibrate, write_calibration, write_novelty
from deeprelax_ase.models.loading import load_model
from deeprelax_ase.training import DataSettings, finetune_config, train_model

#: Training crystals without which nothing is fitted to tell novelty.
_FEWEST = 10


def tune(
    model: str | os.PathLike,
    pairs: Path,
    out: Path,
    *,
    name: str,
    level: str,
    seed: int,
    freeze: str = "none",
    members: int | None = None,
    epochs: float | None = None,
    device: str = "auto",
    changes: Sequence[str] = (),
) -> Path:
    """Tune a model on the training pairs of a file, unless that is done already; returns the card of the tuned one.

    Args:
        model: name of a shipped model, or path of a card.
        pairs: npz file, split.
        out: folder for it.
        name: of the tuned model.
        level: of theory in whose place the labels are learnt.
        seed: of training.
        freeze: the part that stays as it is, see :func:`~deeprelax_ase.training.finetune_config`.
        members: of the ensemble that are tuned; all by default.
        epochs: most of them; that of fine-tuning by default.
        device: for training.
        changes: settings of fine-tuning that differ, as ``NAME=VALUE``.

    Raises:
        ModelError, ValueError: see :func:`~deeprelax_ase.training.finetune_config`.
    """
    budget: dict[str, Any] = {} if epochs is None else {"max_epochs": epochs}
    config = finetune_config(
        os.fspath(model),
        DataSettings((os.fspath(pairs),), level=level),
        out,
        name=name,
        freeze=freeze,
        members=members,
        device=device,
        changes=changes,
        seed=seed,
        **budget,
    )
    card = config.out / f"{config.name}.json"
    if not card.exists():
        train_model(config)
    return card


def recalibrate(card: Path, pairs: Path, *, device: str = "auto") -> None:
    """Calibrate a model on the validation pairs of a file, and fit what is novel to it to the training pairs.

    What its card has already stays, and what there are too few pairs for is left out.
    """
    model = load_model(card)
    with suppress(ValueError):
        if not model.card.calibration:
            found = calibrate(model, [pairs], recycles=model.card.recycles, device=device)
            write_calibration(card, model, {model.card.recycles: found})
    model = load_model(card)
    with suppress(ValueError):
        if model.novelty is None:
            train = int((PairDataset.read(pairs).pairs.split == 0).sum())
            write_novelty(card, model, [pairs], crystals=max(train, _FEWEST), device=device)
