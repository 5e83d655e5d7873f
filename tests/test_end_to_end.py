"""From structures to relaxed structures with the weights that ship: optimizer, calculators, command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.io import read, write
from typer.testing import CliRunner

from deeprelax_ase import DeepRelaxOptimizer, DeepRelaxPositions, cli
from deeprelax_ase.calculators import M3GNET_POTENTIAL, M3GNET_VARIABLE, get_calculator
from deeprelax_ase.models.registry import DEFAULT_MODEL
from deeprelax_ase.prediction.predictor import Predictor

ROOT = Path(__file__).resolve().parents[1]
UNRELAXED = ROOT / "examples" / "unrelaxed.extxyz"
FMAX = 0.05


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(device="cpu")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def strained(symbol: str = "MgO", a: float = 4.21, factor: float = 1.06) -> Atoms:
    return bulk(symbol, "rocksalt", a=a * factor)


def measured_volumes() -> dict[str, float]:
    """Å³ of the examples' conventional cells as measured, by formula."""
    spec = spec_from_file_location("relax_crystal", ROOT / "examples" / "relax_crystal.py")
    assert spec is not None
    assert spec.loader is not None
    example = module_from_spec(spec)
    sys.modules[spec.name] = example
    spec.loader.exec_module(example)
    volumes = {}
    for candidate in example.candidates():
        atoms = candidate.atoms.copy()
        atoms.set_cell(np.diag(np.divide(candidate.measured, atoms.cell.lengths())) @ atoms.cell.array)
        volumes[candidate.formula] = atoms.get_volume()
    return volumes


# Optimizer


def test_jump_alone(predictor: Predictor):
    atoms, before = strained(), strained()
    optimizer = DeepRelaxOptimizer(atoms, predictor=predictor, logfile=None)
    assert optimizer.run()
    prediction = predictor.predict(before)
    np.testing.assert_allclose(atoms.cell.array, prediction.relaxed.cell, rtol=0, atol=1e-12)
    np.testing.assert_allclose(atoms.positions, prediction.relaxed.positions, rtol=0, atol=1e-12)
    assert atoms.info["deeprelax_model"] == DEFAULT_MODEL
    assert atoms.info["deeprelax_uncertainty"] == prediction.uncertainty.total
    assert atoms.info["deeprelax_status"] == "accepted"
    assert optimizer.nsteps == 1
    volume = 4.21**3 / 4
    assert abs(atoms.get_volume() - volume) < 0.5 * abs(before.get_volume() - volume)


def test_optimizer_finds_the_shipped_model_itself():
    atoms = strained()
    DeepRelaxOptimizer(atoms, logfile=None).run()
    assert atoms.info["deeprelax_model"] == DEFAULT_MODEL


def test_positions_alone(predictor: Predictor):
    atoms = read(UNRELAXED, 7)
    before = atoms.copy()
    assert DeepRelaxPositions(atoms, predictor=predictor, logfile=None).run()
    np.testing.assert_array_equal(atoms.cell.array, before.cell.array)
    moved = np.linalg.norm(atoms.positions - before.positions, axis=1)
    assert 0.005 < moved.max() < 1.0


def assert_relaxes(calculator, predictor: Predictor, expected: float) -> None:
    atoms = strained()
    atoms.calc = calculator
    assert np.abs(atoms.get_stress()).max() > FMAX
    optimizer = DeepRelaxOptimizer(atoms, predictor=predictor, logfile=None)
    assert optimizer.run(fmax=FMAX, steps=100)
    assert optimizer.converged()
    assert atoms.info["deeprelax_status"] == "converged"
    assert np.linalg.norm(FrechetCellFilter(atoms).get_forces(), axis=1).max() <= FMAX
    assert (4 * atoms.get_volume()) ** (1 / 3) == pytest.approx(expected, abs=0.02)


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad:UserWarning:chgnet")
def test_finish_under_chgnet(predictor: Predictor):
    pytest.importorskip("chgnet")
    assert_relaxes(get_calculator("chgnet", device="cpu"), predictor, expected=4.25)  # Å


def test_finish_under_m3gnet(predictor: Predictor, shared: Path, needs_dgl, monkeypatch):
    folder = shared / "models" / M3GNET_POTENTIAL
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    monkeypatch.setenv(M3GNET_VARIABLE, str(folder))
    assert_relaxes(get_calculator("m3gnet", device="cpu"), predictor, expected=4.25)  # Å


# Command line


def deeprelax(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_relax_a_file(folder: Path):
    result = deeprelax("relax", UNRELAXED, "-o", "relaxed.extxyz")
    before, after = read(UNRELAXED, ":"), read("relaxed.extxyz", ":")
    assert len(before) == len(after) > 5
    statuses = [end.info["deeprelax_status"] for end in after]
    assert set(statuses) <= {"accepted", "uncertain"}
    assert statuses.count("accepted") >= 0.75 * len(after)
    assert result.exit_code == int("uncertain" in statuses), result.output
    measured = measured_volumes()
    nearer = []
    for start, end in zip(before, after, strict=True):
        assert end.info["deeprelax_model"] == DEFAULT_MODEL
        assert 0 < end.info["deeprelax_uncertainty"] < 1
        assert end.info["name"] == start.info["name"]
        np.testing.assert_array_equal(end.numbers, start.numbers)
        volume = measured[start.info["name"].split()[0]]
        assert end.get_volume() == pytest.approx(volume, rel=0.15)
        nearer.append(abs(end.get_volume() - volume) < abs(start.get_volume() - volume))
    assert sum(nearer) >= 0.75 * len(nearer), nearer


def test_bad_frames_among_good_ones(folder: Path):
    frames = [*read(UNRELAXED, ":2"), bulk("Cu", a=20.0), bulk("Xe"), read(UNRELAXED, 2)]
    write("mixed.extxyz", frames)
    result = deeprelax("relax", "mixed.extxyz", "-o", "relaxed.extxyz", "--device", "cpu")
    assert result.exit_code == 1
    assert "Xe" in result.stderr
    assert "no neighbour within" in result.stderr
    alone = deeprelax("relax", UNRELAXED.as_posix() + "@:3", "-o", "alone.extxyz")
    assert alone.exit_code == 0
    expected, got = read("alone.extxyz", ":"), read("relaxed.extxyz", ":")
    statuses = [atoms.info["deeprelax_status"] for atoms in got]
    assert statuses == ["accepted", "accepted", "refused", "refused", "accepted"]
    for a, b in zip(frames[2:4], got[2:4], strict=True):  # as they were
        np.testing.assert_array_equal(b.cell.array, a.cell.array)
    for a, b in zip(expected, [got[0], got[1], got[4]], strict=True):
        np.testing.assert_allclose(b.cell.array, a.cell.array, rtol=0, atol=1e-5)
        np.testing.assert_allclose(b.positions, a.positions, rtol=0, atol=1e-5)


def test_fixed_cell(folder: Path):
    result = deeprelax("relax", UNRELAXED, "--fixed-cell", "--max-odds-worse", "1", "-q")
    assert result.exit_code == 0, result.output
    for start, end in zip(read(UNRELAXED, ":"), read("relaxed.extxyz", ":"), strict=True):
        np.testing.assert_array_equal(end.cell.array, start.cell.array)


def test_finish_from_the_command_line(folder: Path):
    if find_spec("chgnet") is None:
        pytest.skip("chgnet is not installed")
    write("POSCAR", strained("NaCl", 5.64, 0.97))
    result = deeprelax("relax", "POSCAR", "-o", "CONTCAR", "--calculator", "chgnet", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert (4 * read("CONTCAR").get_volume()) ** (1 / 3) == pytest.approx(5.66, abs=0.1)


def test_models_are_listed():
    result = deeprelax("models", "--json")
    assert result.exit_code == 0
    assert DEFAULT_MODEL in [card["name"] for card in json.loads(result.stdout)]
    assert DEFAULT_MODEL in deeprelax("models").stdout
    assert "PBE" in deeprelax("models", DEFAULT_MODEL).stdout


def test_unknown_model(folder: Path):
    result = deeprelax("relax", UNRELAXED, "--model", "M3GNet")
    assert result.exit_code == 2
    assert DEFAULT_MODEL in result.stderr
    assert not Path("relaxed.extxyz").exists()


OFFLINE = """
import socket, sys

def refuse(*arguments, **options):
    raise AssertionError("the network was asked for something")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from deeprelax_ase.cli import main
main()
"""


def test_without_network_or_home(folder: Path):
    """As in a fresh container: no network, no caches; and nothing is left in the home folder."""
    environment = {**os.environ, "HOME": str(folder / "home"), "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", OFFLINE, "relax", f"{UNRELAXED}@0", "-o", "relaxed.extxyz"]
    done = subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert read(folder / "relaxed.extxyz").info["deeprelax_status"] == "accepted"
    assert [file.name for file in folder.iterdir()] == ["relaxed.extxyz"]
