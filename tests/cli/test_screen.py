"""``deeprelax screen`` and ``deeprelax export``."""

from __future__ import annotations

import errno
import gzip
import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from ase.constraints import FixCom
from ase.io import read, write
from rich.console import Console
from typer.testing import CliRunner

from deeprelax_ase.cli import app, common
from tests.screening.conftest import some_crystals

pytest.importorskip("pyarrow")

QUICK = ["--members", "1", "--recycles", "1", "--device", "cpu", "--workers", "0", "--max-odds-worse", "1"]


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def screened(tmp_path: Path) -> Path:
    atoms = some_crystals(4)
    atoms[2].symbols[0] = "Xe"
    atoms[3].info["material_id"] = "crystal-0"
    write(tmp_path / "set.extxyz", atoms)
    done = run("screen", tmp_path / "set.extxyz", "-o", tmp_path / "out", "--block-size", 3, *QUICK)
    assert done.exit_code == 1, done.output
    assert "3 accepted, 1 refused of 4; 4 of them now" in done.output
    return tmp_path / "out"


def test_the_same_command_goes_on(screened: Path) -> None:
    again = run("screen", screened.parent / "set.extxyz", "-o", screened, "--block-size", 3, *QUICK)
    assert "0 of them now" in again.output


def test_what_is_finished_one_by_one_is_counted(tmp_path: Path) -> None:
    atoms = some_crystals(3)
    for held in atoms[:2]:
        held.set_constraint(FixCom())
    write(tmp_path / "set.traj", atoms)
    command = ["screen", tmp_path / "set.traj", "-c", "tests.batched_emt:springs", "--finish", "none", *QUICK[:-2]]
    done = run(*command, "-o", tmp_path / "out")
    assert "2 crystals were finished one by one, as batches keep no other constraints than FixAtoms" in done.stderr
    done = run(*command, "-o", tmp_path / "other", "--restart", tmp_path / "restart")
    assert "--restart finishes crystals one by one" in done.stderr
    assert "crystals were" not in done.stderr


def test_a_missing_input_is_told_before_a_potential_is_looked_for(tmp_path: Path) -> None:
    done = run("screen", tmp_path / "nothing.cif", "-c", "emtt", "-o", tmp_path / "out")
    assert done.exit_code == 2
    assert "no such file" in done.stderr
    assert "emtt" not in done.stderr


def test_files_that_are_left_out_are_counted(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "a.cif", some_crystals(1))
    for name in ("README.md", ".hidden.cif"):
        (tmp_path / "in" / name).write_text("nothing")
    for _ in ("done", "and gone on with"):
        done = run("screen", tmp_path / "in", "-o", tmp_path / "out", *QUICK)
        assert "2 files are left out" in done.output
        assert f"{tmp_path}/in/README.md" in done.output


def test_export(screened: Path, tmp_path: Path) -> None:
    done = run("export", screened, "-o", tmp_path / "relaxed.extxyz")
    assert done.exit_code == 0, done.output
    assert "3 crystals written" in done.output
    assert "1 ids belong to more than one crystal: crystal-0 (2)" in done.output
    atoms = read(tmp_path / "relaxed.extxyz", ":")
    assert [a.info["index"] for a in atoms] == [0, 1, 3]
    assert all(a.info["deeprelax_status"] == "accepted" and a.info["deeprelax_uncertainty"] > 0 for a in atoms)
    failed = run("export", screened, "-o", tmp_path / "failed.extxyz", "--status", "refused")
    assert "1 crystal written" in failed.output
    assert "Xe" in read(tmp_path / "failed.extxyz").info["deeprelax_reason"]


@pytest.mark.parametrize("name", ["relaxed.db", "relaxed-%03d.cif", "relaxed.jsonl", "relaxed.jsonl.gz"])
def test_export_formats(screened: Path, tmp_path: Path, name: str) -> None:
    done = run("export", screened, "-o", tmp_path / name)
    assert done.exit_code == 0, done.output
    if ".jsonl" in name:
        opener = gzip.open if name.endswith(".gz") else open
        with opener(tmp_path / name, "rt") as stream:
            records = [json.loads(line) for line in stream]
        assert [set(r) for r in records] == [{"material_id", "structure", "energy", "converged", "n_steps"}] * 3
        assert not any(r["converged"] for r in records)  # nothing told forces
        from pymatgen.core import Structure

        assert Structure.from_dict(records[0]["structure"]).composition.reduced_formula == "NaCl"
    elif "%" in name:
        assert len(list(tmp_path.glob("relaxed-*.cif"))) == 3
    else:
        assert len(read(tmp_path / name, ":")) == 3


def test_what_is_wrong_is_told(screened: Path, tmp_path: Path) -> None:
    for arguments, told in (
        (("screen", "nothing.extxyz", "-o", tmp_path / "new", *QUICK), "no such file"),
        (("screen", tmp_path / "set.extxyz", "-o", screened, "--block-size", "2", *QUICK), "another block size"),
        (("screen", tmp_path / "set.extxyz", "-o", tmp_path / "new", "--shard", "3/2", *QUICK), "shard 3/2"),
        (
            ("screen", tmp_path / "set.extxyz", "-o", tmp_path / "new", "--on-uncertain", "finish", *QUICK),
            "needs a calculator",
        ),
        (
            ("screen", tmp_path / "set.extxyz", "-o", tmp_path / "new", "--on-uncertain", "raise", *QUICK),
            "rows are marked instead: 'keep'",
        ),
        (("screen", tmp_path / "set.extxyz", "-o", tmp_path / "new", "--recycles", "1000000000"), "or equal to 64"),
        (("export", tmp_path, "-o", tmp_path / "a.extxyz"), "holds no screening"),
        (("export", screened, "-o", tmp_path / "a.extxyz", "--status", "good"), "unknown status good"),
        (("export", screened, "-o", tmp_path / "a.nothing"), "knows no format"),
    ):
        done = run(*arguments)
        assert done.exit_code == 2, done.output
        assert told in " ".join(done.output.split()), done.output


def test_a_full_disk_ends_it_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deeprelax_ase.screening.folder import Folder

    def full(self: Folder, block: int, table: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    write(tmp_path / "set.extxyz", some_crystals(2))
    monkeypatch.setattr(Folder, "write", full)
    done = run("screen", tmp_path / "set.extxyz", "-o", tmp_path / "out", *QUICK)
    assert done.exit_code == 1, done.output
    assert "No space left on device" in done.output
    assert "goes on" in done.output


def test_progress_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = StringIO()
    terminal = Console(file=shown, force_terminal=True, width=120)
    monkeypatch.setattr(common, "errors", lambda: terminal)
    write(tmp_path / "set.extxyz", some_crystals(6))
    done = run("screen", tmp_path / "set.extxyz", "-o", tmp_path / "out", "--block-size", 2, *QUICK)
    assert done.exit_code == 0, done.output
    assert "relaxing" in shown.getvalue()
    assert "/s" in shown.getvalue()


def test_help_shows_examples() -> None:
    for name in ("screen", "export"):
        assert "Examples" in run(name, "--help").output
