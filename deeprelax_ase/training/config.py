"""A training run in one record: what is learnt from, the network, how, and where the result goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from deeprelax_ase.data import LEVELS
from deeprelax_ase.nn import DeepRelaxConfig, DeepRelaxE3Config
from deeprelax_ase.training.presets import CONFIG, SETTINGS, PairSettings
from deeprelax_ase.training.settings import TrainingSettings

#: Where a network is trained; ``auto`` is CUDA where there is one.
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class DataSettings:
    """What is learnt from.

    Attributes:
        sources: files or folders of relaxation pairs, see :meth:`deeprelax_ase.data.PairDataset.read`.
        format: of the sources, or ``auto``.
        key: what tells which crystals belong together, for formats that need one.
        level: whose minima the relaxed crystals are, one of :data:`~deeprelax_ase.data.LEVELS`; npz files say it.
        labels: of npz files, see :func:`~deeprelax_ase.data.load_pairs`; several are learnt side by side.
        forces: of npz files, known forces for each, see :func:`~deeprelax_ase.data.forces.load_pairs_with_forces`.
        fractions: of the sources that are not split, the shares for training, validation and test.
        seed: of that split.
        choice: which of the training pairs, and how often.
        validate: whether to validate on the validation split.
    """

    sources: tuple[str, ...]
    format: str = "auto"
    key: str | None = None
    level: str = "PBE"
    labels: tuple[str, ...] = ("relaxed",)
    forces: tuple[str, ...] = ()
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0
    choice: PairSettings = field(default_factory=lambda: PairSettings(dft_copies=1, borrowed=0.0))
    validate: bool = True

    def __post_init__(self) -> None:
        for name in ("sources", "labels", "forces"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        object.__setattr__(self, "fractions", tuple(self.fractions))
        if self.forces and len(self.forces) != len(self.sources):
            named = f"forces names {len(self.forces)} files for {len(self.sources)} sources"
            raise ValueError(f"{named}: each source needs its own")
        if not self.sources:
            raise ValueError("sources must name at least one file or folder of relaxation pairs")
        if self.level not in LEVELS:
            raise ValueError(f"Unknown level={self.level!r}, must be one of {LEVELS}")


@dataclass(frozen=True)
class RunConfig:
    """Everything that a training run is made of.

    Attributes:
        name: of the model that comes out of it.
        out: folder for checkpoints, logs and the model.
        data: what is learnt from.
        network: shape of the network.
        training: how.
        members: size of the ensemble, trained in turn from seeds that follow each other.
        initial: model to start from, by name or path, member by member; or a file of weights.
        frozen: beginnings of the names of parameters that stay as they are, such as ``elements`` or ``blocks.0``.
        device: ``cpu``, ``cuda`` or ``auto``.
        devices: how many GPUs; ``0`` for all of them.
        loggers: among ``csv``, ``tensorboard`` and ``wandb``.
        recycles: how often the finished end-to-end model looks; ``0`` for what is best on the validation split.
        level_of_theory: of the relaxed crystals, in words, for the model card; the level's name by default.
        description: one sentence for the model card.
        licence: of the weights.
    """

    name: str
    out: Path
    data: DataSettings
    network: DeepRelaxConfig | DeepRelaxE3Config = CONFIG
    training: TrainingSettings = SETTINGS
    members: int = 1
    initial: str | None = None
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
        for name in ("frozen", "loggers"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        for name, least in (("members", 1), ("devices", 0), ("recycles", 0)):
            if (number := getattr(self, name)) < least:
                raise ValueError(f"{name} must be at least {least}, got {number}")
        if str(self.device).partition(":")[0] not in DEVICES:
            raise ValueError(f"Unknown device={self.device!r}, must be one of {DEVICES}")
        if self.data.forces and not isinstance(self.network, DeepRelaxE3Config):
            raise ValueError("data.forces are for the end-to-end network, DeepRelaxE3: the paper's reads none")
        if not self.name or Path(self.name).name != self.name:
            raise ValueError(f"name must be the name of a file, without folders, got {self.name!r}")

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary that :func:`~deeprelax_ase.training.config_file.run_config` reads."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        training = asdict(self.training)
        augmentation = training.pop("augmentation")
        architecture = "DeepRelaxE3" if isinstance(self.network, DeepRelaxE3Config) else "DeepRelax"
        plain |= {
            "out": str(self.out),
            "data": asdict(self.data),
            "network": {"architecture": architecture, **self.network.to_dict()},
            "training": training,
            "augmentation": augmentation,
        }
        return _listed(plain)


def without_card(initial: str) -> bool:
    """Whether ``initial`` is a file of weights of one network, such as ``member0/weights.safetensors``."""
    file = Path(initial)
    return file.suffix == ".safetensors" and not file.with_suffix(".json").exists()


def _listed(value: Any) -> Any:
    """With lists in place of tuples, which YAML does not know."""
    if isinstance(value, Mapping):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, tuple | list) else value
