"""The state of a run that a later call goes on from: the same batches, random numbers, averages and schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from deeprelax_ase.training.devices import gathered
from deeprelax_ase.training.tasks import Task

if TYPE_CHECKING:
    from lightning.fabric import Fabric


@dataclass
class Progress:
    """Progress of a run, over all calls.

    Attributes:
        step: optimizer steps that are done.
        seconds: spent training.
        validated_at: step of the last validation.
        waited: validations since the best one.
        best_error: smallest validation error.
        best_step: its step.
        best_weights: averaged weights of that step; none without validation.
    """

    step: int = 0
    seconds: float = 0.0
    validated_at: int = -1
    waited: int = 0
    best_error: float = math.inf
    best_step: int = 0
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)

    def observe(self, error: float, average: torch.nn.Module) -> None:
        """Count a validation of the averaged weights, and keep those weights if they are the best so far."""
        self.validated_at, self.waited = self.step, self.waited + 1
        if error < self.best_error:
            self.best_error, self.best_step, self.waited = error, self.step, 0
            self.best_weights = {name: weight.detach().clone() for name, weight in average.state_dict().items()}


def checkpoint_file(out: Path) -> Path:
    """Return the file in the folder ``out`` in which a run keeps its state."""
    return out / "checkpoint.ckpt"


def save_checkpoint(fabric: Fabric, file: Path, parts: dict[str, Any], task: Task, progress: Progress) -> None:
    """Write the state whole or not at all; every process calls this.

    Args:
        fabric: that trains.
        file: to replace.
        parts: networks, optimizer and schedule, by name.
        task: each process has a state of it of its own.
        progress: of the run.
    """
    partial = file.with_suffix(".partial")
    fabric.save(partial, {**parts, "progress": vars(progress), "tasks": gathered(fabric, task.state_dict())})
    if fabric.is_global_zero:
        partial.replace(file)


def load_checkpoint(fabric: Fabric, file: Path, parts: dict[str, Any], task: Task) -> Progress:
    """Set ``parts`` and ``task`` to what :func:`save_checkpoint` has written.

    Raises:
        ValueError: the run was begun on another number of devices.
    """
    rest = fabric.load(file, parts, weights_only=True)
    states = rest["tasks"]
    if len(states) != fabric.world_size:
        raise ValueError(
            f"the run was begun on {len(states)} devices and cannot go on on {fabric.world_size}: give the same "
            "number, or another folder"
        )
    task.load_state_dict(states[fabric.global_rank])
    return Progress(**rest["progress"])
