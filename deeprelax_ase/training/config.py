"""A training run from a YAML file and a command line; jsonargparse checks names and types against the records."""

from __future__ import annotations

import difflib
from argparse import ArgumentError
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, cast, get_args, get_origin, get_type_hints

from deeprelax_ase.errors import DeepRelaxError, ModelError
from deeprelax_ase.models.card import ModelCard
from deeprelax_ase.models.registry import card_file_of
from deeprelax_ase.nn import ARCHITECTURES, DeepRelaxConfig, DeepRelaxE3Config
from deeprelax_ase.training.settings import PRESETS, RunConfig, TrainingSettings


class ConfigError(DeepRelaxError, ValueError):
    """A training configuration cannot be understood; the message says where and how to mend it."""


def load_config(file: str | Path, changes: Sequence[str] = ()) -> RunConfig:
    """The run that a YAML file describes.

    Args:
        file: YAML with the fields of :class:`~deeprelax_ase.training.settings.RunConfig`; ``network.architecture`` is
            ``DeepRelaxE3`` (default) or one of the paper's. What is left out keeps its default; without the section
            ``network``, a run that starts from a model has that model's.
        changes: settings that replace those of the file, such as ``training.learning_rate=1e-3``.

    Raises:
        ConfigError: the file cannot be read, or has a setting that is unknown or has a wrong value.
    """
    import yaml

    try:
        values = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{file} holds no settings: a file of `name: value` lines is needed")
    try:
        return run_config(values, changes)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def run_config(
    values: Mapping[str, Any], changes: Sequence[str] = (), *, training: TrainingSettings | None = None
) -> RunConfig:
    """The run that nested ``values`` describe, with ``changes``, see :func:`load_config`.

    Args:
        values: settings by name, those of a section in a dictionary of their own.
        changes: ``NAME=VALUE``, the name dotted.
        training: defaults of the section of this name, in place of the architecture's usual settings.

    Raises:
        ConfigError: a setting is unknown, lacks or has a wrong value.
    """
    from jsonargparse import Namespace

    given = dict(dotted(values)) | dict(map(_change, changes))
    network, usual = _departure(given)
    parser = _parser(cast("Any", type(network)))  # mypy takes no class of records for hashable
    parser.set_defaults({"network": network.to_dict(), "training": asdict(training or usual)})
    known = list(parser.get_defaults().keys())
    settings = Namespace()
    for name, value in given.items():
        if name in known:
            settings[name] = _checked(name, value)
        elif not (value is None and _is_section(name, known)):  # a heading without settings
            raise ConfigError(_unknown(name, known))
    try:
        made = parser.instantiate(parser.parse_object(settings))
        return RunConfig(**vars(made))
    except (ArgumentError, TypeError, ValueError) as error:
        raise ConfigError(" ".join(str(error).split())) from error


@cache
def _parser(network: type) -> Any:
    """Parser of runs with a ``network`` of this configuration; to make it takes longer than to parse with it."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(RunConfig, skip={"network"})
    parser.add_class_arguments(network, "network")
    return parser


def _types(record: type, section: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names of the settings of a ``record``, and their types; a union of records has the settings of each."""
    for name, kind in get_type_hints(record).items():
        sections = [one for one in (kind, *get_args(kind)) if is_dataclass(one)]
        for one in sections:
            yield from _types(cast("type", one), f"{section}{name}.")
        if not sections:
            yield f"{section}{name}", kind


_TYPES = dict(_types(RunConfig))


def _checked(name: str, value: Any) -> Any:
    """``value``, where jsonargparse would take nothing for any setting, and no single name for a list of names."""
    kind = _TYPES[name]
    if value is None and NoneType not in get_args(kind):
        raise ConfigError(f"{name} has no value")
    return [value] if kind == tuple[str, ...] and isinstance(value, str) else value


def dotted(values: Mapping[str, Any], section: str = "") -> Iterator[tuple[str, Any]]:
    """Nested ``values`` by their dotted names; a setting whose value has keys of one's own is no section."""
    for key, value in values.items():
        name = f"{section}{key}"
        if isinstance(value, Mapping) and get_origin(_TYPES.get(name)) is not dict:
            yield from dotted(value, f"{name}.")
        else:
            yield name, value


def _change(text: str) -> tuple[str, Any]:
    """``NAME=VALUE`` as a pair, the value read as YAML."""
    import yaml

    name, sign, value = text.partition("=")
    if not sign or not name:
        raise ConfigError(f"{text!r} is not NAME=VALUE")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"{text!r}: {value!r} is not a value: {error}") from error


def _departure(given: dict[str, Any]) -> tuple[DeepRelaxConfig | DeepRelaxE3Config, TrainingSettings]:
    """Network and training that the ``given`` settings depart from; takes the architecture out of them."""
    card = None
    if not any(name.startswith("network.") for name in given) and (initial := given.get("initial")) is not None:
        card = _card_of(str(initial))
    architecture = given.pop("network.architecture", card.architecture if card else "DeepRelaxE3")
    if architecture not in tuple(PRESETS):  # a list has no hash
        raise ConfigError(f"Unknown network.architecture={architecture!r}, must be one of {tuple(PRESETS)}")
    network, training = PRESETS[architecture]
    return (ARCHITECTURES[architecture][1].from_dict(card.config) if card else network), training


def _card_of(initial: str) -> ModelCard | None:
    """The card of the model that a run starts from, if it starts from a model."""
    if without_card(initial):
        return None
    try:
        return ModelCard.read(card_file_of(initial))
    except (ModelError, KeyError, ValueError) as error:
        raise ConfigError(f"initial: {error}") from error


def without_card(initial: str) -> bool:
    """Whether ``initial`` is a file of weights of one network, such as ``member0/weights.safetensors``."""
    file = Path(initial)
    return file.suffix == ".safetensors" and not file.with_suffix(".json").exists()


def _is_section(name: str, known: Sequence[str]) -> bool:
    return any(setting.startswith(f"{name}.") for setting in known)


def _unknown(name: str, known: Sequence[str]) -> str:
    """Explain that a ``name`` is not ``known``, and suggest the names that may be meant."""
    if _is_section(name, known):
        return f"{name} is a section of settings, which have names and values of their own"
    last = {setting.rpartition(".")[2]: setting for setting in reversed(known)}
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.75) or [
        last[match] for match in difflib.get_close_matches(name.rpartition(".")[2], last, n=1)
    ]
    section = name.rpartition(".")[0]
    beside = [setting for setting in known if setting.rpartition(".")[0] == section] or known
    return f"Unknown setting {name}" + (f"; did you mean {near[0]}?" if near else f", must be one of {beside}")
