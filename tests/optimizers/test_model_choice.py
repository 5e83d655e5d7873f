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
from deeprelax_ase.optimizers import DeepRelaxOptimizer, finish_atoms
from deeprelax_ase.optimizers.jump import shared_predictor
from deeprelax_ase.prediction.result import RelaxationResult
from tests.optimizers.force_reader import M3GNetCalculator, UnknownM3GNet

ANOTHER = "DeepRelax-PBE-v0"


def optimizer_under(make_atoms, calculator, **kwargs) -> DeepRelaxOptimizer:
    atoms = make_atoms(calc=False)
    atoms.calc = calculator
    return DeepRelaxOptimizer(atoms, logfile=None, device="cpu", **kwargs)


@pytest.mark.parametrize(
    ("calculator", "name"),
    [
        (None, DEFAULT_MODEL),
        (EMT(), DEFAULT_MODEL),
        (M3GNetCalculator(), M3GNET_RELAX_MODEL),
        (UnknownM3GNet(), DEFAULT_MODEL),
    ],
    ids=["none", "EMT", "M3GNet", "another M3GNet"],
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


NOTE = f"no model has learnt the minima of m3gnet 1a2b3c4d5e6f: {DEFAULT_MODEL} jumps to those of PBE"


@pytest.mark.parametrize(
    ("calculator", "given", "noted"),
    [(UnknownM3GNet(), {}, True), (UnknownM3GNet(), {"model": ANOTHER}, False), (M3GNetCalculator(), {}, False)],
    ids=["unknown", "named", "known"],
)
def test_the_log_says_that_weights_are_not_known(make_atoms, tmp_path, calculator, given, noted):
    atoms, log = make_atoms(calc=False), tmp_path / "log"
    atoms.calc = calculator
    with DeepRelaxOptimizer(atoms, logfile=log, device="cpu", **given) as optimizer:
        optimizer.run(fmax=1e-6, steps=1)
    assert (NOTE in log.read_text()) == noted


@pytest.mark.parametrize(
    ("calculator", "name"),
    [(M3GNetCalculator(), "M3GNet-MP-2021.2.8-PES"), (UnknownM3GNet(), "m3gnet 1a2b3c4d5e6f"), (EMT(), None)],
)
def test_results_say_which_potential_gave_them(make_atoms, predictor, calculator, name):
    atoms = make_atoms(calc=False)
    result, relaxed = finish_atoms(atoms, predictor, calculator, fmax=0.1)
    assert result.potential == result.columns()["potential"] == relaxed.info.get("deeprelax_potential") == name
    assert RelaxationResult.from_atoms(relaxed).potential == name
    atoms.calc = calculator
    DeepRelaxOptimizer(atoms, logfile=None, predictor=predictor).run(fmax=0.1)
    assert atoms.info.get("deeprelax_potential") == name


# Loading


def test_a_loop_over_crystals_loads_the_weights_once(make_atoms):
    first, second = (optimizer_under(make_atoms, EMT()).predictor for _ in range(2))
    assert first is second


@pytest.mark.parametrize("steps", [0, 1])
def test_it_is_loaded_at_the_run(make_atoms, steps):
    optimizer = optimizer_under(make_atoms, EMT(), model="no such model")
    with pytest.raises(ModelError, match="no such model"):
        optimizer.run(steps=steps)


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
        (["--calculator", "tests.optimizers.force_reader:UnknownM3GNet"], DEFAULT_MODEL),
        (["--calculator", "tests.optimizers.force_reader:UnknownM3GNet", "--model", ANOTHER], ANOTHER),
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
    unknown = any("Unknown" in option for option in options)
    assert (f"Note: {NOTE}" in result.stderr) == (unknown and name == DEFAULT_MODEL)
    assert (relaxed.info.get("deeprelax_potential") == "m3gnet 1a2b3c4d5e6f") == unknown
