"""Pages that once ended with what they should tell of, or replaced it."""

from __future__ import annotations

from pathlib import Path

import pytest
from ase.build import bulk
from ase.io import write
from typer.testing import CliRunner, Result

from deeprelax_ase.cli import app

FEW = ["--device", "cpu", "--members", "1", "--recycles", "1"]


def deeprelax(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def screened(tmp_path: Path) -> Path:
    """A screening of two sound crystals and of two that nothing can draw."""
    huge = bulk("NaCl", "rocksalt", a=5.5)
    huge.set_cell(huge.cell * 1e150, scale_atoms=True)
    write(tmp_path / "in.extxyz", [bulk("NaCl", "rocksalt", a=5.5), huge, bulk("NaCl", "rocksalt", a=5.6)])
    frame = '1\nLattice="0 2 2 2 0 2 2 2 0" Properties=Z:I:1:pos:R:3 pbc="T T T"\n119 0 0 0\n'
    with (tmp_path / "in.extxyz").open("a") as stream:
        stream.write(frame)
    result = deeprelax("screen", tmp_path / "in.extxyz", "--out", tmp_path / "s", "--workers", 0, "-q", *FEW)
    assert result.exit_code == 1, result.output
    return tmp_path / "s"


def test_failures_that_cannot_be_drawn_are_told(screened):
    result = deeprelax("report", screened, "-o", screened.with_name("page.html"), "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "119" in screened.with_name("page.html").read_text()


def test_a_page_never_replaces_what_it_tells_of(screened):
    part = next(screened.glob("part-*.parquet"))
    for place in (part, screened / "screen.json", screened.with_name("in.extxyz")):
        before = place.read_bytes()
        result = deeprelax("report", screened, "-o", place, "--device", "cpu")
        assert result.exit_code in (1, 2), result.output
        assert place.read_bytes() == before
