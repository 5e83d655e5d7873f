"""Train one network, on one device or several."""

from __future__ import annotations

import json
import logging
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.training.batches import BatchStream
from deeprelax_ase.training.settings import TrainingSettings
from deeprelax_ase.training.tasks import Task, task_of

logger = logging.getLogger(__name__)

#: Loggers by name: the columns of ``metrics.csv``, TensorBoard's event files, a run of Weights & Biases.
LOGGERS = ("csv", "tensorboard", "wandb")


def _nothing(record: dict[str, Any]) -> None:
    pass


def train(
    pairs: RelaxationPairs,
    config: Any,
    settings: TrainingSettings,
    out: str | Path,
    *,
    validation: RelaxationPairs | None = None,
    deadline: float | None = None,
    initial: str | Path | dict[str, Tensor] | None = None,
    frozen: Sequence[str] = (),
    device: str | torch.device | None = None,
    devices: int = 1,
    loggers: Sequence[str] = (),
    make_task: Callable[..., Task] = task_of,
    observe: Callable[[dict[str, Any]], None] = _nothing,
) -> Any:
    """Train one network on all ``pairs``.

    Writes ``log.jsonl`` (losses, gradient norm of every part, throughput, validation errors), ``settings.json``,
    ``checkpoint.ckpt`` and what the ``loggers`` write into ``out``; a checkpoint found there is continued, with the
    batches that an uninterrupted run would have seen.

    Args:
        pairs: what to train on.
        config: the network.
        settings: see :class:`TrainingSettings`.
        out: folder of the run.
        validation: pairs to validate on; the weights that did best there are returned. None for no validation.
        deadline: ``time.monotonic()`` at which to stop and leave the rest to a later call, when a machine is lent for a
            shorter time than the run takes.
        initial: weights to start from, see :func:`~deeprelax_ase.training.weights.load_initial`.
        frozen: beginnings of the names of parameters that stay as they are.
        device: ``cpu`` or ``cuda``; where ``pairs`` lie by default.
        devices: how many of them; each learns from batches of its own.
        loggers: among :data:`LOGGERS`.
        make_task: what training is for this network, called with pairs, config, settings and device.
        observe: is given each record of ``log.jsonl``, for progress bars.

    Returns:
        The network with its averaged weights, on the device; None if the deadline came first.

    Raises:
        ValueError: there are no pairs, early stopping or the plateau schedule lack validation pairs, a logger is
            unknown, or the run was begun on another number of devices.
        KeyboardInterrupt: the user stopped it; the same call goes on from the last checkpoint.
    """
    _check(pairs, validation, settings, loggers)
    # Lightning takes seconds to import, and the help of the command line does without it.
    from lightning.pytorch import Trainer

    from deeprelax_ase.training.devices import AveragedGradients
    from deeprelax_ase.training.module import RelaxationTraining, checkpoint_file

    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    place = pairs.counts.device if device is None else torch.device(device)
    stream = BatchStream(pairs.counts, settings.atoms_per_batch, settings.seed, world=devices)
    settings = _in_steps(settings, stream)
    with (out / "log.jsonl").open("a") as log, _quiet(), _arithmetic(settings):

        def record(values: dict[str, Any]) -> None:
            log.write(json.dumps(values) + "\n")
            log.flush()
            logger.info("%s", values)
            observe(values)

        module = RelaxationTraining(
            lambda there, seed: make_task(_placed(pairs, there, settings), config, replace(settings, seed=seed), there),
            settings,
            stream,
            out,
            validation=validation,
            initial=initial,
            frozen=frozen,
            deadline=deadline,
            observe=record,
        )
        trainer = Trainer(
            accelerator="gpu" if place.type == "cuda" else "cpu",
            devices=[place.index or 0] if place.type == "cuda" and devices == 1 else devices,
            strategy=AveragedGradients() if devices > 1 else "auto",
            max_epochs=-1,
            limit_val_batches=0,
            logger=[_logger(name, out) for name in loggers],
            default_root_dir=out,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        file = checkpoint_file(out)
        with _interruptible():
            trainer.fit(module, ckpt_path=file if file.exists() else None, weights_only=True)
        if module.interrupted:
            return None
        if not module.finished:
            raise KeyboardInterrupt  # which some versions of Lightning take for a way to end
        module.save()
    if trainer.is_global_zero:
        summary = {"steps": module.step, "seconds": module.elapsed(), "config": config.to_dict()}
        summary |= {"best": {name: module.best[name] for name in ("step", "error")}} if validation is not None else {}
        (out / "settings.json").write_text(json.dumps({**summary, "training": asdict(settings)}, indent=1))
    network = module.average
    network.load_state_dict(module.result())
    return network.to(place)  # Lightning has moved it to the CPU


def _check(
    pairs: RelaxationPairs, validation: RelaxationPairs | None, settings: TrainingSettings, loggers: Sequence[str]
) -> None:
    if not len(pairs):
        raise ValueError("No pairs to train on: is the split of that name empty?")
    if validation is not None and not len(validation):
        raise ValueError("No pairs to validate on: is the split of that name empty?")
    if validation is None and (settings.patience is not None or settings.schedule == "plateau"):
        raise ValueError("Early stopping and the plateau schedule need validation pairs: there are none")
    for name in loggers:
        if name not in LOGGERS:
            raise ValueError(f"Unknown logger {name!r}, must be one of {LOGGERS}")


def _in_steps(settings: TrainingSettings, stream: BatchStream) -> TrainingSettings:
    """The ``settings`` with a budget in epochs as one in steps."""
    if settings.max_steps is not None or settings.max_epochs is None:
        return settings
    return replace(settings, max_steps=max(round(settings.max_epochs * stream.steps_per_epoch()), 1))


def _placed(pairs: RelaxationPairs, device: torch.device, settings: TrainingSettings) -> RelaxationPairs:
    """The ``pairs`` on the ``device``, or where they were if they are to be moved batch by batch."""
    if settings.resident == "never":
        return pairs
    if settings.resident == "auto" and device.type == "cuda":
        size = sum(tensor.numel() * tensor.element_size() for tensor in vars(pairs).values())
        if 2 * size > torch.cuda.mem_get_info(device)[0]:
            logger.info("the pairs take %.1f GB: they are moved to %s batch by batch", size / 1e9, device)
            return pairs
    return pairs.to(device)


def _logger(name: str, out: Path) -> Any:
    from lightning.pytorch import loggers

    if name == "csv":  # which would delete the figures of an earlier call
        return loggers.CSVLogger(out, name="csv", flush_logs_every_n_steps=1)
    if name == "tensorboard":
        return loggers.TensorBoardLogger(out, name="tensorboard", version="")
    return loggers.WandbLogger(project="deeprelax", name=out.name, save_dir=out, id=out.name, resume="allow")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without advice that is of no use here: batches are made by hand, and so is what is logged."""
    talkative = logging.getLogger("lightning.pytorch")
    before = talkative.level
    talkative.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning")
            yield
    finally:
        talkative.setLevel(before)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Pass Ctrl-C on to the caller, which Lightning answers by ending the process and being deaf to it from then on."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        if signal.getsignal(signal.SIGINT) is not handler:
            signal.signal(signal.SIGINT, handler)


@contextmanager
def _arithmetic(settings: TrainingSettings) -> Iterator[None]:
    """Matrix products on CUDA in TF32 where the settings say so."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = settings.tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
