"""From a configuration to a model: read the pairs, train every member, put them together, and measure the result."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from deeprelax_ase import __version__
from deeprelax_ase.data import LEVELS, RelaxationPairs, concatenate
from deeprelax_ase.data.pairs import SPLITS
from deeprelax_ase.errors import OutputError
from deeprelax_ase.evaluation.metrics import prediction_errors
from deeprelax_ase.evaluation.pair_predictions import predict_pairs
from deeprelax_ase.models.card import ModelCard
from deeprelax_ase.models.loading import load_model, save_energy, save_model
from deeprelax_ase.models.model import Model, model_of
from deeprelax_ase.models.registry import card_file_of
from deeprelax_ase.nn import DeepRelaxE3Config
from deeprelax_ase.prediction.devices import device_of
from deeprelax_ase.training.config import dotted, without_card
from deeprelax_ase.training.devices import first_process
from deeprelax_ase.training.export import read_energy_head, read_member, write_member
from deeprelax_ase.training.heads import ENERGY
from deeprelax_ase.training.loop import train
from deeprelax_ase.training.pairs import epoch_pairs, read_pairs
from deeprelax_ase.training.settings import RunConfig
from deeprelax_ase.training.validation import mean_errors
from deeprelax_ase.training.weights import mix_initial
from deeprelax_ase.uncertainty.relaxed_energy import ENERGY_KINDS, EnergyLaw

#: Settings that may change when a run goes on: its place and name, where it runs, how many members there are.
_MAY_CHANGE = ("out", "name", "members", "device", "devices", "loggers")

#: Most recycles that are tried for an end-to-end model.
_RECYCLES = 3

#: Is told the member at work and each record of its log.
Observer = Callable[[int, dict[str, Any]], None]


def train_model(
    config: RunConfig, *, deadline: float | None = None, observe: Observer = lambda member, record: None
) -> Path | None:
    """Train every member of a model that is not finished yet, and write the model.

    Writes ``config.yaml``, a folder for each member (see :func:`~deeprelax_ase.training.loop.train`), and
    ``NAME.safetensors`` with its card ``NAME.json`` into ``config.out``.

    Args:
        config: the run.
        deadline: ``time.monotonic()`` at which to stop; the same call goes on later.
        observe: is told the member at work and each record of its log.

    Returns:
        The card, for :func:`~deeprelax_ase.load_model`; None if the deadline came first.

    Raises:
        ValueError: there is nothing to train on, or the settings do not fit together.
        OutputError: the folder was begun with other settings.
        DeviceError: the device is not to be had.
    """
    parts = read_pairs(config.data)
    pairs, validation = epoch_pairs(config.data, parts), _validation_pairs(config, parts)
    _check_elements(config, parts)
    _check_energies(config, parts)
    _write_config(config)
    device, base = device_of(config.device), initial_weights(config)
    for member in range(config.members):
        out = config.out / f"member{member}"
        weights = out / "weights.safetensors"
        if weights.exists():
            continue
        start = base[member % len(base)] if base else None
        network = train(
            pairs,
            config.network,
            replace(config.training, seed=config.training.seed + member),
            out,
            validation=validation,
            deadline=deadline,
            initial=start,
            frozen=config.frozen,
            device=device,
            devices=config.devices or max(torch.cuda.device_count(), 1),
            loggers=config.loggers,
            observe=lambda record, member=member: observe(member, record),  # type: ignore[misc]
        )
        if network is None:
            return None
        if start is not None and config.initial_share:
            mix_initial(network, start, config.initial_share)
        if first_process():
            write_member(network, weights, seed=config.training.seed + member)
    if first_process():
        write_model(config, parts, pairs, device)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()  # a process that returns may look for the model
    return config.out / f"{config.name}.json"


def _validation_pairs(config: RunConfig, parts: list[RelaxationPairs]) -> RelaxationPairs | None:
    if not config.data.validate:
        return None
    validation = _in_validation(parts)
    if not len(validation):
        raise ValueError("no validation pairs: give some, split them otherwise, or set data.validate to false")
    return validation


def _in_validation(parts: list[RelaxationPairs]) -> RelaxationPairs:
    return concatenate([part.in_split("validation") for part in parts])


def _check_elements(config: RunConfig, parts: list[RelaxationPairs]) -> None:
    heaviest = max(int(part.numbers.max()) for part in parts)
    if heaviest > config.network.num_elements:
        raise ValueError(
            f"the pairs hold the element of atomic number {heaviest}, the network knows those up to "
            f"{config.network.num_elements}: leave these pairs out, or train a network of more num_elements"
        )


def _check_energies(config: RunConfig, parts: list[RelaxationPairs]) -> None:
    if config.training.energy_weight and not _in_validation(parts).energy_relaxed.isfinite().any():
        raise ValueError(
            "no validation pair tells the energy of its relaxed crystal (energy_relaxed of npz files), which bounds of "
            "energies are fitted to: give some, or leave training.energy_weight at 0"
        )


def _write_config(config: RunConfig) -> None:
    """Begin the folder of a run, or go on with one that was begun so.

    Raises:
        OutputError: members were begun there with other settings; the message says which.
    """
    import yaml

    config.out.mkdir(parents=True, exist_ok=True)
    file, text = config.out / "config.yaml", yaml.safe_dump(config.to_dict(), sort_keys=False)
    if file.exists() and any(config.out.glob("member*/*.ckpt")):
        there, new = (_compared(yaml.safe_load(one)) for one in (file.read_text(encoding="utf-8"), text))
        if other := [name for name in new if name in there and there[name] != new[name]]:
            raise OutputError(
                f"{config.out} was begun with other settings ({', '.join(other)}). Give those that it was begun with, "
                "see its config.yaml, or another folder."
            )
    file.write_text(text, encoding="utf-8")


def _compared(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide what members learn, by dotted names; paths in full."""
    flat = {name: value for name, value in dotted(settings) if name not in _MAY_CHANGE}

    def whole(value: Any) -> Any:
        return os.path.realpath(value) if isinstance(value, str) else value

    for name in (name for name in flat if name == "initial" or name.startswith("data.")):
        value = flat[name]
        flat[name] = [whole(one) for one in value] if isinstance(value, list) else whole(value)
    return flat


def initial_weights(config: RunConfig) -> list[dict[str, Tensor]]:
    """Weights to start from, of each member of the initial model; none if there is no such model.

    Raises:
        ValueError: the initial model is of another shape than the network.
    """
    if config.initial is None:
        return []
    if without_card(config.initial):
        return [load_file(config.initial)]
    model = load_model(config.initial)
    if model.config != config.network:
        raise ValueError(
            f"{model.card.name} has another shape than the network of this run: leave out the section network"
        )
    head = {} if model.energy is None else {f"{ENERGY}{n}": t for n, t in model.energy.state_dict().items()}
    return [{**network.state_dict(), **head} for network in model.networks]


def write_model(config: RunConfig, parts: list[RelaxationPairs], pairs: RelaxationPairs, device: torch.device) -> Path:
    """Gather the members, choose the recycles, measure the test split, and write card and weights."""
    networks = [read_member(config.out / f"member{m}" / "weights.safetensors") for m in range(config.members)]
    measured = parts[0]
    level = _level(config, measured)
    model = model_of(networks, config.name, level=level)
    recycles = config.recycles or best_recycles(model, measured.in_split("validation"), device)
    summaries = [_summary(config.out / f"member{m}") for m in range(config.members)]
    save_model(
        networks,
        config.out,
        config.name,
        description=config.description or f"Trained by deeprelax_ase {__version__} on {_files(config)}.",
        level_of_theory=config.level_of_theory or level or config.data.level,
        training_data=f"{len(pairs)} pairs of {_files(config)}",
        split=", ".join(f"{name} {int((measured.split == index).sum())}" for name, index in SPLITS.items()),
        elements=sorted({*pairs.numbers.tolist(), *_elements_known(config)}),
        level=level,
        recycles=recycles,
        metrics={"test": measure(model, measured.in_split("test"), device, recycles=recycles)},
        training={
            "settings": asdict(config.training),
            "members": summaries,
            "initial": config.initial,
            "initial_share": config.initial_share,
        },
        licence=config.licence,
    )
    card = config.out / f"{config.name}.json"
    if config.training.energy_weight:
        head = read_energy_head(config.out / "member0" / "weights.safetensors")
        save_energy(card, head, **_energy_law(replace(model, energy=head), config.data.potential, parts, device))
    return card


def _energy_law(model: Model, potential: str, parts: list[RelaxationPairs], device: torch.device) -> dict[str, Any]:
    """Tell what a card says of the energies of the ``model``: the potential, and bounds by the validation pairs."""
    pairs = _in_validation(parts)
    pairs = pairs.take(pairs.energy_relaxed.isfinite().nonzero().squeeze(1)).to(device)
    found = predict_pairs(model, pairs, recycles=1)
    told = found.energies.isfinite()
    errors = (found.energies - pairs.energy_relaxed).abs()
    given = (values[told].double().cpu().numpy() for values in (errors, found.energy_scales, found.kinds))
    law = EnergyLaw.fit(potential, *given)
    factors = dict(zip(ENERGY_KINDS, law.factors, strict=True))
    return {"potential": potential, "factors": factors, "crystals": int(told.sum())}


def best_recycles(model: Model, pairs: RelaxationPairs, device: str | torch.device) -> int:
    """Find the number of recycles that brings an end-to-end model nearest to the relaxed ``pairs``; 1 without pairs.

    By the mean errors of coordinates and lattice together, both in Å: one may still fall while the other rises.
    """
    if not isinstance(model.config, DeepRelaxE3Config) or not len(pairs):
        return 1
    found = [measure(model, pairs, device, recycles=n) for n in range(1, _RECYCLES + 1)]
    return 1 + min(range(_RECYCLES), key=lambda n: found[n]["coordinates"] + found[n]["lattice"])


def measure(model: Model, pairs: RelaxationPairs, device: str | torch.device, *, recycles: int) -> dict[str, float]:
    """Mean errors over ``pairs``, and those of the unrelaxed crystals; nothing without pairs."""
    if not len(pairs):
        return {}
    pairs = pairs.to(device)
    before = prediction_errors(pairs, pairs.fractional_initial, pairs.cell_initial)
    return {
        **mean_errors(model, pairs, recycles=recycles),
        **{f"unrelaxed {name}": values.double().mean().item() for name, values in before.items()},
    }


def _level(config: RunConfig, pairs: RelaxationPairs) -> str:
    """Name the level whose minima the model predicts; empty for a network that knows no levels."""
    if not isinstance(config.network, DeepRelaxE3Config):
        return ""
    present = [LEVELS[index] for index in sorted(pairs.level.unique().tolist())]
    return config.data.level if config.data.level in present else present[0]


def _elements_known(config: RunConfig) -> list[int]:
    """List the elements that the initial model has been trained on; none without an initial model or its card."""
    if config.initial is None or without_card(config.initial):
        return []
    return ModelCard.read(card_file_of(config.initial)).elements


def _summary(folder: Path) -> dict[str, Any]:
    summary = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    return {name: summary[name] for name in ("steps", "seconds", "best") if name in summary}


def _files(config: RunConfig) -> str:
    return ", ".join(Path(source).name for source in config.data.sources)
