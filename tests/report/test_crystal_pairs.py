"""Crystals before and after, of the results that are looked at one by one."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from ase.io import read, write

from deeprelax_ase import Predictor
from deeprelax_ase.errors import StructureFileError
from deeprelax_ase.report import outcome_of, write_report
from deeprelax_ase.report.crystal_pairs import pairs_of
from deeprelax_ase.screening.options import RelaxOptions
from deeprelax_ase.screening.run import screen
from tests.report.pages import Tags, first


def test_what_was_stored_is_drawn_and_not_what_would_be_predicted_now(screened: Path, tmp_path: Path) -> None:
    options = RelaxOptions(device="cpu", recycles=1, members=1, keep_symmetry=False)
    screen([screened / "given.extxyz"], tmp_path / "o", options, workers=0)
    outcome = write_report(tmp_path / "o", tmp_path / "p.html", device="cpu")
    pairs, missing = pairs_of(outcome.results, {0, 2, 3})
    assert not missing
    for place, atoms in zip((0, 2), read(screened / "given.extxyz", index="0:3:2"), strict=True):
        again = Predictor(device="cpu", recycles=1, members=1, keep_symmetry=False).predict(atoms)
        np.testing.assert_allclose(pairs[place].relaxed.positions, again.relaxed.positions, atol=1e-4)
        np.testing.assert_allclose(pairs[place].displacements, again.displacements, atol=1e-4)
    assert pairs[3].relaxed is None
    assert len(pairs[3].initial) == 2
    assert "from where they are predicted" not in Tags((tmp_path / "p.html").read_text(encoding="utf-8")).text
    assert len(outcome.displacements) == 3


def test_inputs_that_moved_or_changed(screened: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "given.extxyz"
    shutil.copy(screened / "given.extxyz", copy)
    monkeypatch.chdir(tmp_path)
    screen(["given.extxyz"], "out", RelaxOptions(device="cpu", recycles=1, members=1), workers=0)
    monkeypatch.chdir(screened)  # elsewhere, where a file of that name is not ...
    results = outcome_of(tmp_path / "out").results
    assert pairs_of(results, {0})[1] == ""  # ... it is beside the folder
    atoms = read(copy, index=":")
    atoms[0].rattle(0.2)
    write(copy, atoms)
    monkeypatch.chdir(tmp_path)
    pairs, missing = pairs_of(outcome_of("out").results, {0})
    assert pairs[0].initial is None
    assert "has changed since" in missing
    copy.unlink()
    write_report("out", "p.html", device="cpu")
    assert "is not there any more. Say where with --initial." in Tags(Path("p.html").read_text("utf-8")).text
    assert not pairs_of(outcome_of("out", initial=screened / "given.extxyz").results, {0})[1]
    with pytest.raises(StructureFileError, match="holds 2 structures"):
        list(outcome_of("out", initial=first(screened, 2, tmp_path)).results.unrelaxed({0}))
