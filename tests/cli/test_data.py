from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.io import write
from typer.testing import CliRunner

from deeprelax_ase import cli
from deeprelax_ase.data import load_pairs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "runs").mkdir()
    for name, length in (("MgO", 4.2), ("CaO", 4.8), ("NaCl", 5.6)):
        first = bulk(name, "rocksalt", a=1.04 * length, cubic=True)
        first.rattle(0.05, seed=len(name))
        write(tmp_path / "runs" / f"{name}.traj", [first, bulk(name, "rocksalt", a=length, cubic=True)])
    return tmp_path


def run(*arguments: object):
    return CliRunner().invoke(cli.app, ["data", *map(str, arguments)])


def test_check_prints_and_writes_a_report(folder: Path) -> None:
    result = run("check", folder / "runs", "--fractions", 0.4, 0.3, 0.3, "--json", folder / "report.json")
    assert result.exit_code == 0, result.output
    for words in ("3 pairs, 24 atoms, 0 refused", "splits: train 1, validation 1, test 1", "nothing suspicious"):
        assert words in result.output
    report = json.loads((folder / "report.json").read_text())
    assert report["elements"] == {"O": 2, "Na": 1, "Mg": 1, "Cl": 1, "Ca": 1}


def test_check_shows_how_far_it_is_of_how_much(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deeprelax_ase.progress.Lines.interval", 0.0)
    told = run("check", folder / "runs").stderr
    assert "looking at crystals: 6 of 6" in told
    assert run("check", folder / "runs", "-q").stderr == ""


def test_check_says_by_its_exit_code_that_something_is_wrong(folder: Path) -> None:
    write(folder / "runs" / "short.traj", bulk("MgO", "rocksalt", a=4.2))
    result = run("check", folder / "runs")
    assert result.exit_code == 1
    assert "1 refused: there is one frame only" in result.output
    assert "short.traj" in result.output


def test_convert_keeps_the_pairs(folder: Path) -> None:
    result = run("convert", folder / "runs", "-o", folder / "pairs.npz", "--level", "M3GNet")
    assert result.exit_code == 0, result.output
    assert "3 pairs, 0 refused" in result.output
    pairs = load_pairs(folder / "pairs.npz")
    assert len(pairs) == 3
    np.testing.assert_allclose(pairs.cell_relaxed.det() / pairs.cell_initial.det(), 1.04**-3, rtol=1e-6)
    again = run("check", folder / "pairs.npz")
    assert "3 pairs" in again.output


def test_convert_overwrites_what_it_is_told_to_and_never_its_source(folder: Path) -> None:
    pairs = folder / "pairs.npz"
    assert run("convert", folder / "runs", "-o", pairs).exit_code == 0
    before = pairs.read_bytes()
    refused = run("convert", folder / "runs", "-o", pairs)
    assert refused.exit_code == 2
    assert "exists already" in " ".join(refused.output.split())
    for source in (pairs, f"{pairs}@0"):
        assert run("convert", source, "-o", pairs, "--overwrite").exit_code == 2
    assert pairs.read_bytes() == before
    assert run("convert", folder / "runs", "-o", pairs, "--overwrite", "--seed", "1").exit_code == 0
    assert [file.name for file in folder.iterdir() if "part" in file.name] == []


def test_convert_a_part(folder: Path) -> None:
    assert run("convert", folder / "runs", "-o", folder / "pairs.npz").exit_code == 0
    done = run("convert", f"{folder / 'pairs.npz'}@:1", "-o", folder / "first.npz")
    assert done.exit_code == 0
    assert "1 pair, 0 refused" in done.output


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["check", "nowhere"], "no such file or folder"),
        (["convert", "runs", "-o", "pairs.csv"], "must end in .npz"),
        (["check", "runs", "--format", "mpf", "--level", "SCAN"], "Unknown --level SCAN"),
    ],
)
def test_errors(folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], reason: str) -> None:
    monkeypatch.chdir(folder)
    result = run(*arguments)
    assert result.exit_code == 2
    assert reason in " ".join(result.output.split())


@pytest.mark.parametrize("command", [[], ["check"], ["convert"]])
def test_help_shows_examples(command: list[str]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert not command or "deeprelax data" in result.output
