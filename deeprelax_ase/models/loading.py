"""Models read from files and written to them: a JSON card beside a safetensors file. Nothing is ever unpickled.

A file pair ``NAME.json`` and ``NAME.safetensors`` holds an ensemble: tensor ``member0.backbone...`` belongs to the
first member, and so on. Networks that know several levels of theory have one file of weights and a card for each level.
The statistics of novelty lie in ``NAME-novelty.safetensors``, and the head for energies in ``NAME-energy.safetensors``,
where the card speaks of them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeprelax_ase.errors import ModelError
from deeprelax_ase.models.card import ModelCard
from deeprelax_ase.models.model import Model, network_of
from deeprelax_ase.models.registry import DEFAULT_MODEL, card_file_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from deeprelax_ase.nn import DeepRelax, DeepRelaxE3
    from deeprelax_ase.nn.energy_head import EnergyHead


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
    _check_file(card, "weights", weights, card.sha256)
    novelty = _beside(card, card_file, "novelty", "statistics of novelty")
    return Model(card, _networks(card, weights), novelty, _energy_head(card, card_file))


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
        folder: for the files.
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


def save_novelty(card_file: Path, tensors: Mapping[str, Tensor], **fitted: Any) -> ModelCard:
    """Write what tells novelty beside a card, and the card anew, which then speaks of it.

    Args:
        card_file: of the model.
        tensors: by name.
        **fitted: what they were fitted to.
    """
    return _save_beside(card_file, "novelty", {name: t.float() for name, t in tensors.items()}, fitted)


def save_energy(card_file: Path, head: EnergyHead, **fitted: Any) -> ModelCard:
    """Write the ``head`` for energies beside a card, in half precision but for elements, and the card anew.

    Args:
        card_file: of the model.
        head: trained.
        **fitted: the ``potential``, ``factors`` of the bounds by kind, and what they were fitted to.
    """
    tensors = {name: t if name == "elements" else t.half() for name, t in head.state_dict().items()}
    return _save_beside(card_file, "energy", tensors, {"weights": ModelCard.read(card_file).sha256, **fitted})


def _save_beside(card_file: Path, field: str, tensors: Mapping[str, Tensor], fitted: dict[str, Any]) -> ModelCard:
    from safetensors.torch import save

    card = ModelCard.read(card_file)
    file = card_file.with_name(f"{card_file.stem}-{field}.safetensors")
    file.write_bytes(save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}))
    told: dict[str, Any] = {field: {"file": file.name, "sha256": sha256(file), **fitted}}
    written = replace(card, **told)
    written.write(card_file)
    return written


def sha256(file: Path) -> str:
    """Hexadecimal SHA-256 digest of ``file``."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_file(card: ModelCard, what: str, file: Path, expected: str) -> None:
    if not file.exists():
        raise ModelError(f"{card.name}: the {what} {file} are missing; they belong beside the card")
    if (digest := sha256(file)) != expected:
        raise ModelError(
            f"{file} is damaged or not the file that the card describes (sha256 {digest[:12]}…, expected "
            f"{expected[:12]}…). Install the package again, or fetch the file again."
        )


def _beside(card: ModelCard, card_file: Path, field: str, what: str) -> dict[str, Tensor] | None:
    """The tensors that a ``field`` of the ``card`` speaks of; None where it does not."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not (told := getattr(card, field)):
        return None
    try:
        file, digest = card_file.with_name(told["file"]), told["sha256"]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{card.name}: what the card says of {field} is not of this version: {error}") from error
    _check_file(card, what, file, digest)
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ModelError(f"{file} holds no {what}: {error}") from error


def _energy_head(card: ModelCard, card_file: Path) -> EnergyHead | None:
    from deeprelax_ase.nn.energy_head import EnergyHead

    tensors = _beside(card, card_file, "energy", "head for energies")
    if tensors is not None and card.energy.get("weights") != card.sha256:
        raise ModelError(
            f"{card.name}: its head for energies was trained on other weights than these, whose sha256 begins with "
            f"{card.sha256[:12]}: take energy out of the card"
        )
    try:
        return None if tensors is None else EnergyHead.from_tensors(tensors)
    except ValueError as error:
        raise ModelError(f"{card.name}: its head for energies is not of this version: {error}") from error


def _unfilled(make: Callable[[Any], nn.Module], config: Any) -> nn.Module:
    """A network of ``config`` whose parameters hold nothing yet: no memory is touched, and no random number drawn.

    torch's meta device would do the same, but loads its compiler and sympy, which takes longer than all the rest.
    """
    from torch.overrides import TorchFunctionMode

    class Unfilled(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            name = getattr(func, "__name__", "")
            if name.endswith("_") and not name.endswith("__"):  # it fills a tensor in place
                return args[0] if args else kwargs["tensor"]
            return func(*args, **kwargs)

    with Unfilled():
        return make(config)


def _refuse_too_few(config: Any, tensors: Mapping[str, Tensor]) -> None:
    """Refuse a ``config`` of many more layers than the ``tensors`` can be of, before any is made.

    Raises:
        ValueError: says how many.
    """
    expected, blocks = sum(t.numel() for t in tensors.values()), getattr(config, "num_blocks", 1)
    layers = blocks * getattr(config, "layers_per_block", getattr(config, "num_layers", 1))
    if layers * config.channels > expected:  # not one number for each channel
        raise ValueError(f"it holds {expected:,} numbers, and the card speaks of {layers} x {config.channels} channels")


def _refuse_other_shapes(network: nn.Module, held: Mapping[str, Tensor]) -> None:
    """Refuse a ``network`` other than that which the tensors ``held`` are of.

    Raises:
        ValueError: names what differs.
    """
    for name, tensor in network.state_dict().items():
        if name in held and held[name].shape != tensor.shape:
            found, asked = tuple(held[name].shape), tuple(tensor.shape)
            raise ValueError(f"{name} has the shape {found}, and the card speaks of {asked}")


def _networks(card: ModelCard, weights: Path) -> nn.ModuleList:
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from torch import nn

    try:
        tensors = load_file(weights)
        held = {key.partition(".")[0] for key in tensors}
        few = 1 <= card.members <= len(held)  # before a set of so many names is made
        if not few or not {f"member{m}" for m in range(card.members)} <= held:
            raise ValueError(f"it holds {sorted(held)}, the card speaks of {card.members} members")
        make, config = network_of(card)
        if card.level and card.level not in (levels := getattr(config, "levels", ())):
            raise ValueError(f"the card's level {card.level!r} is none of the network's {levels}")
        if card.reads_forces and not getattr(config, "reads_forces", False):
            raise ValueError("the card says that the network reads forces, which it cannot")
        _refuse_too_few(config, tensors)
        networks = nn.ModuleList()
        for m in range(card.members):
            prefix, network = f"member{m}.", _unfilled(make, config)
            state = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
            _refuse_other_shapes(network, state)
            network.load_state_dict({k: t.float() for k, t in state.items()}, strict=True, assign=True)
            networks.append(network)
    except (SafetensorError, RuntimeError, ValueError, TypeError) as error:
        raise ModelError(f"{weights} does not fit its card: {error}") from error
    return networks.eval().requires_grad_(False)
