"""``examples/teach_at_scale.sh``, on a CPU and on few crystals: each command takes what the one before it made."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from itertools import permutations
from pathlib import Path
from runpy import run_path

import pytest
import typer
from ase.build import bulk
from ase.io import write

from deeprelax_ase.cli import app

pytest.importorskip("lightning", reason="needs Lightning")
pytest.importorskip("pyarrow", reason="needs pyarrow")

SCRIPT = Path(__file__).resolve().parents[1] / "examples" / "teach_at_scale.sh"


#: In place of a command: notes how it was called, and makes the file that the script goes on with.
_NOTES = """#!{python}
import json, sys
from pathlib import Path
with open("{notes}", "a") as notes:
    notes.write(json.dumps(["{name}", *sys.argv[1:]]) + "\\n")
"""


def test_every_option_that_the_script_gives_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    notes, commands = tmp_path / "notes", tmp_path / "bin"
    commands.mkdir()
    for name in ("deeprelax", "python"):
        (commands / name).write_text(_NOTES.format(python=sys.executable, notes=notes, name=name))
        (commands / name).chmod(0o755)
    settings = {"DEVICE": "cpu", "BESIDE": "DeepRelax-M3GNet", "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", str(SCRIPT), str(tmp_path / "some.extxyz"), str(tmp_path / "taught")]
    subprocess.run(command, env=os.environ | settings, check=True, timeout=60)
    called = [json.loads(line) for line in notes.read_text().splitlines()]
    given = [arguments for name, *arguments in called if name == "deeprelax"]
    assert [name for name, *_ in given] == ["candidates", "label", "finetune"]
    (tmp_path / "some.extxyz").touch()
    for name, *arguments in given:  # refuses what is no option, or a value of none
        typer.main.get_command(app).commands[name].make_context(name, arguments)  # type: ignore[attr-defined]
    scripts = [(Path(script), arguments) for name, script, *arguments in called if name == "python" and script != "-c"]
    assert sorted(script.name for script, _ in scripts) == [*["taught.py"], *["time_to_minimum.py"] * 3]
    for script in {script for script, _ in scripts}:
        monkeypatch.setattr(sys, "argv", [str(script), "--help"])
        with pytest.raises(SystemExit):
            run_path(str(script), run_name="__main__")
        known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
        assert {one for of, each in scripts if of == script for one in each if one.startswith("--")} <= known


@pytest.mark.slow
def test_labels_teach_and_both_models_are_measured_on_the_same_crystals(tmp_path: Path) -> None:
    alloys = []
    for host, guest in permutations(("Cu", "Ag", "Au", "Ni", "Pd"), 2):
        alloys.append(bulk(host, "fcc", a=3.9, cubic=True))
        alloys[-1].symbols[0] = guest
    write(tmp_path / "alloys.extxyz", alloys)
    settings = {
        "DEVICE": "cpu",
        "POTENTIAL": "ase.calculators.emt:EMT",
        "NUMBER": "30",
        "MOST": "3",
        "LABEL": "--workers 1 --fmax 0.05 --fractions 0.4 0.3 0.3",
        "TUNE": "--epochs 2 --set training.validate_every=1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = ["bash", str(SCRIPT), str(tmp_path / "alloys.extxyz"), str(tmp_path / "taught")]
    subprocess.run(command, env=os.environ | settings, check=True, timeout=600)
    told = json.loads((tmp_path / "taught" / "taught.json").read_text())
    before, after = told["before"], told["after"]
    assert before["crystals"] == after["crystals"] == 3
    assert before["atoms"] == after["atoms"]
    assert after["model"].endswith("tuned.json")
    rows = {row["method"]: row for row in before["rows"] if row["fmax"] in (None, 0.05)}
    assert list(rows) == ["nothing", "one shot, default", "jump, fast", "fast", "jump, fire", "fire"]
    assert rows["jump, fire"]["calls"] < rows["fire"]["calls"]
    assert all(row["converged"] == 1 for row in rows.values() if "converged" in row)
    assert told["candidates"] == {"labelled": 30}
    assert 0 < told["seconds"]["finetune"] < told["seconds"]["all"]
