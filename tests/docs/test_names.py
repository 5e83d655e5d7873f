"""The names that the explanation of the equations gives are names of the code."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-it-works.md"
NAMES = sorted(
    set(re.findall(r"`(?:deeprelax_ase\.)?([a-z_0-9]+(?:\.[A-Za-z_0-9]+)+)`", PAGE.read_text(encoding="utf-8")))
)


def resolves(name: str) -> bool:
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = import_module(".".join(["deeprelax_ase", *parts[:cut]]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


@pytest.mark.parametrize("name", NAMES)
def test_there_is_such_a_name(name: str) -> None:
    assert resolves(name), f"deeprelax_ase.{name}"
