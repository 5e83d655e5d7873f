"""Figures for papers."""

from __future__ import annotations

from pathlib import Path

from ase.io import read

from deeprelax_ase import Predictor
from deeprelax_ase.report import outcome_of
from deeprelax_ase.report.static import write_figures


def test_figures_for_papers(screened: Path, tmp_path: Path) -> None:
    outcome = outcome_of(screened / "out", reference=screened / "true.extxyz")
    outcome.numbers["error"] = outcome.numbers["uncertainty"]  # as of models with calibrated errors
    prediction = Predictor(device="cpu", recycles=1, members=1).predict(read(screened / "given.extxyz", index=2))
    files = write_figures(outcome, {2: prediction}, tmp_path / "f")
    assert set(files) == set((tmp_path / "f").iterdir())
    names = {file.name for file in files}
    assert {"error-against-expected.png", "error-against-expected.svg", "volume-change.svg", "crystal-2.png"} <= names
    assert {"coverage.svg", "crystal-2.svg"} <= names
    assert all(file.stat().st_size > 1000 for file in files)
