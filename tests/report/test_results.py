"""Results that are read from files of structures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read, write

from deeprelax_ase import Predictor
from deeprelax_ase.errors import StructureFileError
from deeprelax_ase.io import open_sink
from deeprelax_ase.report import outcome_of, write_report
from deeprelax_ase.report.results import RelaxedFile
from tests.report.pages import Tags, first


def test_a_file_and_where_it_began(screened: Path, tmp_path: Path) -> None:
    given = read(screened / "given.extxyz", index=":3")
    predictor = Predictor(device="cpu", recycles=1, members=1)
    relaxed = [predictor.predict(atoms).to_atoms(atoms) for atoms in given]
    write(tmp_path / "relaxed.extxyz", relaxed)
    outcome = write_report(
        tmp_path / "relaxed.extxyz", tmp_path / "p.html", initial=f"{screened}/given.extxyz@:3", show=1, device="cpu"
    )
    assert outcome.statuses == {"accepted": 3}
    changes = [b.get_volume() / a.get_volume() - 1 for a, b in zip(given, relaxed, strict=True)]
    np.testing.assert_allclose(outcome.numbers["volume_change"], changes, atol=1e-6)
    assert "Both views have one scale and turn together" in Tags((tmp_path / "p.html").read_text(encoding="utf-8")).text


def test_a_part_of_a_database(screened: Path, tmp_path: Path) -> None:
    """The keys of a database tell what became of its crystals, as the info of other files does."""
    given = read(screened / "given.extxyz", index=":3")
    predictor = Predictor(device="cpu", recycles=1, members=1)
    with open_sink(str(tmp_path / "relaxed.db"), "db") as sink:
        for atoms in given:
            sink.write(predictor.predict(atoms).to_atoms(atoms))
    outcome = outcome_of(tmp_path / "relaxed.db@1:")
    assert outcome.statuses == {"accepted": 2}
    assert np.isfinite(outcome.numbers["uncertainty"]).all()


def test_only_what_is_looked_at_is_read(tmp_path: Path) -> None:
    """A damaged frame that nobody asks for costs nothing."""
    atoms = bulk("MgO", "rocksalt", a=4.2)
    write(tmp_path / "relaxed.extxyz", [atoms] * 3)
    lines = (tmp_path / "relaxed.extxyz").read_text(encoding="utf-8").splitlines()
    (tmp_path / "given.extxyz").write_text("\n".join([*lines[:4], *lines[4:7], "X what", *lines[8:]]) + "\n", "utf-8")
    results = outcome_of(tmp_path / "relaxed.extxyz").results
    assert [row for rows in results.rows({0, 2}) for row in rows.index] == [0, 2]
    both = RelaxedFile(str(tmp_path / "relaxed.extxyz"), str(tmp_path / "given.extxyz"))
    assert [row for rows in both.rows({0, 2}) for row in rows.index] == [0, 2]
    assert [place for place, crystal in both.unrelaxed({0, 2}) if crystal is not None] == [0, 2]
    with pytest.raises(StructureFileError, match=r"given\.extxyz@1 cannot be read"):
        list(both.rows())


def test_what_holds_no_results(screened: Path, tmp_path: Path) -> None:
    with pytest.raises(StructureFileError, match="no such file"):
        outcome_of(tmp_path / "nothing")
    (tmp_path / "notes.txt").write_text("no structures")
    with pytest.raises(StructureFileError, match="Give what deeprelax screen or relax wrote"):
        outcome_of(tmp_path / "notes.txt")
    with pytest.raises(StructureFileError, match="different numbers"):
        outcome_of(screened / "true.extxyz", initial=first(screened, 2, tmp_path))
