"""Blocks of structures, and what becomes of them where their source goes away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ase.io import write

from deeprelax_ase.errors import SourceError
from deeprelax_ase.io.source import open_source
from deeprelax_ase.screening.blocks import blocks_of, table_of
from deeprelax_ase.screening.folder import Folder
from deeprelax_ase.screening.options import RelaxOptions
from deeprelax_ase.screening.run import Progress, screen
from tests.screening.conftest import some_crystals


@pytest.mark.parametrize("size", [1, 2, 5, 7])
def test_blocks_cover_all_inputs_once(size: int, xyz: Callable[[int], Path]) -> None:
    file = xyz(5)
    sources = [open_source(file), open_source(f"{file}@2:4")]
    whole = [ref.source for source in sources for ref in source.refs()]
    blocks = dict(blocks_of(sources, size, lambda n: True))
    assert [ref.source for n in sorted(blocks) for ref in blocks[n]] == whole
    for wanted in (0, 1):
        part = dict(blocks_of(sources, size, lambda n, wanted=wanted: n % 2 == wanted))
        assert part == {n: block for n, block in blocks.items() if n % 2 == wanted}


def test_a_source_that_is_away_for_a_while_costs_no_crystal(tmp_path: Path, quick: RelaxOptions) -> None:
    """What was done is kept, and the same call goes on."""
    folder, away = tmp_path / "in", tmp_path / "away"
    folder.mkdir()
    for number, atoms in enumerate(some_crystals(6)):
        write(folder / f"{number}.cif", atoms)

    def leave(progress: Progress) -> None:
        if progress.done == 2:
            folder.rename(away)

    with pytest.raises(SourceError, match="cannot be read now"):
        screen([folder], tmp_path / "out", quick, workers=0, block_size=2, observe=leave)
    away.rename(folder)
    progress = screen([folder], tmp_path / "out", quick, workers=0, block_size=2)
    assert (progress.before, progress.statuses) == (2, {"accepted": 6})
    assert [table.num_rows for table in Folder(tmp_path / "out").tables()] == [2, 2, 2]


def test_a_part_of_a_source_is_screened(xyz: Callable[[int], Path], tmp_path: Path, quick: RelaxOptions) -> None:
    progress = screen([f"{xyz(6)}@1:3", f"{tmp_path}/crystals.extxyz@-1"], tmp_path / "out", quick, workers=0)
    assert progress.total == 3
    (table,) = Folder(tmp_path / "out").tables()
    assert table.column("id").to_pylist() == ["crystal-1", "crystal-2", "crystal-5"]


def test_rows_that_cannot_be_relaxed_say_so_in_the_words_of_the_table(tmp_path: Path) -> None:
    geometry = {
        "numbers": [3, 3],
        "positions": [0.0, 0, 0, 1.75, 1.75, 1.75],
        "cell": [3.5, 0, 0, 0, 3.5, 0, 0, 0, 3.5],
    }
    rows = [
        {**geometry, "pbc": [None, True, True], "error": None, "refused": None},
        {**geometry, "pbc": None, "error": "too many atoms", "refused": True},
        {**geometry, "pbc": None, "error": "not readable", "refused": False},
        {**geometry, "pbc": [True, True, True], "error": None, "refused": False},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    found = table_of(open_source(tmp_path / "rows.parquet").refs()).to_pylist()
    assert "pbc=[None, True, True] does not say of every direction" in found[0]["error"]
    assert [row["error"] for row in found[1:]] == ["too many atoms", "not readable", None]
    assert [bool(row["refused"]) for row in found] == [False, True, False, False]
