"""Which model jumps, given the atoms' calculator, and that a process loads it once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read, write
from typer.testing import CliRunner

from deeprelax_ase import cli
from deeprelax_ase.errors import ModelError
from deeprelax_ase.models.registry import DEFAULT_MODEL, M3GNET_RELAX_MODEL, WEIGHTS
from deeprelax_ase.optimizers import DeepRelaxOptimizer
from deeprelax_ase.optimizers.shared import shared_predictor
from tests.optimizers.force_reader import M3GNetCalculator

ANOTHER = "DeepRelax-PBE-v0"


def optimizer_under(make_atoms, calculator, **kwargs) -> DeepRelaxOptimizer:
    atoms = make_atoms(calc=False)
    atoms.calc = calculator
    return DeepRelaxOptimizer(atoms, logfile=None, device="cpu", **kwargs)


@pytest.mark.parametrize(
    ("calculator", "name"),
    [(None, DEFAULT_MODEL), (EMT(), DEFAULT_MODEL), (M3GNetCalculator(), M3GNET_RELAX_MODEL)],
    ids=["none", "EMT", "M3GNet"],
)
def test_it_is_that_of_the_calculator(make_atoms, calculator, name):
    optimizer = optimizer_under(make_atoms, calculator, on_uncertain="keep")
    optimizer.run(fmax=1e-6, steps=1)
    assert optimizer.predictor.model_name == optimizer.prediction.model == name


def test_the_calculator_at_the_jump_counts(make_atoms):
    optimizer = optimizer_under(make_atoms, EMT())
    optimizer.atoms.calc = M3GNetCalculator()
    optimizer.run(steps=1)
    assert optimizer.prediction.model == M3GNET_RELAX_MODEL


@pytest.mark.parametrize("calculator", [EMT(), M3GNetCalculator()], ids=["EMT", "M3GNet"])
def test_one_that_is_named_wins(make_atoms, calculator):
    assert optimizer_under(make_atoms, calculator, model=ANOTHER).predictor.model_name == ANOTHER


def test_a_predictor_that_is_given_wins(make_atoms, predictor):
    optimizer = optimizer_under(make_atoms, M3GNetCalculator(), predictor=predictor)
    assert optimizer.predictor is predictor
    optimizer.run(steps=1)
    assert predictor.asked == [True]


# Loading


def test_a_loop_over_crystals_loads_the_weights_once(make_atoms):
    first, second = (optimizer_under(make_atoms, EMT()).predictor for _ in range(2))
    assert first is second


def test_it_is_loaded_at_the_jump(make_atoms):
    optimizer = optimizer_under(make_atoms, EMT(), model="no such model")
    optimizer.run(steps=0)
    with pytest.raises(ModelError, match="no such model"):
        optimizer.run(steps=1)


def test_options_tell_predictors_apart():
    first = shared_predictor(device="cpu")
    assert shared_predictor(device="cpu") is first
    assert shared_predictor(ANOTHER, device="cpu") is not first
    assert shared_predictor(device="cpu", graph_backend="matgl") is not first


def test_files_are_loaded_anew():
    path = WEIGHTS / f"{ANOTHER}.json"
    for model in (str(path), path):
        assert shared_predictor(model, device="cpu") is not shared_predictor(model, device="cpu")


def test_importing_the_optimizers_does_not_import_the_network():
    code = "import sys, deeprelax_ase.optimizers.deeprelax; print({'torch', 'dgl'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# The command line


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ([], DEFAULT_MODEL),
        (["--calculator", "tests.optimizers.force_reader:M3GNetCalculator"], M3GNET_RELAX_MODEL),
        (["--calculator", "tests.optimizers.force_reader:M3GNetCalculator", "--model", ANOTHER], ANOTHER),
    ],
    ids=" ".join,
)
def test_the_command_line_takes_that_of_the_calculator(tmp_path: Path, options: list[str], name: str):
    source, output = tmp_path / "set.extxyz", tmp_path / "out.extxyz"
    write(source, bulk("Cu", cubic=True))
    result = CliRunner().invoke(cli.app, ["relax", str(source), "-o", str(output), "--device", "cpu", *options])
    assert result.exit_code == 0, result.output
    relaxed = read(output)
    assert isinstance(relaxed, Atoms)
    assert relaxed.info["deeprelax_model"] == name
