"""The optimizers, and the reading and writing of files, under every ASE since 3.25.

Each version is put into a folder of its own, with pip and without what it depends on, and found there before the
installed one. Slow: ``make test PYTEST_ARGS="-m slow tests/test_ase_versions.py"``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ["3.25.0", "3.26.0", "3.27.0", "3.28.0"]
TESTS = [
    "tests/optimizers",
    "tests/io",
    "tests/test_crystal.py",
    "tests/prediction/test_record.py",
    "tests/cli/test_relax.py",
]


def python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **variables}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("version", VERSIONS)
def test_ase(tmp_path, version):
    pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path), f"ase=={version}"]
    installed = python(*pip)
    if installed.returncode != 0:
        pytest.skip(f"ASE {version} cannot be installed here: {installed.stderr[-300:]}")
    paths = f"{tmp_path}{os.pathsep}{ROOT}"
    shown = python("-c", "import ase; print(ase.__version__)", PYTHONPATH=paths)
    assert shown.stdout == f"{version}\n"
    # before 3.27 ASE leaves its files open, even that of logfile=None, and complains of them when memory is cleared
    quiet = ["-W", "ignore:unclosed file:ResourceWarning", "-W", "ignore::pytest.PytestUnraisableExceptionWarning"]
    quiet += ["-W", "ignore:Set OLD_ERROR_HANDLING:DeprecationWarning"]  # FixSymmetry of ASE's own, of spglib 2.8
    done = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", *quiet, *TESTS, PYTHONPATH=paths)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


def test_the_lowest_version_is_the_one_that_is_asked_for():
    text = (ROOT / "pyproject.toml").read_text()
    lowest = ".".join(VERSIONS[0].split(".")[:2])
    assert f'"ase>={lowest},<4"' in text
