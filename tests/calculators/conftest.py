"""What tests of this room share."""

from __future__ import annotations

import pytest

from deeprelax_ase.calculators import (
    M3GNET_VARIABLE,
    TENSORNET_VARIABLE,
)


@pytest.fixture(autouse=True)
def no_variable(monkeypatch):
    monkeypatch.delenv(M3GNET_VARIABLE, raising=False)
    monkeypatch.delenv(TENSORNET_VARIABLE, raising=False)
