from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from deeprelax_ase import cli
from tests.pairs import make_pairs, write_pairs


@pytest.fixture
def file(tmp_path: Path) -> Path:
    pairs = make_pairs(6)
    return write_pairs(tmp_path / "pairs.npz", pairs, dft=np.ones(6, dtype=bool), split=np.array([0, 0, 1, 2, 2, 2]))


def run(*arguments: object):
    return CliRunner().invoke(cli.app, ["evaluate", *map(str, arguments)])


@pytest.mark.usefixtures("shipped")
def test_table_json_and_single_crystals(file: Path, tmp_path: Path) -> None:
    out, rows = tmp_path / "out.json", tmp_path / "rows.csv"
    result = run("DeepRelax-PBE", "--data", file, "--recycles", 1, "--json", out, "--per-crystal", rows)
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


@pytest.fixture
def cifs(tmp_path: Path) -> Path:
    """Three pairs: rock salt, argon, which no model knows, and one whose cells differ in size."""
    bulk = pytest.importorskip("ase.build").bulk
    folder = tmp_path / "cifs"
    folder.mkdir()
    for name, lengths in {"salt": (5.7, 5.6), "argon": (5.3, 5.2), "doubled": (5.7, 5.6)}.items():
        for which, length in zip(("unrelaxed", "relaxed"), lengths, strict=True):
            larger = name == "doubled" and which == "relaxed"
            kind = ("Ar", "fcc") if name == "argon" else ("NaCl", "rocksalt")
            bulk(*kind, a=length, cubic=larger).write(folder / f"{name}_{which}.cif")
    return folder


@pytest.mark.usefixtures("shipped")
def test_pairs_that_cannot_be_used_are_named(cifs: Path, tmp_path: Path) -> None:
    out, rows = tmp_path / "out.json", tmp_path / "rows.csv"
    given = ("--data", cifs, "--split", "all", "--recycles", 1, "--no-match", "--json", out, "--per-crystal", rows)
    result = run("DeepRelax-PBE", *given)
    assert result.exit_code == 0, result.output
    assert "left out: 2, such as doubled" in result.output
    report = json.loads(out.read_text(encoding="utf-8"), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert report["left_out"].keys() == {"argon", "doubled"}
    assert "Ar" in report["left_out"]["argon"]
    assert report["levels"] == {"PBE": 1}
    assert report["metrics"]["coordinates"]["improvement_percent"] is None  # all sites are fixed by symmetry
    assert report["metrics"]["uncertainty_rank_correlation"]["predicted"] is None  # of one crystal
    with rows.open(encoding="utf-8") as stream:
        assert [line["name"] for line in csv.DictReader(stream)] == ["salt"]


@pytest.mark.usefixtures("shipped")
def test_none_that_can_be_relaxed(cifs: Path) -> None:
    for file in cifs.glob("salt_*.cif"):
        file.unlink()
    result = run("DeepRelax-PBE", "--data", cifs, "--split", "all", "--no-match")
    assert result.exit_code == 2
    assert "can relax none of the 1 crystals" in " ".join(result.output.split())


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize(
    ("model", "labels", "foreign"),
    [
        ("DeepRelax-M3GNet", "relaxed", True),
        ("DeepRelax-M3GNet", "m3gnet", False),
        ("DeepRelax-PBE", "m3gnet", True),
        ("DeepRelax-PBE", "relaxed", False),
    ],
)
def test_minima_of_another_level_are_told(file: Path, model: str, labels: str, *, foreign: bool) -> None:
    result = run(model, "--data", file, "--labels", labels, "--recycles", 1, "--no-match")
    assert result.exit_code == 0, result.output
    assert ("3 of 3 relaxed crystals are minima of another level" in result.output) == foreign


@pytest.mark.parametrize("option", ["--json", "--per-crystal"])
def test_a_missing_folder_is_told_before_the_work(
    file: Path, tmp_path: Path, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deeprelax_ase.data.PairDataset.read", lambda *args, **kwargs: pytest.fail("work was begun"))
    result = run("DeepRelax-PBE", "--data", file, "--no-match", option, tmp_path / "nowhere" / "out")
    assert result.exit_code == 2
    assert "nowhere does not exist. Make it first" in " ".join(result.output.split())


@pytest.mark.parametrize("option", ["--json", "--per-crystal"])
def test_nothing_is_overwritten_silently(
    file: Path, tmp_path: Path, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deeprelax_ase.data.PairDataset.read", lambda *args, **kwargs: pytest.fail("work was begun"))
    (tmp_path / "out").write_text("results of before")
    result = run("DeepRelax-PBE", "--data", file, "--no-match", option, tmp_path / "out")
    assert result.exit_code == 2
    assert "exists already" in " ".join(result.output.split())
    assert (tmp_path / "out").read_text() == "results of before"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["DeepRelax-PBE", "--data", "nowhere.npz"], "nowhere.npz"),
        (["DeepRelax-PBE", "--data", "FILE", "--split", "exam"], "Unknown --split exam"),
        (["DeepRelax-XYZ", "--data", "FILE"], "Unknown model 'DeepRelax-XYZ'"),
        (["DeepRelax-PBE", "--data", "FILE", "--labels", "dft"], "Unknown --labels dft"),
        (["DeepRelax-PBE", "--data", "FILE", "--split", "validation", "--labels", "m3gnet"], "no pairs in the split"),
    ],
)
def test_errors(file: Path, arguments: list[str], reason: str) -> None:
    result = run(*[str(file) if a == "FILE" else a for a in arguments], "--no-match")
    assert result.exit_code == 2, result.output
    assert reason in " ".join(result.output.split())


def test_an_unknown_level_is_refused(cifs: Path) -> None:
    result = run("DeepRelax-PBE", "--data", cifs, "--level", "LDA", "--no-match")
    assert result.exit_code == 2
    assert "Unknown --level LDA" in result.output
