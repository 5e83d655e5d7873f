"""``deeprelax bench``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from deeprelax_ase.cli import app
from tests.pairs import make_pairs, write_pairs


@pytest.fixture
def data(tmp_path: Path) -> Path:
    kept = {"dft": np.zeros(5, dtype=bool), "split": np.zeros(5, dtype=np.uint8)}
    return write_pairs(tmp_path / "pairs.npz", make_pairs(5), **kept)


def test_it_measures_prints_and_writes(data: Path, tmp_path: Path) -> None:
    arguments = ["bench", "--data", f"{data}@1:", "--split", "all", "--number", "3", "--baseline", "nothing"]
    result = CliRunner().invoke(app, [*arguments, "--device", "cpu", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "| nothing done |" in result.stdout
    found = json.loads((tmp_path / "out" / "bench.json").read_text(encoding="utf-8"))
    assert found["crystals"] == 3
    assert found["data"] == ["pairs.npz@1:"]
    assert (tmp_path / "out" / "bench.md").read_text(encoding="utf-8").strip() == result.stdout.strip()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--data", "nothing.npz"], "nothing.npz"),
        (["--baseline", "magic"], "Unknown baselines"),
        (["--split", "tomorrow"], "tomorrow"),
        (["--fmax", "0"], "--fmax 0 eV/Å"),
        (["--calculator", "my_models"], "'module:factory'"),
    ],
)
def test_what_is_wrong_is_told(data: Path, arguments: list[str], told: str) -> None:
    given = ["bench", "--split", "all", "--device", "cpu", *arguments]
    result = CliRunner().invoke(app, given if "--data" in given else [*given, "--data", str(data)])
    assert result.exit_code in (1, 2)
    assert told in result.stderr


def test_a_potential_of_ones_own_is_measured_in_batches(data: Path, tmp_path: Path) -> None:
    arguments = ["bench", "--data", str(data), "--split", "all", "--number", "2", "--baseline", "nothing"]
    cost = ["--one-shot", "fast", "--device", "cpu", "--out", str(tmp_path)]
    under = ["--calculator", "tests.batched_emt:springs", "--finish", "fast", "--steps", "3"]
    result = CliRunner().invoke(app, [*arguments, *cost, *under])
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))["rows"]
    assert rows["FAST in batches, tests.batched_emt:springs"]["calls"] > 1
    assert "DeepRelax-PBE, 1 x 1" in rows
    assert "DeepRelax-PBE, 2 x 1" not in rows
    again = CliRunner().invoke(app, [*arguments, *cost])
    assert (again.exit_code, "exists already" in again.stderr) == (2, True)
