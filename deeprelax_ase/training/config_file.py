"""A training run as a YAML file."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

from deeprelax_ase.errors import DeepRelaxError, ModelError
from deeprelax_ase.models.registry import ModelCard, card_file_of
from deeprelax_ase.nn import ABLATIONS, ARCHITECTURES
from deeprelax_ase.training.augment import AugmentationSettings
from deeprelax_ase.training.config import DataSettings, RunConfig, without_card
from deeprelax_ase.training.presets import AUGMENTATION, CONFIG, SETTINGS, PairSettings
from deeprelax_ase.training.settings import TrainingSettings

#: Section 4.8 of the paper.
PAPER = TrainingSettings(learning_rate=1e-4, schedule="plateau", weight_decay=0.01, lattice_weight=1.0)

#: What the sections network, training and augmentation depart from, by the architecture of the network.
_DEFAULTS: dict[str, tuple[Any, TrainingSettings, AugmentationSettings]] = {
    "DeepRelaxE3": (CONFIG, SETTINGS, AUGMENTATION),
    **{name: (config, PAPER, PAPER.augmentation) for name, config in ABLATIONS.items()},
}


class ConfigError(DeepRelaxError, ValueError):
    """A training configuration cannot be understood; the message says where and how to mend it."""


def load_config(file: str | Path, changes: Sequence[tuple[str, Any]] = ()) -> RunConfig:
    """The run that a YAML file describes.

    Args:
        file: YAML with the fields of :class:`~deeprelax_ase.training.config.RunConfig`; ``network.architecture`` is
            ``DeepRelaxE3`` (default) or one of the paper's, and ``augmentation`` a section of its own. What is left out
            keeps its default; without the section ``network``, a run that starts from a model has that model's.
        changes: settings by their dotted names that replace those of the file, such as
            ``("training.learning_rate", 1e-3)``.

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
    for name, value in changes:
        _put(values, name, value)
    try:
        return run_config(values)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def run_config(values: Mapping[str, Any]) -> RunConfig:
    """The run that nested ``values`` describe, see :func:`load_config`."""
    values = dict(values)
    network = _section(values, "network")
    initial = None if network else _initial_network(values.get("initial"))
    architecture = network.pop("architecture", "DeepRelaxE3") if initial is None else initial[0]
    if architecture not in tuple(_DEFAULTS):
        raise ConfigError(f"Unknown network.architecture={architecture!r}, must be one of {tuple(_DEFAULTS)}")
    config, settings, augmentation = _DEFAULTS[architecture]
    config = config if initial is None else initial[1]
    augmentation = _changed(augmentation, _section(values, "augmentation"), "augmentation")
    learning = _section(values, "training")
    if "augmentation" in learning:
        raise ConfigError("augmentation is a section of its own, beside training and not in it")
    training = _changed(settings, learning, "training")
    data = _section(values, "data")
    choice = _changed(PairSettings(dft_copies=1, borrowed=0.0), _section(data, "choice"), "data.choice")
    return _made(
        RunConfig,
        {
            **values,
            "data": _made(DataSettings, {**data, "choice": choice}, "data"),
            "network": _changed(config, network, "network"),
            "training": replace(training, augmentation=augmentation),
        },
        "",
    )


def _initial_network(initial: Any) -> tuple[str, Any] | None:
    """Architecture and shape of the model that a run starts from, if its card says them."""
    if initial is None or without_card(str(initial)):
        return None
    try:
        card = ModelCard.read(card_file_of(str(initial)))
        return card.architecture, ARCHITECTURES[card.architecture][1].from_dict(card.config)
    except (ModelError, KeyError, ValueError) as error:
        raise ConfigError(f"initial: {error}") from error


def _section(values: dict[str, Any], name: str) -> dict[str, Any]:
    section = values.pop(name, None) or {}
    if not isinstance(section, Mapping):
        raise ConfigError(f"{name} must be a section of settings, got {section!r}")
    return dict(section)


def _changed(record: Any, values: Mapping[str, Any], where: str) -> Any:
    _check_names(type(record), values, where)
    try:
        return replace(record, **_numbers(type(record), values, where))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from error


def _made(kind: Any, values: Mapping[str, Any], where: str) -> Any:
    _check_names(kind, values, where)
    needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in needed if name not in values]:
        raise ConfigError(f"{where or 'the file'} lacks {', '.join(missing)}")
    try:
        return kind(**_numbers(kind, values, where))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}" if where else str(error)) from error


def _check_names(kind: Any, values: Mapping[str, Any], where: str) -> None:
    known = [f.name for f in fields(kind)]
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f", must be one of {known}"
            raise ConfigError(f"Unknown setting {where + '.' if where else ''}{name}{hint}")


def _numbers(kind: Any, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The ``values``, numbers that YAML takes for text (``1e-3``) read, and of the kind that the field has."""
    result = dict(values)
    for f in fields(kind):
        if f.name not in values:
            continue
        value, wanted = values[f.name], str(f.type)
        full = f"{where}.{f.name}" if where else f.name
        if wanted == "bool" and not isinstance(value, bool):
            raise ConfigError(f"{full} must be true or false, got {value!r}")
        if wanted == "str" and not isinstance(value, str):
            raise ConfigError(f"{full} must be text, got {value!r}; put it in quotes")
        kind_of_number = wanted.split(" ")[0]
        if kind_of_number in ("float", "int") and not (value is None and "None" in wanted):
            result[f.name] = _number(value, full, whole=kind_of_number == "int")
    return result


def _number(value: Any, name: str, *, whole: bool) -> float | int:
    try:
        if isinstance(value, bool) or not math.isfinite(number := float(value)):
            raise ValueError("true, false, infinities and nan are none")
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} must be a number, got {value!r}") from error
    if not whole:
        return number
    if number != int(number):
        raise ConfigError(f"{name} must be a whole number, got {value!r}")
    return value if isinstance(value, int) else int(number)


def _put(values: dict[str, Any], name: str, value: Any) -> None:
    *sections, last = name.split(".")
    for section in sections:
        if values.get(section) is None:  # absent, or a heading without settings
            values[section] = {}
        values = values[section]
        if not isinstance(values, dict):
            raise ConfigError(f"{name}: {section} is no section of settings")
    values[last] = value
