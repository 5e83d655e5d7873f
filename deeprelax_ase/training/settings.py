"""The records of settings that a training run is made of, and the settings of the shipped models and of the paper.

:mod:`deeprelax_ase.training.config` reads them from a file and a command line.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from deeprelax_ase.data import LEVELS
from deeprelax_ase.nn import ABLATIONS, DeepRelaxConfig, DeepRelaxE3Config
from deeprelax_ase.training.augment import AugmentationSettings

Schedule = Literal["cosine", "plateau"]
Residence = Literal["auto", "always", "never"]
OptimizerName = Literal["adamw", "muon"]

#: Batches of an epoch, with fewer of which batches shrink that may.
_BATCHES = 20

#: Devices for training; ``auto`` is CUDA where there is one.
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of the training of one network.

    Under the ``cosine`` schedule the learning rate follows the wall clock. It rises over the first ``warmup`` share of
    ``seconds`` and then falls to zero along a cosine, so a run always ends annealed, however fast the machine is. With
    ``max_steps`` or ``max_epochs`` it follows the number of steps instead, so that a run can be repeated exactly.

    Attributes:
        seconds: wall-clock budget of the whole run, across resumes, without the first steps if they compile; without
            effect where one of the next two is given.
        max_steps: budget of the whole run in optimizer steps, across resumes.
        max_epochs: the same in epochs.
        atoms_per_batch: atoms in a batch, to the nearest crystal; of each device, where there are several.
        smallest_batch: atoms that batches shrink to, as far as an epoch has fewer than 20 of them otherwise; None to
            keep them as they are.
        learning_rate: peak rate of the optimizer.
        weight_decay: of the optimizer, decoupled.
        optimizer: ``adamw``, or ``muon`` for matrices in the blocks of the end-to-end network and AdamW for the rest.
            Muon needs torch 2.9, and the cosine schedule.
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
        forces_tempering: the tempering of crystals whose forces are told: they start near their minima, where only
            relative errors tell.
        forces_weight: how much they count beside the others, whose errors are larger.
        hidden: share of the crystals with known forces near their minima (:attr:`DataSettings.forces`) that the
            end-to-end network is not told of them: each time it meets one, it is drawn anew.
        hidden_starts: the same of the forces at unrelaxed crystals (:attr:`DataSettings.start_forces`). Those that are
            told are no targets, so few should be.
        force_targets: weight of the loss of forces and virial at unaugmented starts, where the pairs have them, and of
            the energy that relaxation gains, for the end-to-end network: see
            :mod:`deeprelax_ase.training.force_targets`.
        energy_weight: of the likelihood of the relaxed crystal's energy in the end-to-end network's loss, in Å per
            eV/atom; a head learns it with the network, and belongs to the model. Like :attr:`Prediction.energy`, it
            leaves out kept cells but those of slabs. :attr:`DataSettings.potential` names whose energies these are.
        elastic_weight: of what the end-to-end network's errors cost in energy, in Å per root of eV/atom: errors along
            stiff bonds then count more, see :func:`~deeprelax_ase.training.elastic_loss.elastic_loss`.
        block_weights: of the end-to-end network's blocks in the loss, first to last; equal by default. Later ones start
            nearer to the minimum, and the last one is what is used.
        gradients_through_blocks: whether the losses of its later blocks reach the moves of earlier ones. Steps take
            longer.
        kind_weights: how much crystals count in its loss, by the ``kind`` of their pairs; 1 by default.
        dft_weight: the same of crystals with a published DFT minimum.
        size_power: crystals count by their number of atoms to minus this power. At 0, in the mean over atoms, large
            crystals outweigh small ones; at 1 each crystal counts the same there.
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
    smallest_batch: int | None = None
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    optimizer: OptimizerName = "adamw"
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
    hidden_starts: float = 0.2
    force_targets: float = 0.0
    energy_weight: float = 0.0
    elastic_weight: float = 0.0
    block_weights: tuple[float, ...] = ()
    gradients_through_blocks: bool = False
    kind_weights: dict[int, float] = field(default_factory=dict)
    dft_weight: float = 1.0
    size_power: float = 0.0
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
        for name, kind in (("schedule", Schedule), ("resident", Residence), ("optimizer", OptimizerName)):
            if (value := getattr(self, name)) not in get_args(kind):
                raise ValueError(f"Unknown {name}={value!r}, must be one of {get_args(kind)}")
        # JSON knows neither tuples nor numbers for keys.
        object.__setattr__(self, "block_weights", tuple(self.block_weights))
        object.__setattr__(self, "kind_weights", {int(kind): weight for kind, weight in self.kind_weights.items()})
        if self.optimizer == "muon" and self.schedule != "cosine":
            raise ValueError("optimizer='muon' goes with schedule='cosine' only")
        for f in fields(self):
            if f.type == "float" and not math.isfinite(number := getattr(self, f.name)):
                raise ValueError(f"{f.name} must be a finite number, got {number}")
        for name in ("atoms_per_batch", "smallest_batch", "clip", "validate_every", "log_every"):
            if (number := getattr(self, name)) is not None and not number > 0:
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

    def for_atoms(self, atoms: int) -> TrainingSettings:
        """The same settings with batches that suit so many ``atoms`` of all pairs."""
        if self.smallest_batch is None:
            return self
        most = max(atoms // _BATCHES, self.smallest_batch)
        return replace(self, atoms_per_batch=min(self.atoms_per_batch, most))

    def in_steps(self, steps_per_epoch: float) -> TrainingSettings:
        """The same settings with a budget in epochs as one in steps."""
        if self.max_steps is not None or self.max_epochs is None:
            return self
        return replace(self, max_steps=max(round(self.max_epochs * steps_per_epoch), 1))


@dataclass(frozen=True)
class PairSettings:
    """Settings of the pairs that a network sees, and of their frequency.

    Attributes:
        dft_copies: times that pairs which DFT relaxed stand in each epoch: they are few beside the potentials' and what
            the models are for.
        fixed_cell_copies: times that pairs in fixed cells stand in each epoch, borrowed ones too.
        borrowed: share of the potential's pairs that stand a second time, as if they were DFT's: DFT's own all start
            near their minima.
        potential: share of the potential's pairs that stand as what they are. Less makes room for what is asked for.
        share: of all training pairs, for studies of data size.
    """

    dft_copies: int = 1
    fixed_cell_copies: int = 1
    borrowed: float = 0.0
    potential: float = 1.0
    share: float = 1.0


@dataclass(frozen=True)
class DataSettings:
    """Settings of the data to learn from.

    Attributes:
        sources: files or folders of relaxation pairs, see :meth:`deeprelax_ase.data.PairDataset.read`.
        format: of the sources, or ``auto``.
        key: what tells which crystals belong together, for formats that need one.
        level: of theory of the relaxed crystals, one of :data:`~deeprelax_ase.data.LEVELS`; npz files say it.
        labels: of npz files, see :func:`~deeprelax_ase.data.load_pairs`; several are learnt side by side, each from the
            files that have it.
        forces: of npz files, known forces for each, see :func:`~deeprelax_ase.data.forces.load_pairs_with_forces`; for
            the first sources, if there are fewer.
        start_forces: whether forces and stress at the unrelaxed crystals, and the energy that relaxation gains, are
            read from npz files that have them, to be read by the network or to be targets, see
            :attr:`TrainingSettings.force_targets`.
        potential: name of the one under which the energies of relaxed crystals in npz files are, for the model's card.
        fractions: of the sources that are not split, the shares for training, validation and test.
        seed: of that split.
        choice: of the training pairs, and of their frequency.
        validate: whether to validate on the validation split.
    """

    sources: tuple[str, ...]
    format: str = "auto"
    key: str | None = None
    level: str = "PBE"
    labels: tuple[str, ...] = ("relaxed",)
    forces: tuple[str, ...] = ()
    start_forces: bool = False
    potential: str = ""
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0
    choice: PairSettings = field(default_factory=PairSettings)
    validate: bool = True

    def __post_init__(self) -> None:
        _make_tuples(self, "sources", "labels", "forces")
        object.__setattr__(self, "fractions", tuple(self.fractions))
        if len(self.forces) > len(self.sources):
            named = f"forces names {len(self.forces)} files for {len(self.sources)} sources"
            raise ValueError(f"{named}: each belongs to one source, in their order")
        if not self.sources:
            raise ValueError("sources must name at least one file or folder of relaxation pairs")
        if self.level not in LEVELS:
            raise ValueError(f"Unknown level={self.level!r}, must be one of {LEVELS}")


#: Defaults of an end-to-end network and of its training, small enough for one GPU and an afternoon.
E3_NETWORK = DeepRelaxE3Config(channels=192, levels=LEVELS)
E3_TRAINING = TrainingSettings(
    atoms_per_batch=12000,
    learning_rate=2e-3,
    clip=10.0,
    tempering=1.0,
    weight_decay=0.1,
    augmentation=AugmentationSettings(
        interpolated=0.25, relaxed=0.1, perturbed=0.2, strained=0.2, rattled=0.2, rewrapped=0.0
    ),
)

#: Section 4.8 of the paper.
PAPER_TRAINING = TrainingSettings(learning_rate=1e-4, schedule="plateau", weight_decay=0.01, lattice_weight=1.0)

#: Defaults of the sections network and training of a run, by the architecture of the network.
PRESETS: dict[str, tuple[DeepRelaxConfig | DeepRelaxE3Config, TrainingSettings]] = {
    "DeepRelaxE3": (E3_NETWORK, E3_TRAINING),
    **{name: (config, PAPER_TRAINING) for name, config in ABLATIONS.items()},
}


@dataclass(frozen=True)
class RunConfig:
    """Everything that a training run is made of.

    Attributes:
        name: of the model that comes out of it.
        out: folder for checkpoints, logs and the model.
        data: the pairs to learn from.
        network: shape of the network.
        training: how.
        members: size of the ensemble, trained in turn from seeds that follow each other.
        initial: model to start from, by name or path, member by member; or a file of weights.
        initial_share: of its weights in those that come out, which are a mean of both; below 1.
        frozen: beginnings of the names of parameters that stay as they are, such as ``elements`` or ``blocks.0``.
        device: ``cpu``, ``cuda`` or ``auto``.
        devices: how many GPUs; ``0`` for all of them.
        loggers: among ``csv``, ``tensorboard`` and ``wandb``.
        recycles: of the finished end-to-end model; ``0`` for what is best on the validation split.
        level_of_theory: of the relaxed crystals, in words, for the model card; the level's name by default.
        description: one sentence for the model card.
        licence: of the weights.
    """

    name: str
    out: Path
    data: DataSettings
    network: DeepRelaxConfig | DeepRelaxE3Config = E3_NETWORK
    training: TrainingSettings = E3_TRAINING
    members: int = 1
    initial: str | None = None
    initial_share: float = 0.0
    frozen: tuple[str, ...] = ()
    device: str = "auto"
    devices: int = 1
    loggers: tuple[str, ...] = ("csv",)
    recycles: int = 0
    level_of_theory: str = ""
    description: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", Path(self.out))
        _make_tuples(self, "frozen", "loggers")
        for name, least in (("members", 1), ("devices", 0), ("recycles", 0)):
            if (number := getattr(self, name)) < least:
                raise ValueError(f"{name} must be at least {least}, got {number}")
        if not 0 <= self.initial_share < 1 or (self.initial_share and self.initial is None):
            raise ValueError(
                f"initial_share must be at least 0 and below 1, and 0 without initial: {self.initial_share}"
            )
        if str(self.device).partition(":")[0] not in DEVICES:
            raise ValueError(f"Unknown device={self.device!r}, must be one of {DEVICES}")
        if self.data.forces and not isinstance(self.network, DeepRelaxE3Config):
            raise ValueError("data.forces are for the end-to-end network, DeepRelaxE3: the paper's reads none")
        for name in ("energy_weight", "elastic_weight"):
            if getattr(self.training, name) and not isinstance(self.network, DeepRelaxE3Config):
                raise ValueError(f"training.{name} is for the end-to-end network, DeepRelaxE3")
        if self.training.energy_weight and not self.data.potential:
            raise ValueError("training.energy_weight needs data.potential: whose energies the model will tell")
        if not self.name or Path(self.name).name != self.name:
            raise ValueError(f"name must be the name of a file, without folders, got {self.name!r}")

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary that :func:`~deeprelax_ase.training.config.run_config` reads, fit for YAML and JSON."""
        architecture = "DeepRelaxE3" if isinstance(self.network, DeepRelaxE3Config) else "DeepRelax"
        values = asdict(self) | {"network": {"architecture": architecture, **self.network.to_dict()}}
        return json.loads(json.dumps(values, default=str))  # YAML knows neither tuples nor paths


def _make_tuples(record: Any, *names: str) -> None:
    """Turn lists, and single names, into tuples."""
    for name in names:
        value = getattr(record, name)
        object.__setattr__(record, name, (value,) if isinstance(value, str) else tuple(value))
