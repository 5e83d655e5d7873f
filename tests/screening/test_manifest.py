"""What a folder of results was asked for: one request, which another one does not mix with."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeprelax_ase.errors import OutputError
from deeprelax_ase.io.source import open_source
from deeprelax_ase.screening.manifest import Manifest, Shard, describe
from deeprelax_ase.screening.options import RelaxOptions

INPUT = {"name": "a.extxyz", "digest": "12", "stamp": "", "structures": 5}
REQUEST = Manifest((INPUT,), RelaxOptions().to_dict(), block_size=2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    REQUEST.agree(tmp_path / "out")
    return tmp_path / "out"


class TestRequest:
    def test_the_same_one_goes_on(self, folder: Path) -> None:
        REQUEST.agree(folder)
        assert Manifest.read(folder) == REQUEST

    def test_where_it_runs_makes_no_difference(self, folder: Path) -> None:
        replace(REQUEST, options=RelaxOptions(device="cuda", atoms_per_batch=7).to_dict()).agree(folder)

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"inputs": ({**INPUT, "digest": "13"},)}, "a.extxyz has changed"),
            ({"inputs": ()}, "1 inputs then, 0 now"),
            ({"options": RelaxOptions(recycles=7).to_dict()}, "other options: .*, now .*: 7"),
            ({"block_size": 3}, "another block size: 2, now 3"),
            ({"shards": 3}, "another number of shards: 1, now 3"),
            ({"weights": "ab"}, "other weights"),
            ({"version": "9.9"}, "another version"),
        ],
    )
    def test_another_is_refused(self, folder: Path, change: dict, told: str) -> None:
        with pytest.raises(OutputError, match=told):
            replace(REQUEST, **change).agree(folder)
        assert Manifest.read(folder) == REQUEST

    def test_a_folder_of_something_else(self, tmp_path: Path) -> None:
        with pytest.raises(OutputError, match="holds no screening"):
            Manifest.read(tmp_path)
        (tmp_path / "screen.json").write_text('{"inputs": []')
        with pytest.raises(OutputError, match="damaged"):
            REQUEST.agree(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        *({"block_size": value} for value in (0, -1, "2", None)),
        *({"inputs": value} for value in (None, 3, [3], [{}], [{**INPUT, "structures": 0}], [{**INPUT, "name": 1}])),
        *({"options": value} for value in (None, {"unknown": 1})),
        {"unknown": 1},
    ],
)
def test_a_damaged_one_is_told(folder: Path, change: dict) -> None:
    file = folder / "screen.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(OutputError, match=r"screen\.json is damaged, or of another version"):
        Manifest.read(folder)


class TestShards:
    @given(st.integers(1, 9), st.integers(0, 100))
    def test_each_block_is_somebodys(self, of: int, block: int) -> None:
        assert sum(Shard(n, of).owns(block) for n in range(1, of + 1)) == 1

    def test_as_they_are_written(self) -> None:
        assert Shard.parse("2/8") == Shard(2, 8)
        for text in ("0/3", "4/3", "2", "a/b", "", "-1/2"):
            with pytest.raises(ValueError, match="shard"):
                Shard.parse(text)


def test_blocks() -> None:
    assert list(REQUEST.blocks) == [0, 1, 2]
    assert [REQUEST.size(n) for n in REQUEST.blocks] == [2, 2, 1]


def test_inputs_that_the_folder_knows_are_not_read_again(xyz, tmp_path: Path) -> None:
    """Each of many shards would read them all."""
    file = xyz(4)
    described = describe([open_source(file)], tmp_path / "out")
    assert described[0]["structures"] == 4
    Manifest(described, RelaxOptions().to_dict(), 2).agree(tmp_path / "out")
    state, text = file.stat(), file.read_bytes()
    file.write_bytes(text[::-1])
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))  # so that it shows whether it is read
    assert describe([open_source(file)], tmp_path / "out") == described
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert describe([open_source(file)], tmp_path / "out")[0]["digest"] != described[0]["digest"]
