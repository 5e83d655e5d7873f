"""``deeprelax report``."""

from __future__ import annotations

from pathlib import Path

import pytest
from ase.build import bulk
from ase.io import write
from typer.testing import CliRunner

pytest.importorskip("plotly")

from deeprelax_ase.cli import app


@pytest.fixture
def relaxed(tmp_path: Path) -> Path:
    """As ``deeprelax relax`` writes it: one accepted, one refused."""
    good, bad = bulk("MgO", "rocksalt", a=4.2), bulk("Cu")
    good.info.update(deeprelax_model="DeepRelax-PBE", deeprelax_uncertainty=0.02, deeprelax_status="accepted")
    bad.info.update(deeprelax_status="refused", deeprelax_reason="atoms 0 and 1 overlap")
    write(tmp_path / "relaxed.extxyz", [good, bad])
    return tmp_path / "relaxed.extxyz"


def test_it_writes_a_page_and_figures(relaxed: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["report", str(relaxed), "--show", "0", "--figures", str(tmp_path / "f")])
    assert result.exit_code == 0, result.output
    page = relaxed.with_name("relaxed.extxyz.html")
    assert result.stdout.startswith(f"2 crystals in {page} (")
    assert "atoms … and … overlap" in page.read_text(encoding="utf-8")
    assert (tmp_path / "f" / "uncertainty.svg").exists()


def test_what_is_not_there(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["report", str(tmp_path / "nothing")])
    assert result.exit_code == 2
    assert "no such file or folder" in result.stderr


def test_a_page_that_cannot_be_written(relaxed: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["report", str(relaxed), "--show", "0", "-o", str(tmp_path / "no" / "p.html")])
    assert result.exit_code == 2
    assert "no does not exist. Make it first" in result.stderr


def test_nothing_but_a_page_is_replaced(relaxed: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.html").write_text("<html>of another kind</html>")
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    for name in ("relaxed.extxyz", "notes.html"):
        arguments = ["report", str(relaxed), "--show", "0", "-o", str(tmp_path / name), "--overwrite"]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2
        assert f"{name} exists already, and is no page of a report" in result.stderr
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_page_is_replaced_where_that_is_asked_for(relaxed: Path) -> None:
    again = ["report", str(relaxed), "--show", "0"]
    assert CliRunner().invoke(app, again).exit_code == 0
    refused = CliRunner().invoke(app, again)
    assert (refused.exit_code, "exists already" in refused.stderr) == (2, True)
    assert CliRunner().invoke(app, [*again, "--overwrite"]).exit_code == 0
