"""Results that are read from the folder of a screening."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from ase.io import read, write

from deeprelax_ase.errors import OutputError, StructureFileError
from deeprelax_ase.report import outcome_of, write_report
from deeprelax_ase.screening.manifest import Shard
from deeprelax_ase.screening.options import RelaxOptions
from deeprelax_ase.screening.run import screen
from tests.report.pages import Tags


def test_a_screening_that_is_not_done_has_gaps(screened: Path, tmp_path: Path) -> None:
    options = RelaxOptions(device="cpu", recycles=1, members=1)
    screen([screened / "given.extxyz"], tmp_path / "o", options, shard=Shard(2, 2), workers=0, block_size=1)
    outcome = write_report(tmp_path / "o", tmp_path / "p.html", reference=screened / "true.extxyz", device="cpu")
    assert outcome.index.tolist() == [1, 3]
    assert outcome.failures[0][0] == 3
    assert outcome.true_errors[0] == pytest.approx(0, abs=1e-6)
    text = Tags((tmp_path / "p.html").read_text(encoding="utf-8")).text
    assert "NaCl" in text
    assert "MgO" not in text


def test_a_part_of_a_screening(screened: Path, tmp_path: Path) -> None:
    """Its crystals keep their places; a reference without names holds one for each of the part."""
    true = read(screened / "true.extxyz", index=":")
    for atoms in true:
        del atoms.info["id"]
    write(tmp_path / "true.extxyz", true)
    part, reference = f"{screened / 'out'}@2:", f"{tmp_path / 'true.extxyz'}@2:"
    outcome = write_report(part, tmp_path / "p.html", reference=reference, device="cpu")
    assert outcome.index.tolist() == [2, 3]
    assert outcome.statuses == {"accepted": 1, "refused": 1}
    assert outcome.true_errors[0] > 0.01
    assert "Not done yet" not in Tags((tmp_path / "p.html").read_text(encoding="utf-8")).text
    assert outcome_of(f"{screened / 'out'}@-1").statuses == {"refused": 1}
    with pytest.raises(StructureFileError, match=r"out@9: there is none such among its 4\. Check .* index"):
        outcome_of(f"{screened / 'out'}@9")


def test_a_folder_without_a_screening(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no screening"):
        outcome_of(tmp_path)


def test_a_damaged_folder(screened: Path, tmp_path: Path) -> None:
    shutil.copytree(screened / "out", tmp_path / "out")
    (file,) = (tmp_path / "out").glob("part-*.parquet")
    content = bytearray(file.read_bytes())
    content[8 : len(content) // 3] = bytes(len(content) // 3 - 8)
    file.write_bytes(content)  # of the same length
    with pytest.raises(OutputError, match="damaged"):
        outcome_of(tmp_path / "out")
    (tmp_path / "out" / "journal.jsonl").write_text("")
    with pytest.raises(StructureFileError, match="nothing of it is done"):
        outcome_of(tmp_path / "out")
