"""The :class:`TrainingSettings` record."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from deeprelax_ase.training.augment import AugmentationSettings

Schedule = Literal["cosine", "plateau"]
Residence = Literal["auto", "always", "never"]


@dataclass(frozen=True)
class TrainingSettings:
    """How long and how to train one network.

    Under the ``cosine`` schedule the learning rate follows the wall clock: it rises over the first ``warmup`` share of
    ``seconds`` and then falls to zero along a cosine, so a run always ends annealed, however fast the machine is. With
    ``max_steps`` or ``max_epochs`` it follows the number of steps instead, so that a run can be repeated exactly.

    Attributes:
        seconds: wall-clock budget of the whole run, across resumes; without effect where one of the next two is given.
        max_steps: budget of the whole run in optimizer steps, across resumes.
        max_epochs: the same in passes over the pairs.
        atoms_per_batch: atoms in a batch, to the nearest crystal; of each device, where there are several.
        learning_rate: peak rate of AdamW.
        weight_decay: of AdamW.
        schedule: ``cosine``, or the paper's ``plateau`` (section 4.8): the rate falls by ``plateau_factor`` when the
            validation error has not improved for ``plateau_patience`` validations.
        plateau_patience, plateau_factor: of that schedule; the paper gives 5 epochs and no factor.
        patience: validations without improvement after which the run ends early; None to never do so.
        validate_every: epochs between validations, where there are validation crystals. The best weights are kept.
        warmup: share of the budget over which the rate rises.
        clip: largest norm of the gradient.
        average_decay: of the exponential moving average of the weights.
        lattice_weight: factor of the lattice loss (13) of the paper's network.
        volume_weight, shape_weight, tempering: of the end-to-end network, see
            :func:`~deeprelax_ase.training.e3_loss.relaxation_loss`.
        forces_tempering: the tempering of crystals whose forces are known: they start near their minima, where only
            relative errors tell.
        forces_weight: how much they count beside the others, whose errors are larger.
        hidden: share of the crystals with known forces that the end-to-end network is not told of them.
        all_blocks: whether every block of the end-to-end network is held to the truth, or the last one alone.
        recycled: share of the crystals that the end-to-end network sees as it last predicted them.
        bfloat16: autocast the network on CUDA.
        tf32: let CUDA round the factors of float32 matrix products to 10 bits; the geometry has none.
        resident: whether the pairs lie on the device throughout: where they take less than half of its free memory
            (``auto``), ``always``, or ``never``, when each batch is moved there.
        keep_graphs: build the graphs of all pairs once and keep them on the device, where that is possible: without
            augmentation, which builds them anew for every batch.
        compile: fuse the network's kernels with ``torch.compile``; costs about a minute at the start.
        seed: of the initial weights, the data order and the augmentation.
        log_every: steps between log records.
        checkpoint_every: seconds between checkpoints.
        augmentation: see :class:`~deeprelax_ase.training.augment.AugmentationSettings`.
    """

    seconds: float = 600.0
    max_steps: int | None = None
    max_epochs: float | None = None
    atoms_per_batch: int = 8000
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    schedule: Schedule = "cosine"
    plateau_patience: int = 5
    plateau_factor: float = 0.5
    patience: int | None = None
    validate_every: float = 1.0
    warmup: float = 0.02
    clip: float = 1.0
    average_decay: float = 0.999
    lattice_weight: float = 10.0
    volume_weight: float = 3.0
    shape_weight: float = 3.0
    tempering: float = 0.5
    forces_tempering: float = 0.5
    forces_weight: float = 0.1
    hidden: float = 0.2
    all_blocks: bool = True
    recycled: float = 0.3
    bfloat16: bool = True
    tf32: bool = True
    resident: Residence = "auto"
    keep_graphs: bool = True
    compile: bool = False
    seed: int = 0
    log_every: int = 100
    checkpoint_every: float = 120.0
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)

    def __post_init__(self) -> None:
        for name, kind in (("schedule", Schedule), ("resident", Residence)):
            if (value := getattr(self, name)) not in get_args(kind):
                raise ValueError(f"Unknown {name}={value!r}, must be one of {get_args(kind)}")
        for name in ("atoms_per_batch", "clip", "validate_every", "log_every"):
            if not (number := getattr(self, name)) > 0:
                raise ValueError(f"{name} must be positive, got {number}")

    def progress(self, seconds: float, steps: int) -> float:
        """Share of the budget that is spent, from 0 to 1."""
        spent, budget = (seconds, self.seconds) if self.max_steps is None else (steps, self.max_steps)
        return 1.0 if spent >= budget else spent / budget

    def rate(self, progress: float) -> float:
        """Learning rate at that share of the budget."""
        if progress < self.warmup:
            return self.learning_rate * progress / self.warmup
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (progress - self.warmup) / (1 - self.warmup)))
