"""A folder of results: one request, one writer, whole files and whole lines, whatever happens in between."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeprelax_ase.errors import OutputError
from deeprelax_ase.screening.manifest import Folder, Journal, Manifest, Shard
from deeprelax_ase.screening.options import RelaxOptions
from deeprelax_ase.screening.rows import OUTPUT

REQUEST = Manifest(({"name": "a.extxyz", "digest": "12", "structures": 5},), RelaxOptions().to_dict(), block_size=2)


def rows(*indices: int) -> pa.Table:
    return pa.Table.from_pylist([{"index": n, "status": "predicted"} for n in indices], schema=OUTPUT)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path / "out")
    made.agree(REQUEST)
    return made


class TestRequest:
    def test_the_same_one_goes_on(self, folder: Folder) -> None:
        folder.agree(REQUEST)
        assert folder.request() == REQUEST

    def test_where_it_runs_makes_no_difference(self, folder: Folder) -> None:
        folder.agree(replace(REQUEST, options=RelaxOptions(device="cuda", atoms_per_batch=7).to_dict()))

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"inputs": ({"name": "a.extxyz", "digest": "13", "structures": 5},)}, "a.extxyz changed"),
            ({"inputs": ()}, "1 inputs then, 0 now"),
            ({"options": RelaxOptions(recycles=7).to_dict()}, "another options"),
            ({"block_size": 3}, "another block size: 2, now 3"),
            ({"shards": 3}, "another shards"),
            ({"weights": "ab"}, "another weights"),
            ({"version": "9.9"}, "another version"),
        ],
    )
    def test_another_is_refused(self, folder: Folder, change: dict, told: str) -> None:
        with pytest.raises(OutputError, match=told):
            folder.agree(replace(REQUEST, **change))
        assert folder.request() == REQUEST

    def test_a_folder_of_something_else(self, tmp_path: Path) -> None:
        with pytest.raises(OutputError, match="holds no screening"):
            Folder(tmp_path).request()
        (tmp_path / "screen.json").write_text('{"inputs": []')
        with pytest.raises(OutputError, match="damaged"):
            Folder(tmp_path).agree(REQUEST)


class TestShards:
    @given(st.integers(1, 9), st.integers(0, 100))
    def test_each_block_is_somebodys(self, of: int, block: int) -> None:
        assert sum(Shard(n, of).owns(block) for n in range(1, of + 1)) == 1

    def test_as_they_are_written(self) -> None:
        assert Shard.parse("2/8") == Shard(2, 8)
        for text in ("0/3", "4/3", "2", "a/b", "", "-1/2"):
            with pytest.raises(ValueError, match="shard"):
                Shard.parse(text)


class TestJournal:
    def test_a_line_is_there_once_it_is_written(self, folder: Folder) -> None:
        with folder.journal(Shard()) as journal:
            journal.append({"block": 0})
            assert list(folder.done()) == [0]
        with folder.journal(Shard()) as journal:
            assert journal.lines == [{"block": 0}]
            journal.append({"block": 3})
        assert list(folder.done()) == [0, 3]

    @given(cut=st.integers(0, 60))
    def test_wherever_it_was_cut_it_goes_on(self, tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
        file = tmp_path_factory.mktemp("journal") / "journal.jsonl"
        lines = [json.dumps({"block": n, "rows": 10 * n}).encode() + b"\n" for n in range(3)]
        file.write_bytes(b"".join(lines)[:cut])
        whole = [n for n in range(3) if cut >= len(b"".join(lines[: n + 1]))]
        with file.open("a+b") as stream:
            journal = Journal(stream)
            assert [line["block"] for line in journal.lines] == whole
            journal.append({"block": 9})
        assert [json.loads(line)["block"] for line in file.read_bytes().splitlines()] == [*whole, 9]

    def test_two_writers(self, folder: Folder) -> None:
        first, second, again = (folder.journal(Shard(n, 2)) for n in (1, 2, 1))
        with first, second, pytest.raises(OutputError, match="another process writes to"), again:
            pass
        with folder.journal(Shard(1, 2)):
            pass

    def test_of_several_shards(self, folder: Folder) -> None:
        for number in (2, 1):
            with folder.journal(Shard(number, 2)) as journal:
                journal.append({"block": number - 1})
        assert list(folder.done()) == [0, 1]


class TestFiles:
    def test_rows_come_in_order_and_only_where_the_journal_says_so(self, folder: Folder) -> None:
        with folder.journal(Shard()) as journal:
            for block in (2, 0):
                journal.append({"block": block, "bytes": folder.write(block, rows(2 * block, 2 * block + 1))})
            folder.write(1, rows(99))  # killed before its line
        assert [table.column("index").to_pylist() for table in folder.tables(["index"])] == [[0, 1], [4, 5]]

    def test_what_a_killed_process_began_is_removed(self, folder: Folder) -> None:
        mine, others = folder.path / "part-00000002.77.part", folder.path / "part-00000001.77.part"
        for file in (mine, others):
            file.write_bytes(b"half")
        with folder.journal(Shard(1, 2)):
            assert not mine.exists()
            assert others.exists()

    @pytest.mark.parametrize("damage", ["truncated", "gone"])
    def test_damage_is_told(self, folder: Folder, damage: str) -> None:
        with folder.journal(Shard()) as journal:
            journal.append({"block": 0, "bytes": folder.write(0, rows(0, 1))})
        file = folder.file(0)
        file.unlink() if damage == "gone" else os.truncate(file, 20)
        with pytest.raises(OutputError, match="missing or damaged"):
            list(folder.tables())

    def test_a_full_disk_leaves_nothing_half_done(self, folder: Folder) -> None:
        """The system refuses to let files grow, as a full disk would."""
        script = (
            "import resource, signal, sys\n"
            "from pathlib import Path\n"
            "from tests.screening.test_manifest import Folder, Shard, rows\n"
            "folder = Folder(Path(sys.argv[1]))\n"
            "with folder.journal(Shard()) as journal:\n"
            "    journal.append({'block': 0, 'bytes': folder.write(0, rows(0, 1))})\n"
            "    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "    resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))\n"
            "    try:\n"
            "        folder.write(1, rows(*range(5000)))\n"
            "    except OSError:\n"
            "        print('no file')\n"
            "    try:\n"
            "        journal.append({'block': 1, 'text': 'x' * 1000})\n"
            "    except OSError:\n"
            "        print('no line')\n"
        )
        assert resource.RLIMIT_FSIZE >= 0
        done = subprocess.run(
            [sys.executable, "-c", script, str(folder.path)],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[2],
            check=False,
        )
        assert done.stdout.split("\n")[:2] == ["no file", "no line"], done.stderr
        assert list(folder.done()) == [0]
        assert not list(folder.path.glob("*.part"))
        with folder.journal(Shard()) as journal:
            journal.append({"block": 1, "bytes": folder.write(1, rows(2, 3))})
        assert list(folder.done()) == [0, 1]
