"""One network in training, as Lightning's trainer sees it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import ReduceLROnPlateau

from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.data.batches import Batches
from deeprelax_ase.training.batches import BatchStream
from deeprelax_ase.training.devices import agreed, average_gradients, gathered, world_size
from deeprelax_ase.training.settings import TrainingSettings
from deeprelax_ase.training.tasks import Task
from deeprelax_ase.training.weights import clip_gradients, freeze, load_initial, update_average

#: Steps between looks at a clock that several processes share.
_AGREE_EVERY = 20


class RelaxationTraining(LightningModule):
    """The network, the moving average of its weights, and what a step is.

    The optimization is manual: gradients may come out of a CUDA graph, see
    :class:`~deeprelax_ase.training.graphed.GraphedStep`.

    Args:
        make_task: makes the task on a device, with random numbers of a seed.
        settings: how to train.
        stream: the batches, from the first one on.
        out: folder of the checkpoint.
        validation: pairs to validate on.
        initial: weights to start from, see :func:`~deeprelax_ase.training.weights.load_initial`.
        frozen: beginnings of the names of parameters that stay as they are.
        deadline: ``time.monotonic()`` at which to stop before the budget is spent.
        observe: is given each record of the log, in the first process.
    """

    def __init__(
        self,
        make_task: Callable[[torch.device, int], Task],
        settings: TrainingSettings,
        stream: BatchStream,
        out: Path,
        *,
        validation: RelaxationPairs | None = None,
        initial: str | Path | dict[str, Tensor] | None = None,
        frozen: Sequence[str] = (),
        deadline: float | None = None,
        observe: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.settings, self.stream, self.out, self.validation = settings, stream, out, validation
        self.initial, self.frozen, self.deadline = initial, frozen, deadline
        self.make_task, self.observe = make_task, observe or (lambda record: None)
        self.task: Task | None = None
        self.step, self.spent, self.seconds_at_save = 0, 0.0, 0.0
        self.finished = self.interrupted = False
        self.best: dict[str, Any] = {"error": math.inf, "step": 0, "weights": {}}
        self.validations_since_best = 0
        self._start = time.monotonic()
        self._seconds = 0.0
        self._clock = _Throughput()
        self.validate_every = max(round(settings.validate_every * stream.steps_per_epoch()), 1)
        self._validated_at = -1
        self._plateau_state: dict[str, Any] | None = None

    # -- what Lightning asks for

    def configure_model(self) -> None:
        """Make the network where it is going to be trained."""
        if self.task is not None:
            return
        settings, strategy = self.settings, self.trainer.strategy
        torch.manual_seed(settings.seed)
        self.task = self.make_task(strategy.root_device, settings.seed + 1_000_003 * self.trainer.global_rank)
        self.network = self.task.network
        if self.initial is not None:
            load_initial(self.network, self.initial)
        if self.frozen:
            freeze(self.network, self.frozen)
        self.average = deepcopy(self.network).requires_grad_(False)
        if settings.compile:
            self.task.compile()

    def configure_optimizers(self) -> AdamW:
        """AdamW, as in section 4.8 of the paper."""
        settings = self.settings
        optimizer = AdamW(
            [p for p in self.network.parameters() if p.requires_grad],
            lr=0.0 if settings.schedule == "cosine" else settings.learning_rate,
            weight_decay=settings.weight_decay,
            betas=(0.9, 0.98),
            fused=next(self.network.parameters()).is_cuda,
        )
        factor, patience = settings.plateau_factor, settings.plateau_patience
        self.plateau = ReduceLROnPlateau(optimizer, factor=factor, patience=patience)
        return optimizer

    def train_dataloader(self) -> BatchStream:
        """Batches of crystals, from where an earlier call stopped."""
        return replace(self.stream, start=self.step, rank=self.trainer.global_rank, world=self.trainer.world_size)

    def on_train_start(self) -> None:
        """Start the clock: compiling and loading before this do not count."""
        self._start = time.monotonic()
        self.seconds_at_save = self.spent
        self._clock = _Throughput()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        """Learn from one batch, unless the budget is spent."""
        assert self.task is not None
        settings, (crystals, upcoming) = self.settings, batch
        shared = world_size() == 1 or self.step % _AGREE_EVERY == 0
        seconds = agreed(self.elapsed(), self.device) if shared else self._seconds
        self._seconds = seconds
        progress = settings.progress(seconds, self.step)
        if progress >= 1 or self._waited_enough():
            self.finished = self.trainer.should_stop = True
            return
        optimizer = self.optimizers()
        if settings.schedule == "cosine":
            for group in optimizer.param_groups:
                group["lr"] = settings.rate(progress)
        parts = self.task.gradients(crystals, upcoming)
        average_gradients(self.network)
        norms = clip_gradients(self.network, settings.clip)
        optimizer.step()
        update_average(self.average, self.network, settings.average_decay, self.step)
        self.step += 1
        self._clock.count(len(crystals) * world_size())
        if self.step % settings.log_every == 0:
            rate = optimizer.param_groups[0]["lr"]
            self._record(progress, rate, parts, norms)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_index: int) -> None:
        """Validate where that is due, save now and then, and stop when time is up."""
        if self.validation is not None and (self.finished or self.step % self.validate_every == 0):
            self._validate(self.validation)
        if self.finished or (world_size() > 1 and self.step % _AGREE_EVERY):
            return
        if self.deadline is not None and agreed(float(time.monotonic() >= self.deadline), self.device):
            self.interrupted = self.trainer.should_stop = True
            self.save()
        elif self._seconds - self.seconds_at_save > self.settings.checkpoint_every:
            self.save()

    def _validate(self, pairs: RelaxationPairs) -> None:
        """Errors of the averaged weights; keep the best ones, let the plateau schedule know, and stop early.

        Not in Lightning's validation loop, which a run that is continued may leave out. Every process looks at all
        pairs, and so comes to the same conclusions.
        """
        assert self.task is not None
        if self.step == self._validated_at:
            return
        self._validated_at = self.step
        totals: dict[str, float] = {}
        for crystals in Batches(pairs.counts, self.settings.atoms_per_batch):
            parts = self.task.validate(self.average, pairs.take(crystals).to(self.device))
            for name, value in parts.items():
                totals[name] = totals.get(name, 0.0) + value.item() * len(crystals) / len(pairs)
        error = agreed(totals["error"], self.device)  # sums on CUDA differ in their last digits
        self.validations_since_best += 1
        if error < self.best["error"]:
            weights = {name: tensor.detach().clone() for name, tensor in self.average.state_dict().items()}
            self.best, self.validations_since_best = {"error": error, "step": self.step, "weights": weights}, 0
        if self.settings.schedule == "plateau":
            self.plateau.step(error)
        if self._waited_enough():
            self.finished = self.trainer.should_stop = True
        figures = {f"validation {name}": value for name, value in totals.items()}
        self._tell({"step": self.step, **{name: round(value, 6) for name, value in figures.items()}}, figures)

    def _waited_enough(self) -> bool:
        """Whether the validation error has not improved for as long as the settings allow."""
        patience = self.settings.patience
        return patience is not None and self.validations_since_best >= patience

    # -- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What Lightning does not know of."""
        assert self.task is not None
        checkpoint["deeprelax"] = {
            "step": self.step,
            "elapsed": self.elapsed(),
            "best": self.best,
            "validations_since_best": self.validations_since_best,
            "validated_at": self._validated_at,
            "plateau": self.plateau.state_dict(),
            "tasks": gathered(self.task.state_dict()),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The inverse of :meth:`on_save_checkpoint`.

        Raises:
            ValueError: the run was begun on another number of devices.
        """
        assert self.task is not None
        state = checkpoint["deeprelax"]
        self.step, self.spent, self.best = state["step"], state["elapsed"], state["best"]
        self.validations_since_best, self._validated_at = state["validations_since_best"], state["validated_at"]
        states = state["tasks"]
        if len(states) != self.trainer.world_size:
            raise ValueError(
                f"the run was begun on {len(states)} devices and cannot go on on {self.trainer.world_size}: give the "
                "same number, or another folder"
            )
        self.task.load_state_dict(states[self.trainer.global_rank])
        self._plateau_state = state["plateau"]

    def on_fit_start(self) -> None:
        """The optimizer, which the plateau schedule steers, is there by then."""
        if self._plateau_state is not None:
            self.plateau.load_state_dict(self._plateau_state)

    def elapsed(self) -> float:
        """Seconds of training, over all calls."""
        return self.spent + time.monotonic() - self._start

    def result(self) -> dict[str, Tensor]:
        """The weights to keep: the best ones where there was validation, the last average otherwise."""
        return self.best["weights"] or self.average.state_dict()

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        file = checkpoint_file(self.out)
        partial = file.with_suffix(".partial")
        self.trainer.save_checkpoint(partial)
        if self.trainer.is_global_zero:
            partial.replace(file)
        self.seconds_at_save = agreed(self.elapsed(), self.device)  # all processes save, or none

    def _record(self, progress: float, rate: float, parts: dict[str, Tensor], norms: dict[str, Tensor]) -> None:
        values = {name: round(value.item(), 4) for name, value in parts.items()}
        gradient = {name: round(norm.item(), 3) for name, norm in norms.items()}
        speed = round(self._clock.rate())
        record = {
            "step": self.step,
            "seconds": round(self.elapsed(), 1),
            "progress": round(progress, 4),
            "learning_rate": rate,
            "crystals_per_second": speed,
            **values,
            "gradient_norm": gradient,
        }
        flat = {"learning_rate": rate, "crystals_per_second": float(speed), "gradient_norm": gradient["total"]}
        self._tell(record, {**{f"train {name}": value for name, value in values.items()}, **flat})

    def _tell(self, record: dict[str, Any], figures: dict[str, float]) -> None:
        """Give the ``figures`` to the loggers: through ``log_dict`` they would be logged again in every later step."""
        if not self.trainer.is_global_zero:
            return
        for log in self.trainer.loggers:
            log.log_metrics(figures, step=self.step)
        self.observe(record)


def checkpoint_file(out: Path) -> Path:
    """Where a run in the folder ``out`` keeps its state."""
    return out / "checkpoint.ckpt"


class _Throughput:
    """Crystals per second since the last question."""

    def __init__(self) -> None:
        self.crystals, self.since = 0, time.monotonic()

    def count(self, crystals: int) -> None:
        self.crystals += crystals

    def rate(self) -> float:
        now = time.monotonic()
        rate = self.crystals / max(now - self.since, 1e-9)
        self.crystals, self.since = 0, now
        return rate
