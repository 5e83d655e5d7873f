"""``deeprelax data forces``: options, messages and exit codes; its file is tested in tests/labelling."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from deeprelax_ase import cli
from deeprelax_ase.calculators import M3GNET_VARIABLE
from deeprelax_ase.progress import track
from tests.pairs import make_pairs, write_pairs


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["data", "forces", *map(str, arguments)])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs.npz", make_pairs(3), dft=np.ones(3, dtype=bool), split=np.zeros(3, dtype=int))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What the command asks for; nothing is computed, and what it sets in this process is set back."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("torch.set_num_threads", lambda number: None)
    asked: list[dict] = []

    def label_forces(*files: Path, **options: object) -> tuple[int, int]:
        asked.append({"files": files, **options})
        if options["seed"] == 13:
            raise ValueError("M3GNet gave forces for none of 3 points")
        return 2, 3

    monkeypatch.setattr("deeprelax_ase.labelling.forces.label_forces", label_forces)
    return asked


def test_options_reach_the_work(asked: list[dict], file: Path, tmp_path: Path) -> None:
    out = tmp_path / "forces.npz"
    result = run(file, "-o", out, "--recycles", 2, "--workers", 0, "--seed", 4, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"2 of 3 points written to {out}\n"
    given = {"model": "DeepRelax-M3GNet", "recycles": 2, "workers": 0, "seed": 4, "device": "cpu"}
    assert asked == [{"files": (file, out), **given}]


def test_quiet_silences_the_work(asked: list[dict], file: Path, tmp_path: Path, monkeypatch) -> None:
    def label_forces(*files: Path, **options: object) -> tuple[int, int]:
        return len(list(track([1, 2], "M3GNet"))), 2

    monkeypatch.setattr("deeprelax_ase.labelling.forces.label_forces", label_forces)
    monkeypatch.setattr("deeprelax_ase.progress.Lines.interval", 0.0)
    told = [run(file, "-o", tmp_path / "forces.npz", *quiet).stderr for quiet in ([], ["-q"])]
    assert "M3GNet: 1 of 2" in told[0]
    assert told[1] == ""


def test_errors_say_what_is_wrong(asked: list[dict], file: Path, tmp_path: Path) -> None:
    result = run(file, "-o", tmp_path / "forces.npz", "--seed", 13)
    assert result.exit_code == 2
    assert "M3GNet gave forces for none of 3 points" in result.stderr
    assert "Missing option" in run(file).stderr


def test_help_says_where_m3gnet_is_looked_for() -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert M3GNET_VARIABLE in result.stdout
