"""``examples/teach_at_scale.sh``, on a CPU and on few crystals: each command takes what the one before it made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import pytest
from ase.build import bulk
from ase.io import write

pytest.importorskip("lightning", reason="needs Lightning")
pytest.importorskip("pyarrow", reason="needs pyarrow")

SCRIPT = Path(__file__).resolve().parents[1] / "examples" / "teach_at_scale.sh"


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
    assert after["model"].endswith("DeepRelax-PBE-tuned.json")
    rows = {row["method"]: row for row in before["rows"] if row["fmax"] in (None, 0.05)}
    assert list(rows) == ["nothing", "one shot, default", "jump, fast", "fast", "jump, fire", "fire"]
    assert rows["jump, fire"]["calls"] < rows["fire"]["calls"]
    assert all(row["converged"] == 1 for row in rows.values() if "converged" in row)
    assert told["candidates"] == {"labelled": 30}
    assert 0 < told["seconds"]["finetune"] < told["seconds"]["all"]
