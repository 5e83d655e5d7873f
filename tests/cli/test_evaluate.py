from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from deeprelax_ase import cli
from tests.training.conftest import make_pairs, write_pairs


@pytest.fixture
def file(tmp_path: Path) -> Path:
    pairs = make_pairs(6)
    return write_pairs(tmp_path / "pairs.npz", pairs, dft=np.ones(6, dtype=bool), split=np.array([0, 0, 1, 2, 2, 2]))


def run(*arguments: object):
    return CliRunner().invoke(cli.app, ["evaluate", *map(str, arguments)])


@pytest.mark.usefixtures("shipped")
def test_table_json_and_single_crystals(file: Path, tmp_path: Path) -> None:
    out, rows = tmp_path / "out.json", tmp_path / "rows.csv"
    result = run("DeepRelax-PBE", "--data", file, "--passes", 1, "--json", out, "--per-crystal", rows)
    assert result.exit_code == 0, result.output
    for words in ("DeepRelax-PBE, test, 3 pairs", "lattice, eq. (27) (Å)", "match rate", "rank correlation"):
        assert words in result.output
    report = json.loads(out.read_text(encoding="utf-8"))
    metrics = report["metrics"]
    assert report["split"] == "test"
    assert len(report["model"]["sha256"]) == 64
    assert metrics["relative_volume"]["unrelaxed"] == pytest.approx(0.95**-3 - 1, rel=1e-6)
    assert metrics["crystals"]["predicted"] == 3
    with rows.open(encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == 3
    mean = np.mean([float(line["volume"]) for line in lines])
    assert mean == pytest.approx(metrics["volume"]["predicted"], rel=1e-4)


@pytest.mark.usefixtures("shipped")
def test_calibrated_models_tell_their_coverage(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    result = run("DeepRelax-PBE", "--data", file, "--split", "all", "--every", 2, "--no-match", "--json", out)
    assert result.exit_code == 0, result.output
    metrics = json.loads(out.read_text(encoding="utf-8"))["metrics"]
    assert metrics["coordinates_coverage"]["aimed"] == 0.9
    assert 0 <= metrics["coordinates_coverage"]["predicted"] <= 1
    assert "within the 90% bound" in result.output
    assert "match" not in metrics
    assert metrics["crystals"]["predicted"] == 3


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["DeepRelax-PBE", "--data", "nowhere.npz"], "nowhere.npz"),
        (["DeepRelax-PBE", "--data", "FILE", "--split", "exam"], "Unknown split='exam'"),
        (["DeepRelax-XYZ", "--data", "FILE"], "Unknown model 'DeepRelax-XYZ'"),
        (["DeepRelax-PBE", "--data", "FILE", "--labels", "dft"], "Unknown labels='dft'"),
        (["DeepRelax-PBE", "--data", "FILE", "--split", "validation", "--labels", "m3gnet"], "no pairs in the split"),
    ],
)
def test_errors(file: Path, arguments: list[str], reason: str) -> None:
    result = run(*[str(file) if a == "FILE" else a for a in arguments], "--no-match")
    assert result.exit_code == 2, result.output
    assert reason in " ".join(result.output.split())
