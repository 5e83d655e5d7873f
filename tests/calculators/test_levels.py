"""Choice of the model whose minima a calculator shares."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT

from deeprelax_ase.calculators import M3GNET_POTENTIAL, get_calculator
from deeprelax_ase.calculators.levels import model_for
from deeprelax_ase.models.registry import DEFAULT_MODEL, M3GNET_RELAX_MODEL, available_models


class M3GNet:
    """Called like MatGL's network."""


class CHGNet:
    """Called like another of MatGL's networks."""


class PESCalculator(EMT):
    """Shaped like MatGL's: the network is the model of a potential."""

    def __init__(self, network: object) -> None:
        super().__init__()
        self.potential = SimpleNamespace(model=network)


class M3GNetCalculator(EMT):
    """Called like that of MatGL before its version 1."""


def test_both_models_ship():
    assert {DEFAULT_MODEL, M3GNET_RELAX_MODEL} <= {card.name for card in available_models()}
    assert DEFAULT_MODEL != M3GNET_RELAX_MODEL


@pytest.mark.parametrize(
    ("calculator", "name"),
    [
        (None, DEFAULT_MODEL),
        (EMT(), DEFAULT_MODEL),
        (Calculator(), DEFAULT_MODEL),
        (PESCalculator(CHGNet()), DEFAULT_MODEL),
        (PESCalculator(None), DEFAULT_MODEL),
        (PESCalculator(M3GNet()), M3GNET_RELAX_MODEL),
        (M3GNetCalculator(), M3GNET_RELAX_MODEL),
    ],
    ids=["none", "EMT", "any", "MatGL's CHGNet", "no network", "MatGL's M3GNet", "M3GNetCalculator"],
)
def test_model_for(calculator, name: str):
    assert model_for(calculator) == name


def test_the_real_m3gnet(shared: Path, needs_dgl):
    folder = shared / "models" / M3GNET_POTENTIAL
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    assert model_for(get_calculator(f"m3gnet:{folder}")) == M3GNET_RELAX_MODEL
