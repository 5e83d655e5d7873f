"""Which model jumps, given the atoms' calculator."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.io import write
from typer.testing import CliRunner

from deeprelax_ase import cli
from deeprelax_ase.calculators import registry as calculators
from deeprelax_ase.models.registry import DEFAULT_MODEL, M3GNET_RELAX_MODEL, available_models
from deeprelax_ase.optimizers import DeepRelaxOptimizer
from deeprelax_ase.optimizers.target import model_for
from tests.stand_in import StandInPredictor


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
    folder = shared / "models" / calculators.M3GNET_POTENTIAL
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    assert model_for(calculators.get_calculator(f"m3gnet:{folder}")) == M3GNET_RELAX_MODEL


# The optimizer


@pytest.fixture
def loaded(monkeypatch, predictor) -> list:
    """The models that the optimizer asks for; it gets the stand-in."""
    asked = []

    def shared_predictor(model=None, **options):
        asked.append(model)
        return predictor

    monkeypatch.setattr("deeprelax_ase.optimizers.deeprelax.shared_predictor", shared_predictor)
    return asked


@pytest.mark.parametrize(
    ("calculator", "name"),
    [(None, DEFAULT_MODEL), (EMT(), DEFAULT_MODEL), (PESCalculator(M3GNet()), M3GNET_RELAX_MODEL)],
    ids=["none", "EMT", "M3GNet"],
)
def test_optimizer_takes_the_model_of_the_calculator(make_atoms, loaded, calculator, name: str):
    atoms = make_atoms(calc=False)
    atoms.calc = calculator
    DeepRelaxOptimizer(atoms, logfile=None).run(steps=1)
    assert loaded == [name]


def test_calculator_at_the_jump_counts(make_atoms, loaded):
    atoms = make_atoms()
    optimizer = DeepRelaxOptimizer(atoms, logfile=None)
    atoms.calc = PESCalculator(M3GNet())
    optimizer.run(steps=1)
    assert loaded == [M3GNET_RELAX_MODEL]


@pytest.mark.parametrize("network", [None, M3GNet()], ids=["EMT", "M3GNet"])
def test_a_model_that_is_named_wins(make_atoms, loaded, network):
    atoms = make_atoms()
    atoms.calc = PESCalculator(network)
    DeepRelaxOptimizer(atoms, logfile=None, model="my own").run(steps=1)
    assert loaded == ["my own"]


def test_a_predictor_that_is_given_wins(make_atoms, loaded, predictor):
    atoms = make_atoms()
    atoms.calc = PESCalculator(M3GNet())
    DeepRelaxOptimizer(atoms, logfile=None, predictor=predictor).run(steps=1)
    assert loaded == []
    assert predictor.asked == [True]


# The command line


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ([], DEFAULT_MODEL),
        (["--calculator", "none"], DEFAULT_MODEL),
        (["--calculator", "ase.calculators.emt:EMT"], DEFAULT_MODEL),
        (["--calculator", "chgnet"], DEFAULT_MODEL),
        (["--calculator", "m3gnet"], M3GNET_RELAX_MODEL),
        (["--calculator", "M3GNet"], M3GNET_RELAX_MODEL),
        (["--calculator", "m3gnet:folder"], M3GNET_RELAX_MODEL),
        (["--calculator", "my_module:make_m3gnet"], M3GNET_RELAX_MODEL),
        (["--calculator", "m3gnet", "--model", "my own"], "my own"),
        (["--model", "my own"], "my own"),
    ],
    ids=" ".join,
)
def test_command_line_takes_the_model_of_the_calculator(tmp_path: Path, monkeypatch, options: list[str], name: str):
    asked = []

    def make_predictor(model, *, device):
        asked.append(model)
        return StandInPredictor()

    monkeypatch.setattr("deeprelax_ase.prediction.predictor.Predictor", make_predictor)
    monkeypatch.setattr(
        calculators,
        "get_calculator",
        lambda name, *, device: PESCalculator(M3GNet() if "m3gnet" in name.lower() else CHGNet()),
    )
    write(tmp_path / "set.extxyz", bulk("Cu", cubic=True))
    arguments = ["relax", str(tmp_path / "set.extxyz"), "-o", str(tmp_path / "out.extxyz"), *options]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    assert asked == [name]
