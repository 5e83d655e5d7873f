"""Train one network: a plain loop on Lightning's Fabric, with early stopping, on one device or several."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.data.batches import Batches
from deeprelax_ase.training.batches import BatchStream
from deeprelax_ase.training.checkpoint import Progress, checkpoint_file, load_checkpoint, save_checkpoint
from deeprelax_ase.training.devices import (
    LOGGERS,
    average_gradients,
    finalized,
    launched_fabric,
    resident,
    share_weights,
    tensor_float_32,
)
from deeprelax_ase.training.heads import without_heads
from deeprelax_ase.training.parameters import make_optimizers
from deeprelax_ase.training.settings import TrainingSettings
from deeprelax_ase.training.tasks import Task, task_of
from deeprelax_ase.training.validation import predicted_errors
from deeprelax_ase.training.weights import Weights, freeze, load_initial

if TYPE_CHECKING:
    from lightning.fabric import Fabric

logger = logging.getLogger(__name__)

#: Is given each record of the log.
Observer = Callable[[dict[str, Any]], None]

#: Steps between looks at a clock that several processes share.
_AGREE_EVERY = 20

#: Steps between exchanges of the weights, which equal gradients keep equal but for rounding.
_SHARE_EVERY = 500

#: First steps of a call that compile and record what follows. The clock stands still meanwhile: a minute for that would
#: be longer than the warm-up.
_COMPILING = 3


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
    observe: Observer = _nothing,
) -> Any:
    """Train one network on all ``pairs``.

    Writes ``log.jsonl``, ``settings.json``, ``checkpoint.ckpt`` and what the ``loggers`` write into ``out``. A
    checkpoint found there is continued, with the batches and random numbers that an uninterrupted run would have seen.

    Args:
        pairs: the pairs to train on.
        config: the network.
        settings: see :class:`~deeprelax_ase.training.settings.TrainingSettings`.
        out: folder of the run.
        validation: pairs to validate on; the weights that did best there are returned. None for no validation.
        deadline: ``time.monotonic()`` at which to stop and leave the rest to a later call.
        initial: weights to start from, see :func:`~deeprelax_ase.training.weights.load_initial`.
        frozen: beginnings of the names of parameters that stay as they are.
        device: ``cpu`` or ``cuda``; where ``pairs`` lie by default.
        devices: how many of them; each learns from batches of its own.
        loggers: among :data:`~deeprelax_ase.training.devices.LOGGERS`.
        make_task: what training is for this network, called with pairs, config, settings and device.
        observe: is given each record of ``log.jsonl``, for progress bars.

    Returns:
        The network with its averaged weights, on the device, and with its head for the relaxed energy where that was
        learnt; None if the deadline came first.

    Raises:
        ValueError: pairs are missing, a logger is unknown, or the run was begun on another number of devices.
        KeyboardInterrupt: the user stopped it; the same call goes on from the last checkpoint.
    """
    _check(pairs, validation, settings, loggers)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    place = pairs.counts.device if device is None else torch.device(device)
    fabric = launched_fabric(place, devices, loggers=loggers, out=out)
    rank, world = fabric.global_rank, fabric.world_size
    settings = settings.for_atoms(int(pairs.counts.sum()))
    stream = BatchStream(pairs.counts, settings.atoms_per_batch, settings.seed, rank=rank, world=world)
    settings = settings.in_steps(stream.steps_per_epoch())
    with tensor_float_32(settings.tf32), finalized(fabric.loggers):
        task = _seeded_task(make_task, resident(pairs, fabric.device, settings.resident), config, settings, fabric)
        _start_from(task.network, initial, frozen)
        loop = TrainingLoop(fabric, task, settings, out, validation=validation, observe=observe)
        if initial is not None:
            loop.note_start()
        if not loop.run(stream, deadline=deadline):
            return None
    if fabric.is_global_zero:
        _write_settings(out, config, settings, loop.summary())
    return without_heads(loop.result(), but_energy=True)


def _seeded_task(
    make_task: Callable[..., Task], pairs: RelaxationPairs, config: Any, settings: TrainingSettings, fabric: Fabric
) -> Task:
    """All processes begin with the same weights, and augment with random numbers of their own."""
    torch.manual_seed(settings.seed)
    own = replace(settings, seed=settings.seed + 1_000_003 * fabric.global_rank)
    return make_task(pairs, config, own, fabric.device)


def _write_settings(out: Path, config: Any, settings: TrainingSettings, summary: dict[str, Any]) -> None:
    told = {**summary, "config": config.to_dict(), "training": asdict(settings)}
    (out / "settings.json").write_text(json.dumps(told, indent=1))


def _start_from(network: nn.Module, initial: str | Path | dict[str, Tensor] | None, frozen: Sequence[str]) -> None:
    if initial is not None:
        load_initial(network, initial)
    if frozen:
        freeze(network, frozen)


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


class TrainingLoop:
    """The network in training, the moving average of its weights, its optimizer, and what is done in turn.

    Args:
        fabric: Lightning's, launched.
        task: the network and its gradients.
        settings: how to train; a budget in epochs is one in steps by now.
        out: folder of log and checkpoint; a checkpoint found there is read.
        validation: pairs to validate on.
        observe: is given each record of the log, in the first process.
    """

    def __init__(
        self,
        fabric: Fabric,
        task: Task,
        settings: TrainingSettings,
        out: Path,
        *,
        validation: RelaxationPairs | None = None,
        observe: Observer = _nothing,
    ) -> None:
        from lightning.fabric.utilities.throughput import Throughput  # here, as the package is there for training alone

        self.fabric, self.task, self.settings, self.out = fabric, task, settings, out
        self.validation, self.observe = validation, observe
        self.network, self.average = task.network, deepcopy(task.network).requires_grad_(False)
        self.weights = Weights(self.network, self.average)
        if settings.compile:
            task.compile()
        self.optimizers = make_optimizers(self.network, settings, fused=fabric.device.type == "cuda")
        factor, patience = settings.plateau_factor, settings.plateau_patience
        # With several optimizers the schedule is another one, see TrainingSettings.
        self.plateau = ReduceLROnPlateau(self._optimizer, factor=factor, patience=patience)
        self.parts = {"network": self.network, "average": self.average, "plateau": self.plateau, **self.optimizers}
        self.progress = Progress()
        if checkpoint_file(out).exists():
            self.progress = load_checkpoint(fabric, checkpoint_file(out), self.parts, task)
        self._spent = self._saved_at = self._seconds = self.progress.seconds
        self._start = time.monotonic()
        self._throughput = Throughput(window_size=2)  # from one log record to the next
        self._seen, self._began = 0, self.progress.step

    def note_start(self) -> None:
        """Validate the weights that a run starts from, which are then kept where nothing that is learnt is better."""
        if self.progress.step == 0:
            self._validate()

    def run(self, stream: BatchStream, *, deadline: float | None = None) -> bool:
        """Learn until the budget is spent or validation no longer improves; False if the deadline came first."""
        settings, progress = self.settings, self.progress
        validate_every = max(round(settings.validate_every * stream.steps_per_epoch()), 1)
        self._start = time.monotonic()
        self._throughput.reset()
        self._note_throughput()
        learning = progress.step + _COMPILING
        for crystals, upcoming in replace(stream, start=progress.step):
            if settings.compile and progress.step < learning:
                self._start = time.monotonic()
            share = settings.progress(self._clock(), progress.step)
            if share >= 1 or (settings.patience is not None and progress.waited >= settings.patience):
                break
            self._learn(crystals, upcoming, share)
            if progress.step % validate_every == 0:
                self._validate()
            if not self._agree():
                continue
            if deadline is not None and self.fabric.broadcast(time.monotonic() >= deadline):
                self._save()
                return False
            if self._seconds - self._saved_at > settings.checkpoint_every:
                self._save()
        self._validate()
        self._save()
        return True

    def result(self) -> nn.Module:
        """The network with the weights to keep: the best ones where there was validation, else the last average."""
        if self.progress.best_weights:
            self.average.load_state_dict(self.progress.best_weights)
        return self.average

    def summary(self) -> dict[str, Any]:
        """Steps and seconds of the run, and its best validation."""
        progress = self.progress
        best = {"step": progress.best_step, "error": progress.best_error}
        told = {} if self.validation is None else {"best": best}
        return {"steps": progress.step, "seconds": progress.seconds, **told}

    @property
    def _optimizer(self) -> Optimizer:
        """The one, or the first of those that share their learning rate."""
        return next(iter(self.optimizers.values()))

    def _learn(self, crystals: Tensor, upcoming: Tensor, share: float) -> None:
        """A step of the optimizer, at that ``share`` of the budget."""
        settings, progress = self.settings, self.progress
        if settings.schedule == "cosine":
            for optimizer in self.optimizers.values():
                for group in optimizer.param_groups:
                    group["lr"] = settings.rate(share)
        losses = self.task.gradients(crystals, upcoming)
        average_gradients(self.fabric, self.network)
        logged = (progress.step + 1) % settings.log_every == 0
        parts = self.weights.gradient_norms() if logged else {}
        total = self.weights.clip_gradients(settings.clip)
        for optimizer in self.optimizers.values():
            optimizer.step()
        self.weights.update_average(settings.average_decay, progress.step)
        progress.step += 1
        if progress.step % _SHARE_EVERY == 0:
            share_weights(self.fabric, self.network)
        self._seen += len(crystals) * self.fabric.world_size
        if logged:
            self._log_step(share, losses, {"total": total, **parts})

    def _validate(self) -> None:
        """Errors of the averaged weights; every process looks at all pairs, and so comes to the same conclusions."""
        pairs, progress = self.validation, self.progress
        if pairs is None or progress.step == progress.validated_at:
            return
        totals: dict[str, float] = {}
        for crystals in Batches(pairs.counts, self.settings.atoms_per_batch):
            losses = self.task.validate(self.average, pairs.take(crystals).to(self.fabric.device))
            for name, value in losses.items():
                totals[name] = totals.get(name, 0.0) + value.item() * len(crystals) / len(pairs)
        atoms, whole = self.settings.atoms_per_batch, pairs.to(self.fabric.device)
        totals |= predicted_errors(self.average, whole, atoms_per_batch=atoms)
        error = self.fabric.broadcast(totals["error"])  # sums on CUDA differ in their last digits
        progress.observe(error, self.average)
        if self.settings.schedule == "plateau":
            self.plateau.step(error)
        figures = {f"validation {name}": value for name, value in totals.items()}
        self._log({"step": progress.step, **{name: round(value, 6) for name, value in figures.items()}}, figures)

    # -- time

    def _agree(self) -> bool:
        """Whether the processes agree on the time in this step: a message at every step would cost too much."""
        return self.fabric.world_size == 1 or self.progress.step % _AGREE_EVERY == 0

    def _clock(self) -> float:
        """Seconds of training over all calls, the same in every process."""
        if self._agree():
            self._seconds = self.fabric.broadcast(self._elapsed())
        return self._seconds

    def _elapsed(self) -> float:
        return self._spent + time.monotonic() - self._start

    def _save(self) -> None:
        self.progress.seconds = self._saved_at = self.fabric.broadcast(self._elapsed())  # all processes save, or none
        save_checkpoint(self.fabric, checkpoint_file(self.out), self.parts, self.task, self.progress)

    # -- the log

    def _note_throughput(self) -> None:
        batches = self.progress.step - self._began
        self._throughput.update(time=time.monotonic(), batches=batches, samples=self._seen)

    def _log_step(self, share: float, losses: dict[str, Tensor], norms: dict[str, Tensor]) -> None:
        values = {name: round(value.item(), 4) for name, value in losses.items()}
        gradient = {name: round(norm.item(), 3) for name, norm in norms.items()}
        self._note_throughput()
        speed = round(self._throughput.compute()["device/samples_per_sec"])
        rate = self._optimizer.param_groups[0]["lr"]
        record = {
            "step": self.progress.step,
            "seconds": round(self._elapsed(), 1),
            "progress": round(share, 4),
            "learning_rate": rate,
            "crystals_per_second": speed,
            **values,
            "gradient_norm": gradient,
        }
        figures = {"learning_rate": rate, "crystals_per_second": float(speed), "gradient_norm": gradient["total"]}
        self._log(record, {**{f"train {name}": value for name, value in values.items()}, **figures})

    def _log(self, record: dict[str, Any], figures: dict[str, float]) -> None:
        """A line of ``log.jsonl``, and its ``figures`` to the loggers."""
        if not self.fabric.is_global_zero:
            return
        with (self.out / "log.jsonl").open("a") as log:
            log.write(json.dumps(record) + "\n")
        self.fabric.log_dict(figures, step=self.progress.step)
        logger.info("%s", record)
        self.observe(record)
