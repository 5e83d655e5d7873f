"""A screening from end to end: every crystal exactly once, as it is alone, whatever happens on the way."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from ase.build import bulk
from ase.io import read, write

from deeprelax_ase.errors import OutputError
from deeprelax_ase.models.registry import DEFAULT_MODEL
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.screening.folder import Folder
from deeprelax_ase.screening.manifest import Shard
from deeprelax_ase.screening.options import RelaxOptions
from deeprelax_ase.screening.rows import OUTPUT
from deeprelax_ase.screening.run import Progress, screen
from tests.killing import descendants
from tests.screening.conftest import some_crystals

COMMAND = [sys.executable, "-m", "deeprelax_ase.cli", "screen", "--members", "1", "--recycles", "1", "--device", "cpu"]


def results(out: Path) -> pa.Table:
    return pa.concat_tables(Folder(out).tables())


def assert_complete(out: Path, number: int) -> None:
    """Every crystal once, in order, and where it is predicted to be when alone."""
    table = results(out)
    assert table.schema.equals(OUTPUT)
    assert table.column("index").to_pylist() == list(range(number))
    assert table.column("id").to_pylist() == [f"crystal-{n}" for n in range(number)]
    predictor = Predictor(members=1, recycles=1, device="cpu")
    for row, atoms in zip(table.to_pylist()[::3], some_crystals(number)[::3], strict=True):
        alone = predictor.predict(atoms)
        assert row["status"] == "accepted"
        np.testing.assert_allclose(row["positions"], alone.relaxed.positions.ravel(), rtol=0, atol=1e-5)
        np.testing.assert_allclose(row["cell"], alone.relaxed.cell.ravel(), rtol=0, atol=1e-5)
        assert row["uncertainty"] == pytest.approx(alone.uncertainty.total, abs=1e-5)
        assert row["volume_change"] == pytest.approx(alone.volume_change, abs=1e-5)


#: Tells whether torch is loaded when the processes of a screening are started.
STARTS = """
import sys
from deeprelax_ase.prediction.pool import WorkerPool
from deeprelax_ase.screening.options import RelaxOptions
from deeprelax_ase.screening.run import screen

def start(pool):
    print("torch" in sys.modules)
    raise SystemExit

WorkerPool.start = start
screen([], "out", RelaxOptions(device=sys.argv[1]))
"""


@pytest.mark.parametrize("device", ["cpu", "auto", "cuda"])
def test_processes_start_before_this_one_loads_torch(device: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STARTS, device], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


def test_symmetry_is_held_by_a_run_that_goes_on(tmp_path: Path, quick: RelaxOptions) -> None:
    """The crystals keep their space group under a calculator, and come out as in a run that nothing interrupts."""
    alloys = [bulk(host, "fcc", a=4.1, cubic=True) for host in ("Cu", "Ag", "Ni")]
    for atoms in alloys:
        atoms.symbols[0] = "Pd"
        atoms.set_cell(atoms.cell.array * (1, 1, 1.05), scale_atoms=True)
    write(tmp_path / "in.extxyz", alloys)
    options = replace(quick, calculator="ase.calculators.emt:EMT", finish="fast", fmax=0.01, keep_symmetry=True)

    def run(out: str, observe: Callable[[Progress], None] | None = None) -> None:
        screen([tmp_path / "in.extxyz"], tmp_path / out, options, workers=0, block_size=1, observe=observe)

    def interrupt(progress: Progress) -> None:
        if progress.done:
            raise KeyboardInterrupt

    run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("part", interrupt)
    assert len(results(tmp_path / "part")) == 1
    run("part")
    whole, part = (results(tmp_path / out).drop_columns("seconds") for out in ("whole", "part"))
    assert part.equals(whole)
    for row in part.to_pylist():
        assert row["status"] == "converged"
        cell = np.reshape(row["cell"], (3, 3))
        np.testing.assert_allclose(cell, np.diag(np.diag(cell)), rtol=0, atol=1e-9)
        assert cell[0, 0] == pytest.approx(cell[1, 1], abs=1e-9)
        assert cell[0, 0] != pytest.approx(4.1, abs=0.01)


def test_here(xyz: Callable[[int], Path], tmp_path: Path, quick: RelaxOptions) -> None:
    seen: list[int] = []
    progress = screen(
        [xyz(11)], tmp_path / "out", quick, workers=0, block_size=4, observe=lambda p: seen.append(p.done)
    )
    assert progress == Progress(11, 0, progress.statuses)
    assert progress.statuses == {"accepted": 11}
    assert Folder(tmp_path / "out").manifest().options["model"] == DEFAULT_MODEL
    assert seen == [0, 4, 8, 11]
    assert_complete(tmp_path / "out", 11)


def test_again_there_is_nothing_to_do(xyz: Callable[[int], Path], tmp_path: Path, quick: RelaxOptions) -> None:
    file = xyz(3)
    screen([file], tmp_path / "out", quick, workers=0)
    before = Folder(tmp_path / "out").file(0).stat().st_mtime_ns
    progress = screen([file], tmp_path / "out", quick, workers=0)
    assert (progress.before, progress.done) == (3, 3)
    assert Folder(tmp_path / "out").file(0).stat().st_mtime_ns == before


def test_a_folder_is_gone_on_with_in_blocks_of_its_own_size(xyz: Callable[[int], Path], tmp_path: Path, quick) -> None:
    file = xyz(5)
    screen([file], tmp_path / "out", quick, workers=0, block_size=2)
    Folder(tmp_path / "out").file(1).unlink()
    with pytest.warns(UserWarning, match="gone or damaged"):
        progress = screen([file], tmp_path / "out", quick, workers=0)
    assert (progress.before, progress.done) == (3, 5)


def test_bad_crystals_are_rows(tmp_path: Path, quick: RelaxOptions) -> None:
    atoms = some_crystals(6)
    atoms[1].positions[0] = np.nan
    atoms[3].positions[1] = atoms[3].positions[0] + 0.01
    atoms[4].symbols[0] = "Xe"
    write(tmp_path / "set.extxyz", atoms)
    screen([tmp_path / "set.extxyz"], tmp_path / "out", quick, workers=0)
    rows = results(tmp_path / "out").to_pylist()
    assert [row["status"] for row in rows] == ["accepted", "refused", "accepted", "refused", "refused", "accepted"]
    for n, told in ((1, "NaN"), (3, "on top of each other|closer|apart"), (4, "Xe")):
        assert re.search(told, rows[n]["reason"]), rows[n]["reason"]
        np.testing.assert_array_equal(rows[n]["cell"], atoms[n].cell.array.ravel())


def test_shards_make_one_whole(xyz: Callable[[int], Path], tmp_path: Path, quick: RelaxOptions) -> None:
    file = xyz(10)
    for number in (2, 1, 3):
        part = screen([file], tmp_path / "out", quick, workers=0, block_size=2, shard=Shard(number, 3))
        assert part.total == part.done == {1: 4, 2: 4, 3: 2}[number]
    assert_complete(tmp_path / "out", 10)
    with pytest.raises(OutputError, match="another number of shards: 3, now 2"):
        screen([file], tmp_path / "out", quick, workers=0, block_size=2, shard=Shard(1, 2))


@pytest.mark.slow
def test_several_processes(xyz: Callable[[int], Path], tmp_path: Path, quick: RelaxOptions) -> None:
    progress = screen([xyz(12)], tmp_path / "out", quick, workers=2, block_size=3)
    assert progress.done == 12
    assert_complete(tmp_path / "out", 12)


@pytest.mark.slow
def test_a_crystal_that_kills_its_process_costs_itself(xyz: Callable[[int], Path], tmp_path: Path, quick) -> None:
    """Under a calculator that dies of potassium; the other process goes on."""
    options = replace(quick, calculator="tests.screening.deadly_crystals:dies_of_potassium", steps=2)
    screen([xyz(6)], tmp_path / "out", options, workers=2, block_size=3)
    rows = results(tmp_path / "out").to_pylist()
    assert [row["index"] for row in rows] == list(range(6))
    assert [row["status"] == "failed" for row in rows] == [n == 2 for n in range(6)]
    assert "was killed" in rows[2]["reason"]


def test_blocks_that_are_damaged_are_done_again(xyz: Callable[[int], Path], tmp_path: Path, quick) -> None:
    file, out = xyz(6), tmp_path / "out"
    screen([file], out, quick, workers=0, block_size=2)
    os.truncate(Folder(out).file(0), 20)
    Folder(out).file(2).unlink()
    with (out / "journal.jsonl").open("a") as journal:
        journal.write('{}\n{"block": 9, "statuses": {"accepted": 7}, "digest": ""}\n')
    with pytest.warns(UserWarning, match="ignored"):
        progress = screen([file], out, quick, workers=0, block_size=2)
    assert (progress.before, progress.statuses) == (2, {"accepted": 6})
    assert_complete(out, 6)


def test_an_input_that_changes_on_the_way_is_refused(xyz: Callable[[int], Path], tmp_path: Path, quick) -> None:
    file, out = xyz(6), tmp_path / "out"
    text = file.read_text()

    def replace_it(progress: Progress) -> None:
        if progress.done == 2:
            file.write_text(text.replace("crystal-5", "another"))

    with pytest.raises(OutputError, match="changed while it was read"):
        screen([file], out, quick, workers=0, block_size=2, observe=replace_it)
    assert [table.num_rows for table in Folder(out).tables()] == [2]
    file.write_text(text)
    screen([file], out, quick, workers=0, block_size=2)
    assert_complete(out, 6)


@pytest.mark.slow
def test_a_folder_whose_files_change_on_the_way_is_refused(tmp_path: Path, quick: RelaxOptions) -> None:
    (tmp_path / "in").mkdir()
    for number, atoms in enumerate(some_crystals(4)):
        write(tmp_path / "in" / f"{number}.cif", atoms)

    def replace_one(progress: Progress) -> None:
        if progress.done == 2:
            (tmp_path / "in" / "3.cif").write_text((tmp_path / "in" / "0.cif").read_text())

    with pytest.raises(OutputError, match="in changed while it was read"):
        screen([tmp_path / "in"], tmp_path / "out", quick, workers=0, block_size=2, observe=replace_one)
    with pytest.raises(OutputError, match="was begun with other inputs"):
        screen([tmp_path / "in"], tmp_path / "out", quick, workers=0, block_size=2)


@pytest.mark.slow
def test_a_killed_worker_costs_nothing(xyz: Callable[[int], Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [*COMMAND, str(xyz(60)), "--out", str(out), "--block-size", "4", "--workers", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        _wait_for_lines(out / "journal.jsonl", 1, process)
        children = [pid for pid, command in descendants(str(out)).items() if "spawn_main" in command]
        os.kill(children[0], signal.SIGKILL)
        told, _ = process.communicate(timeout=120)
    assert process.returncode == 0, told
    assert_complete(out, 60)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "kills"), [(0, 1), (1, 3)])
def test_killed_again_and_again_it_comes_to_the_same_end(
    xyz: Callable[[int], Path], tmp_path: Path, processes: int, kills: int
) -> None:
    out = tmp_path / "out"
    command = [*COMMAND, str(xyz(48)), "--out", str(out), "--block-size", "3", "--workers", str(processes)]
    for kill in range(kills):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            _wait_for_lines(out / "journal.jsonl", 2 * kill + 1, process)
            process.kill()
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert_complete(out, 48)
    blocks = [line for line in (out / "journal.jsonl").read_text().splitlines() if line]
    assert len(blocks) == 16


def _wait_for_lines(journal: Path, number: int, process: subprocess.Popen) -> None:
    until = time.monotonic() + 60
    while not journal.exists() or journal.read_bytes().count(b"\n") < number:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < until
        time.sleep(0.02)


def test_uncertain_ones_are_told_and_finished(tmp_path: Path) -> None:
    """Under a calculator of ASE's own, which the command line takes by module and name."""
    write(tmp_path / "set.extxyz", some_crystals(2))
    options = RelaxOptions(members=1, recycles=1, device="cpu", max_uncertainty=1e-9)
    screen([tmp_path / "set.extxyz"], tmp_path / "told", options, workers=0)
    assert results(tmp_path / "told").column("status").to_pylist() == ["uncertain"] * 2
    assert "max_uncertainty=1e-09" in results(tmp_path / "told").column("reason").to_pylist()[0]
    finished = replace(options, on_uncertain="finish", calculator="tests.screening.test_run:springs", steps=200)
    screen([tmp_path / "set.extxyz"], tmp_path / "finished", finished, workers=0)
    rows = results(tmp_path / "finished").to_pylist()
    assert {row["status"] for row in rows} <= {"converged", "not converged"}
    assert all(np.isfinite(row["energy"]) for row in rows)
    assert all(row["uncertainty"] > 0 for row in rows)


def test_uncertain_ones_are_warned_of(tmp_path: Path, quick: RelaxOptions) -> None:
    write(tmp_path / "set.extxyz", some_crystals(3))
    doubtful = replace(quick, max_uncertainty=1e-9, on_uncertain="warn")
    with pytest.warns(UserWarning, match="3 of 3 predictions are uncertain"):
        screen([tmp_path / "set.extxyz"], tmp_path / "out", doubtful, workers=0)


def springs():
    from ase.calculators.lj import LennardJones

    return LennardJones(sigma=2.5, epsilon=0.1, rc=8.0, smooth=True)


def test_input_is_not_touched(xyz: Callable[[int], Path], tmp_path: Path, quick: RelaxOptions) -> None:
    file = xyz(2)
    before = file.read_bytes()
    screen([file], tmp_path / "out", quick, workers=0)
    assert file.read_bytes() == before
    assert len(read(file, ":")) == 2
