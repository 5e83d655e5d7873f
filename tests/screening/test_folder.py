"""A folder of results: one writer, whole files and whole lines, whatever happens in between."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeprelax_ase.errors import OutputError
from deeprelax_ase.screening.folder import Folder, block_table
from deeprelax_ase.screening.journal import Line, open_journal, read_journal
from deeprelax_ase.screening.manifest import Manifest, Shard
from deeprelax_ase.screening.options import RelaxOptions
from deeprelax_ase.screening.rows import OUTPUT


def rows(*indices: int) -> pa.Table:
    return pa.Table.from_pylist([{"index": n, "status": "accepted"} for n in indices], schema=OUTPUT)


def begun(path: Path, *, structures: int = 8, shards: int = 1) -> Folder:
    """A folder whose blocks have two structures."""
    given = {"name": "a.extxyz", "digest": "12", "stamp": "", "structures": structures}
    Manifest((given,), RelaxOptions().to_dict(), block_size=2, shards=shards).agree(path)
    return Folder(path)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return begun(tmp_path / "out")


def line(block: int) -> Line:
    return {"block": block, "statuses": {"accepted": 2}, "digest": "12"}


def encoded(*lines: object) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in lines)


class TestJournal:
    def test_a_line_is_there_once_it_is_written(self, folder: Folder) -> None:
        with folder.journal(Shard()) as journal:
            journal.append(folder.write(0, rows(0, 1)))
            assert list(folder.done()) == [0]
        with folder.journal(Shard()) as journal:
            assert list(journal.lines) == [0]
            journal.append(folder.write(3, rows(6, 7)))
        assert list(folder.done()) == [0, 3]

    @given(cut=st.integers(0, 200))
    def test_wherever_it_was_cut_it_goes_on(self, tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
        file = tmp_path_factory.mktemp("journal") / "journal.jsonl"
        lines = [line(n) for n in range(3)]
        file.write_bytes(encoded(*lines)[:cut])
        whole = [n for n in range(3) if cut >= len(encoded(*lines[: n + 1]))]
        with open_journal(file, lambda line: True) as journal:
            assert list(journal.lines) == whole
            journal.append(line(9))
        assert [json.loads(text)["block"] for text in file.read_bytes().splitlines()] == [*whole, 9]

    def test_what_is_no_line_of_a_block_is_ignored_and_said(self, tmp_path: Path) -> None:
        """Lines twice, of nothing, of something else, and damaged ones, with good ones after them."""
        file = tmp_path / "journal.jsonl"
        odd = [{}, [1], {"block": 1}, {**line(1), "statuses": {"predicted": "many"}}]
        file.write_bytes(
            encoded(line(0), line(0), *odd) + b'{"block": 2, \xff\n' + b"[" * 10**5 + b"\n" + encoded(line(3))
        )
        with (
            pytest.warns(UserWarning, match=r"7 lines are damaged, or there twice; ignored"),
            open_journal(file, lambda line: True) as journal,
        ):
            assert list(journal.lines) == [0, 3]
        assert read_journal(file) == ({0: line(0), 3: line(3)}, True)

    def test_two_writers(self, tmp_path: Path) -> None:
        folder = begun(tmp_path, shards=2)
        first, second, again = (folder.journal(Shard(n, 2)) for n in (1, 2, 1))
        with first, second, pytest.raises(OutputError, match="another process writes to"), again:
            pass
        with folder.journal(Shard(1, 2)):
            pass

    def test_of_several_shards(self, tmp_path: Path) -> None:
        folder = begun(tmp_path, structures=7, shards=2)
        assert folder.missing() == {Shard(1, 2): 4, Shard(2, 2): 3}
        for block in (1, 0):
            with folder.journal(Shard(block + 1, 2)) as journal:
                journal.append(folder.write(block, rows(2 * block, 2 * block + 1)))
        assert list(folder.done()) == [0, 1]
        assert folder.missing() == {Shard(1, 2): 2, Shard(2, 2): 1}


class TestFiles:
    def test_rows_come_in_order_and_only_where_the_journal_says_so(self, folder: Folder) -> None:
        with folder.journal(Shard()) as journal:
            for block in (2, 0):
                journal.append(folder.write(block, rows(2 * block, 2 * block + 1)))
            folder.write(1, rows(99))  # killed before its line
        assert [table.column("index").to_pylist() for table in folder.tables(["index"])] == [[0, 1], [4, 5]]

    def test_what_a_killed_process_began_is_removed(self, tmp_path: Path) -> None:
        folder = begun(tmp_path, shards=2)
        mine, others = folder.path / "part-00000002.77.part", folder.path / "part-00000001.77.part"
        for file in (mine, others):
            file.write_bytes(b"half")
        with folder.journal(Shard(1, 2)):
            assert not mine.exists()
            assert others.exists()

    @pytest.mark.parametrize("damage", ["cut", "gone", "swapped", "changed"])
    def test_damaged_files_are_told_and_done_again(self, folder: Folder, damage: str) -> None:
        with folder.journal(Shard()) as journal:
            for block in (0, 1, 2):
                journal.append(folder.write(block, rows(2 * block, 2 * block + 1)))
        file, other = folder.file(0), folder.file(1)
        left = [2] if damage == "swapped" else [1, 2]
        if damage == "gone":
            file.unlink()
        elif damage == "cut":
            os.truncate(file, 20)
        elif damage == "swapped":
            one, two = file.read_bytes(), other.read_bytes()
            file.write_bytes(two)
            other.write_bytes(one)
        else:
            data = bytearray(file.read_bytes())
            data[40] ^= 255
            file.write_bytes(data)
        with pytest.raises(OutputError, match=r"part-00000000\.parquet is missing or damaged"):
            list(folder.tables())
        with pytest.warns(UserWarning, match="does not hold"), folder.journal(Shard()) as journal:
            assert list(journal.lines) == left
        with folder.journal(Shard()) as journal:
            for block in {0, 1} - set(left):
                journal.append(folder.write(block, rows(2 * block, 2 * block + 1)))
        assert [table.column("index").to_pylist() for table in folder.tables()] == [[0, 1], [2, 3], [4, 5]]

    def test_blocks_that_were_not_asked_for_are_not_counted(self, folder: Folder) -> None:
        with folder.journal(Shard()) as journal:
            journal.append(folder.write(77, rows(154)))
        assert not folder.done()
        with pytest.warns(UserWarning, match="block 77 does not hold"), folder.journal(Shard()) as journal:
            assert not journal.lines

    def test_a_full_disk_leaves_nothing_half_done(self, folder: Folder) -> None:
        """The system refuses to let files grow, as a full disk would."""
        script = (
            "import resource, signal, sys\n"
            "from pathlib import Path\n"
            "from tests.screening.test_folder import Folder, Shard, rows\n"
            "folder = Folder(Path(sys.argv[1]))\n"
            "with folder.journal(Shard()) as journal:\n"
            "    journal.append(folder.write(0, rows(0, 1)))\n"
            "    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))\n"
            "    try:\n"
            "        folder.write(1, rows(*range(5000)))\n"
            "    except OSError:\n"
            "        print('no file')\n"
            "    try:\n"
            "        journal.append({'block': 1, 'text': 'x' * 3000})\n"
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
            journal.append(folder.write(1, rows(2, 3)))
        assert list(folder.done()) == [0, 1]


def test_columns_that_a_block_of_before_lacks_are_null(tmp_path: Path):
    file = tmp_path / "block.parquet"
    pq.write_table(rows(3, 4).drop_columns(["energy_relaxed"]), file)
    table = block_table(str(file), OUTPUT)
    assert table.schema.equals(OUTPUT)
    assert table.column("index").to_pylist() == [3, 4]
    assert table.column("energy_relaxed").null_count == 2
    assert block_table(str(file), OUTPUT, ["energy_relaxed", "index"]).column_names == ["energy_relaxed", "index"]
