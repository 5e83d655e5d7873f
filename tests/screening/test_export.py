"""What a screening found, in the files of other programs: whole, or said what is missing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from ase.io import read

from deeprelax_ase.errors import OutputError
from deeprelax_ase.screening import Folder, RelaxOptions, Shard, export_results, screen


@pytest.fixture
def screened(xyz: Callable[[int], Path], tmp_path: Path, quick: RelaxOptions) -> Folder:
    screen([xyz(6)], tmp_path / "out", quick, workers=0, block_size=2)
    return Folder(tmp_path / "out")


@pytest.mark.parametrize("name", ["relaxed.extxyz", "relaxed.jsonl", "relaxed.db", "relaxed.xyz.gz"])
def test_a_damaged_block_costs_nothing_that_was_written_before(screened: Folder, tmp_path: Path, name: str) -> None:
    output = tmp_path / name
    assert export_results(screened.path, str(output)) == 6
    before = output.read_bytes()
    os.truncate(screened.file(1), 100)
    with pytest.raises(OutputError, match=r"part-00000001\.parquet is missing or damaged"):
        export_results(screened.path, str(output))
    assert output.read_bytes() == before
    assert not [file for file in tmp_path.iterdir() if "part" in file.name]


def test_a_shard_that_is_missing_is_said(xyz, tmp_path: Path, quick: RelaxOptions) -> None:
    file, out = xyz(7), tmp_path / "out"
    screen([file], out, quick, workers=0, block_size=2, shard=Shard(1, 2))
    with pytest.warns(UserWarning, match=r"3 of 7 crystals are not done yet \(shard 2/2\)"):
        assert export_results(out, str(tmp_path / "relaxed.extxyz")) == 4
    screen([file], out, quick, workers=0, block_size=2, shard=Shard(2, 2))
    assert export_results(out, str(tmp_path / "relaxed.extxyz")) == 7
    assert [atoms.info["id"] for atoms in read(tmp_path / "relaxed.extxyz", ":")] == [f"crystal-{n}" for n in range(7)]


def test_a_part_of_an_input_is_not_overwritten(xyz, tmp_path: Path, quick: RelaxOptions) -> None:
    screen([f"{xyz(4)}@1:3"], tmp_path / "out", quick, workers=0)
    with pytest.raises(OutputError, match="is its input"):
        export_results(tmp_path / "out", str(tmp_path / "crystals.extxyz"))


@pytest.mark.parametrize("name", ["crystals.extxyz", "out/journal.jsonl", "out/part-00000000.parquet"])
def test_what_the_screening_needs_is_not_overwritten(screened: Folder, tmp_path: Path, name: str) -> None:
    before = (tmp_path / name).read_bytes()
    with pytest.raises(OutputError, match="belongs to the screening, or is its input"):
        export_results(screened.path, str(tmp_path / name))
    assert (tmp_path / name).read_bytes() == before
