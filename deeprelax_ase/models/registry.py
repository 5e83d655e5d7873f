"""Model cards and weights: a JSON card beside a safetensors file, those that ship with the package and others.

Shipped models also have a page of Markdown for people to read, made of the JSON card and of what was measured.

A file pair ``NAME.json`` and ``NAME.safetensors`` holds an ensemble: tensor ``member0.backbone...`` belongs to the
first member, and so on. Networks that know several levels of theory have one file of weights and a card for each level.
Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeprelax_ase.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

    from deeprelax_ase.nn import DeepRelax, DeepRelaxConfig, DeepRelaxE3, DeepRelaxE3Config

#: The model that is used where none is named.
DEFAULT_MODEL = "DeepRelax-PBE"

#: The model whose crystals lie in the minima of M3GNet-MP-2021.2.8-PES.
M3GNET_RELAX_MODEL = "DeepRelax-M3GNet"

#: Folder of the weights that ship with the package.
WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class ModelCard:
    """What a user must know about a model before trusting it.

    Attributes:
        name: of the model; also the stem of its files.
        description: one sentence.
        level_of_theory: of the relaxed crystals that it was trained on.
        training_data: what it was trained on, in words.
        split: how training, validation and test crystals were told apart.
        elements: atomic numbers of the training set.
        members: size of the ensemble: so many of the networks in the file of weights, the first ones.
        parameters: of one member.
        config: the network, see :class:`~deeprelax_ase.nn.DeepRelaxConfig` or
            :class:`~deeprelax_ase.nn.DeepRelaxE3Config`.
        architecture: name of the network, see :data:`~deeprelax_ase.nn.ARCHITECTURES`.
        level: which of the network's levels of theory the model stands for, where it knows several.
        recycles: how often the networks look, each time from what they predicted before; end-to-end networks only.
        reads_forces: whether the network has learnt to read forces at this level of theory, to jump again with them.
        weights: file of weights beside the card, where it is not called after the card.
        calibration: what turns predicted scales into expected errors, see :mod:`deeprelax_ase.uncertainty.calibration`.
        solver: settings of the geometry solver that were chosen on the validation split; of the paper's network only.
        metrics: measured with these very weights, by name; nested by test set.
        training: settings, seeds, time and hardware of the training.
        commit: of the code that trained it.
        licence: of the weights.
        limits: known failures.
        sha256: of the weights file.
    """

    name: str
    description: str
    level_of_theory: str
    training_data: str
    split: str
    elements: list[int]
    members: int
    parameters: int
    config: dict[str, Any]
    sha256: str
    architecture: str = "DeepRelax"
    level: str = ""
    recycles: int = 1
    reads_forces: bool = False
    weights: str = ""
    calibration: dict[str, Any] = field(default_factory=dict)
    solver: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    commit: str = ""
    licence: str = "MIT"
    limits: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, file: Path) -> ModelCard:
        """The card in ``file``.

        Raises:
            ModelError: the file is absent, or is no model card of this version.
        """
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            known = {f.name for f in fields(cls)}
            if unknown := set(values) - known:
                raise TypeError(f"unknown fields {sorted(unknown)}")
            return cls(**values)
        except OSError as error:
            raise ModelError(f"no model card {file}: {error.strerror}") from error
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
            raise ModelError(f"{file} is not a model card of this version of deeprelax_ase: {error}") from error

    def write(self, file: Path) -> None:
        """Write the card to ``file``."""
        file.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@dataclass(frozen=True, eq=False)
class Model:
    """An ensemble of networks with its card."""

    card: ModelCard
    networks: nn.ModuleList

    @property
    def config(self) -> DeepRelaxConfig | DeepRelaxE3Config:
        """The network's switches, which also say what graph it expects."""
        return _parts_of(self.card)[1]

    @property
    def level(self) -> int:
        """Index of the level of theory among those that the network knows."""
        return self.config.levels.index(self.card.level) if self.card.level else 0  # type: ignore[union-attr]


def available_models() -> list[ModelCard]:
    """Cards of the models that ship with the package, by name."""
    return [ModelCard.read(file) for file in sorted(WEIGHTS.glob("*.json"))]


def card_page(name: str) -> str | None:
    """The card of the shipped model ``name`` as a page of Markdown, with what was measured; None where it has none."""
    file = WEIGHTS / f"{name}.md"
    return file.read_text(encoding="utf-8") if file.exists() else None


def load_model(name: str | os.PathLike = DEFAULT_MODEL) -> Model:
    """Load an ensemble.

    Args:
        name: of a shipped model, or the path of a card (``.json``) or of its weights (``.safetensors``).

    Raises:
        ModelError: there is no such model, or its files are damaged or of another version.
    """
    card_file = card_file_of(name)
    card = ModelCard.read(card_file)
    weights = card_file.with_name(card.weights) if card.weights else card_file.with_suffix(".safetensors")
    if not weights.exists():
        raise ModelError(f"{card.name}: the weights {weights} are missing; they belong beside the card")
    if (digest := sha256(weights)) != card.sha256:
        raise ModelError(
            f"{weights} is damaged or not the file that the card describes (sha256 {digest[:12]}…, expected "
            f"{card.sha256[:12]}…). Install the package again, or fetch the file again."
        )
    return Model(card, _networks(card, weights))


def save_model(
    networks: Sequence[DeepRelax | DeepRelaxE3],
    folder: str | os.PathLike,
    name: str,
    *,
    members: int | None = None,
    **card: Any,
) -> ModelCard:
    """Write the members of an ensemble as ``NAME.safetensors``, half precision, and its card as ``NAME.json``.

    Args:
        networks: members of one configuration.
        folder: where to write.
        name: of the model.
        members: how many of the networks the model uses, the first ones; all by default. Others in the file are those
            of another card that shares it.
        **card: the fields of :class:`ModelCard` that do not follow from the networks. ``weights`` names a file that
            several cards share.

    Raises:
        ValueError: no networks are given, or they differ in configuration.
    """
    from safetensors.torch import save

    configs = [network.config for network in networks]
    if not configs or any(config != configs[0] for config in configs):
        raise ValueError("an ensemble needs at least one network, all of one configuration")
    if members is not None and not 1 <= members <= len(networks):
        raise ValueError(f"{members=} of {len(networks)} networks")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / (card.get("weights") or f"{name}.safetensors")
    tensors = {
        f"member{m}.{key}": tensor.detach().half().cpu().contiguous()
        for m, network in enumerate(networks)
        for key, tensor in network.state_dict().items()
    }
    weights.write_bytes(save(tensors))  # with the usual permissions, which safetensors' own files lack
    written = ModelCard(
        name=name,
        members=len(networks) if members is None else members,
        parameters=sum(p.numel() for p in networks[0].parameters()),
        config=configs[0].to_dict(),
        architecture=type(networks[0]).__name__,
        sha256=sha256(weights),
        **card,
    )
    written.write(folder / f"{name}.json")
    return written


def model_of(networks: Sequence[DeepRelax | DeepRelaxE3], name: str, *, level: str = "", recycles: int = 1) -> Model:
    """The ensemble of ``networks`` as a model that is in no file: its card says no more than follows from them.

    Args:
        networks: members of one configuration.
        name: of the model.
        level: one of the network's levels of theory, where it knows several.
        recycles: see :class:`ModelCard`.
    """
    from torch import nn

    first = networks[0]
    card = ModelCard(
        name=name,
        description="",
        level_of_theory=level,
        training_data="",
        split="",
        elements=[],
        members=len(networks),
        parameters=sum(p.numel() for p in first.parameters()),
        config=first.config.to_dict(),
        sha256="",
        architecture=type(first).__name__,
        level=level,
        recycles=recycles,
    )
    return Model(card, nn.ModuleList(networks).eval().requires_grad_(False))


def sha256(file: Path) -> str:
    """Hexadecimal SHA-256 digest of ``file``."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def card_file_of(name: str | os.PathLike) -> Path:
    """The card that ``name`` stands for, see :func:`load_model`.

    Raises:
        ModelError: there is no model of that name.
    """
    path = Path(name).expanduser()
    if path.suffix in (".json", ".safetensors"):
        return path.with_suffix(".json")
    shipped = WEIGHTS / f"{path.name}.json"
    if str(name) == path.name and shipped.exists():
        return shipped
    known = ", ".join(sorted(file.stem for file in WEIGHTS.glob("*.json"))) or "none"
    raise ModelError(f"Unknown model {str(name)!r}, must be one of: {known}; or the path of a model card (.json)")


def _parts_of(card: ModelCard) -> tuple[type, Any]:
    """The class of the card's network, and its configuration."""
    from deeprelax_ase.nn import ARCHITECTURES

    if card.architecture not in ARCHITECTURES:
        raise ValueError(f"Unknown architecture {card.architecture!r}, must be one of {tuple(ARCHITECTURES)}")
    network, config = ARCHITECTURES[card.architecture]
    return network, config.from_dict(card.config)


def _networks(card: ModelCard, weights: Path) -> nn.ModuleList:
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from torch import nn

    try:
        tensors = load_file(weights)
        held = {key.partition(".")[0] for key in tensors}
        expected = {f"member{m}" for m in range(card.members)}
        if not expected or not expected <= held:
            raise ValueError(f"it holds {sorted(held)}, the card speaks of {card.members} members")
        make, config = _parts_of(card)
        if card.level and card.level not in (levels := getattr(config, "levels", ())):
            raise ValueError(f"the card's level {card.level!r} is none of the network's {levels}")
        if card.reads_forces and not getattr(config, "reads_forces", False):
            raise ValueError("the card says that the network corrects, but it reads no forces")
        networks = nn.ModuleList(make(config) for _ in range(card.members))
        for m, network in enumerate(networks):
            prefix = f"member{m}."
            state = {k.removeprefix(prefix): t.float() for k, t in tensors.items() if k.startswith(prefix)}
            network.load_state_dict(state, strict=True)
    except (SafetensorError, RuntimeError, ValueError, TypeError) as error:
        raise ModelError(f"{weights} does not fit its card: {error}") from error
    return networks.eval().requires_grad_(False)
