"""examples/screening_parsl.py, with a worker killed in the middle of it."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import pyarrow as pa
import pytest
from ase.io import read, write

from deeprelax_ase.screening.folder import Folder
from deeprelax_ase.screening.options import RelaxOptions
from tests.killing import has_torch, one_killed
from tests.screening.deadly_crystals import assert_as_predicted

pytestmark = pytest.mark.skipif(find_spec("parsl") is None, reason="needs Parsl: pip install parsl")

ROOT = Path(__file__).resolve().parents[2]
CRYSTALS = ROOT / "examples" / "unrelaxed.extxyz"


def run(structures: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "examples" / "screening_parsl.py", structures, "--out", out]
    return subprocess.run(
        [*command, "--members", "1", "--recycles", "1", *more],
        cwd=out.parent,
        env={**os.environ, "PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": ""},
        text=True,
        capture_output=True,
        timeout=300,
        check=False,
    )


def test_blocks_of_real_crystals_and_what_is_left_of_them(tmp_path: Path, quick: RelaxOptions) -> None:
    """By threads of this process, which start at once."""
    import parsl
    from parsl.config import Config
    from parsl.executors import ThreadPoolExecutor

    spec = spec_from_file_location("screening_parsl", ROOT / "examples" / "screening_parsl.py")
    assert spec is not None
    assert spec.loader is not None
    example = module_from_spec(spec)
    spec.loader.exec_module(example)
    threads = Config(
        executors=[ThreadPoolExecutor(max_threads=2)],
        run_dir=str(tmp_path / "parsl"),
        strategy="none",
        initialize_logging=False,
    )
    crystals = read(CRYSTALS, ":")
    with parsl.load(threads):
        table, failures = example.screen(CRYSTALS, tmp_path / "out", size=3, options=quick)
        assert not failures
        assert_as_predicted(table, crystals, quick)

        journal = tmp_path / "out" / "journal.jsonl"
        journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:2]))  # as if it had been killed
        again, failures = example.screen(CRYSTALS, tmp_path / "out", size=3, options=quick)
        assert not failures
        assert_as_predicted(again, crystals, quick)


@pytest.mark.slow
def test_a_killed_worker_changes_nothing(tmp_path: Path, quick: RelaxOptions) -> None:
    crystals = [atoms for _ in range(20) for atoms in read(CRYSTALS, ":")]
    write(tmp_path / "many.extxyz", crystals)
    out = tmp_path / "out"

    def at_work(pid: int, command: str) -> bool:
        """At its first task, which loads torch; one that is killed while it waits for the next keeps Parsl's lock."""
        return "spawn_main" in command and has_torch(pid)

    with one_killed(at_work, of=str(out)) as killed:
        first = run(tmp_path / "many.extxyz", out, "--size", "8", "--workers", "2")
    assert first.returncode == 0, first.stderr
    assert len(killed) == 1
    assert first.stdout.splitlines()[-1] == "160 accepted"
    table = pa.concat_tables(Folder(out).tables())
    assert table.column("id").to_pylist() == [atoms.info["name"] for atoms in crystals]
    assert_as_predicted(table, crystals, quick)
    assert "WorkerLost" in next(out.glob("parsl/*/parsl.log")).read_text()

    again = run(tmp_path / "many.extxyz", out, "--size", "8")  # nothing is left to be done
    assert again.stdout == first.stdout
    assert len((out / "journal.jsonl").read_text().splitlines()) == 20
    other = run(tmp_path / "many.extxyz", out, "--size", "9")
    assert other.returncode == 1
    assert "another block size" in other.stderr
