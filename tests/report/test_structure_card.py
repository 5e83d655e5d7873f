"""What the page says of one crystal."""

from __future__ import annotations

from pathlib import Path

import pytest
from ase.io import read, write

from deeprelax_ase import Predictor
from deeprelax_ase.report import write_report
from tests.report.pages import Tags


def test_a_file_in_which_atoms_were_moved_on_says_so(screened: Path, tmp_path: Path) -> None:
    given = read(screened / "given.extxyz", index=":1")
    relaxed = Predictor(device="cpu").predict(given[0]).to_atoms(given[0])
    relaxed.positions[1] += 0.3
    relaxed.positions[1] += relaxed.cell[0]  # in another image, as formats that wrap would have it
    write(tmp_path / "relaxed.extxyz", relaxed)
    write(tmp_path / "given.extxyz", given)
    outcome = write_report(
        tmp_path / "relaxed.extxyz", tmp_path / "p.html", initial=tmp_path / "given.extxyz", device="cpu"
    )
    assert outcome.displacements == pytest.approx([0.3 * 3**0.5 / 2**0.5], abs=0.01)
    assert "Atoms are up to 0.30 Å from where they are predicted" in Tags((tmp_path / "p.html").read_text("utf-8")).text
