"""Choice of the model whose minima a calculator shares."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from torch import nn

from deeprelax_ase.calculators import get_calculator, level_note, model_for
from deeprelax_ase.calculators.identity import M3GNET_WEIGHTS
from deeprelax_ase.models.registry import DEFAULT_MODEL, M3GNET_RELAX_MODEL, available_models
from tests.calculators.units import M3GNET, needs_weights


class M3GNet(nn.Linear):
    """Called like MatGL's network, with weights that nobody knows."""


class M3GNetCalculator(EMT):
    """Called like MatGL's calculator, and shaped like it: the network is the model of a potential."""

    def __init__(self, network: nn.Module | None = None) -> None:
        super().__init__()
        self.potential = SimpleNamespace(model=network)


def test_both_models_ship():
    assert {DEFAULT_MODEL, M3GNET_RELAX_MODEL} <= {card.name for card in available_models()}
    assert DEFAULT_MODEL != M3GNET_RELAX_MODEL


@pytest.mark.parametrize(
    ("calculator", "noted"),
    [
        (None, False),
        (EMT(), False),
        (Calculator(), False),
        (M3GNetCalculator(), False),
        (M3GNetCalculator(M3GNet(2, 2)), True),
    ],
    ids=["none", "EMT", "any", "no network", "an M3GNet of one's own"],
)
def test_a_class_is_no_reason(calculator, noted: bool):
    """Only weights are; those that nobody has learnt the minima of are named."""
    assert model_for(calculator) == DEFAULT_MODEL
    note = level_note(calculator)
    assert (note is not None) == noted
    if noted:
        assert note.startswith("no model has learnt the minima of m3gnetcalculator ")
        assert note.endswith(f": {DEFAULT_MODEL} jumps to those of PBE")


def test_weights_are():
    calculator = EMT()
    calculator.weights_digest = M3GNET_WEIGHTS
    assert model_for(calculator) == M3GNET_RELAX_MODEL
    assert level_note(calculator) is None


@needs_weights
def test_the_real_m3gnet():
    assert model_for(get_calculator(f"m3gnet:{M3GNET}")) == M3GNET_RELAX_MODEL
