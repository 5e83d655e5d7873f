"""Calculators, graphs and optimizers under MatGL 3 and 4, without DGL and beside it.

Without DGL in an environment of its own, made with pip by what pyproject.toml asks for. Beside DGL in a folder that is
found before the installed MatGL 2. Slow: ``make matgl-versions``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VERSIONS = ["3.0.5", "4.1.2"]
TESTS = [
    "tests/calculators",
    "tests/graph",
    "tests/optimizers/test_drop_in.py",
    "tests/optimizers/test_model_choice.py",
    "tests/prediction/test_predictor_batches.py",
]
#: Further packages that these tests, and pytest's options, need.
TOOLS = ["beartype", "hypothesis", "jaxtyping", "pytest", "pytest-timeout"]


def python(*arguments: str, program: str = sys.executable, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **variables}
    command = [program, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, check=False)


def run_tests(program: str, paths: str, version: str) -> str:
    """Run them, and return what pytest says of them; the right MatGL is there."""
    found = python("-c", "import importlib.metadata as m; print(m.version('matgl'))", program=program, PYTHONPATH=paths)
    assert found.stdout == f"{version}\n"
    done = python(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", *TESTS, program=program, PYTHONPATH=paths
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "needs MatGL 3 or later" not in done.stdout  # none of those that are about it was left out
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(find_spec("dgl") is None, reason="needs DGL, which has no wheel for this Python")
@pytest.mark.parametrize("version", VERSIONS)
def test_beside_dgl(tmp_path, version):
    pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path), f"matgl=={version}"]
    installed = python(*pip)
    if installed.returncode != 0:
        pytest.skip(f"MatGL {version} cannot be installed here: {installed.stderr[-300:]}")
    run_tests(sys.executable, f"{tmp_path}{os.pathsep}{ROOT}", version)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("version", VERSIONS)
def test_without_dgl(tmp_path, version):
    made = python("-m", "venv", str(tmp_path))
    assert made.returncode == 0, made.stderr
    program = str(tmp_path / "bin" / "python")
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not re.match("matgl|lightning", line)]
    (tmp_path / "pins.txt").write_text("\n".join(pins))
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["matgl"], f"matgl=={version}", *TOOLS]
    for packages in (["torch"], wanted):
        pip = ["-m", "pip", "install", "--quiet", "-c", str(tmp_path / "pins.txt"), *packages]
        installed = python(*pip, program=program)
        if installed.returncode != 0:
            pytest.skip(f"MatGL {version} cannot be installed here: {installed.stderr[-300:]}")
    absent = python("-c", "import importlib.util as u; print(u.find_spec('dgl'))", program=program)
    assert absent.stdout == "None\n"
    run_tests(program, str(ROOT), version)


def test_the_versions_are_those_that_are_asked_for():
    (asked,) = (
        requirement.specifier
        for requirement in map(Requirement, PROJECT["optional-dependencies"]["matgl"])
        if requirement.name == "matgl"
    )
    assert [asked.contains(version) for version in ("2.2.1", *VERSIONS, "5.0.0")] == [False, True, True, False]
    assert f'matgl=={VERSIONS[-1]}; python_version >= "3.12"' in (ROOT / "constraints.txt").read_text()
