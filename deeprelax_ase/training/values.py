"""Settings off a command line."""

from __future__ import annotations

from argparse import ArgumentTypeError
from typing import Any


def setting(text: str) -> tuple[str, Any]:
    """NAME=VALUE as a pair, the value read as YAML: ``training.learning_rate=1e-3``.

    Raises:
        ArgumentTypeError: there is no ``=``, or the value is not YAML.
    """
    import yaml

    name, sign, value = text.partition("=")
    if not sign or not name:
        raise ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, number_in(yaml.safe_load(value))
    except yaml.YAMLError as error:
        raise ArgumentTypeError(f"{text!r}: {value!r} is not a value: {error}") from error


def number_in(value: Any) -> Any:
    """The number that a text such as ``1e-3`` stands for, which YAML takes for text; other values as they are."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
