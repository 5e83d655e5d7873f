"""What tests of this room share."""

from __future__ import annotations

from pathlib import Path

import pytest

from deeprelax_ase.models.loading import save_model
from tests.models.small_models import SMALL_E3, WEIGHTS_OF_BOTH, WORDS, networks


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """The card of a small model."""
    save_model(networks(), tmp_path, "small", **WORDS)
    return tmp_path / "small.json"


@pytest.fixture
def saved_levels(tmp_path: Path) -> list[Path]:
    """The cards of two levels of theory that one small end-to-end ensemble knows."""
    for level in SMALL_E3.levels:
        save_model(networks(config=SMALL_E3), tmp_path, f"to-{level}", level=level, weights=WEIGHTS_OF_BOTH, **WORDS)
    return [tmp_path / f"to-{level}.json" for level in SMALL_E3.levels]
