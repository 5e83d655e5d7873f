from __future__ import annotations

import os
import subprocess
import sys

import pytest

from deeprelax_ase.errors import BackendError
from deeprelax_ase.graph.matgl_import import import_matgl, runs_on_dgl


def python(code: str, home, **variables: str) -> subprocess.CompletedProcess:
    """Run ``code`` in a fresh interpreter with an empty home folder and every warning shown."""
    kept = {k: v for k, v in os.environ.items() if k not in ("MATGL_BACKEND", "DGLBACKEND", "PYTHONWARNINGS")}
    environment = {**kept, "HOME": str(home), "OMP_NUM_THREADS": "1", **variables}
    command = [sys.executable, "-W", "always", "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_it_runs_on_the_backend_of_its_version(needs_matgl):
    matgl = import_matgl()
    older = int(matgl.__version__.split(".")[0]) < 3
    assert runs_on_dgl() == older
    assert getattr(matgl.config, "BACKEND", "PYG") == ("DGL" if older else "PYG")
    from matgl.ext.ase import Atoms2Graph

    graph_of = Atoms2Graph.__init__.__globals__
    assert ("dgl" in Atoms2Graph.__module__) == older
    assert older or "dgl" not in graph_of


@pytest.mark.slow  # test_matgl_builder has another backend in this process
def test_users_choice_of_backend_is_not_overruled(needs_dgl, tmp_path):
    done = python(
        "import os, deeprelax_ase.graph.matgl_import as m\n"
        "try:\n    m.import_matgl()\n"
        "except m.BackendError as error:\n    print(os.environ['MATGL_BACKEND'], error)",
        tmp_path,
        MATGL_BACKEND="PYG",
    )
    assert done.stdout.startswith("PYG MatGL 2")
    assert "MATGL_BACKEND=DGL" in done.stdout


@pytest.mark.parametrize("version", ["3.0.0", "4.1.2", "5.0.0"])
def test_a_matgl_that_says_nothing_of_its_backend(monkeypatch, needs_matgl, version):
    """As from version 4 on; the one that is installed plays it."""
    matgl = import_matgl()
    monkeypatch.setattr("deeprelax_ase.graph.matgl_import.version", lambda package: version)
    monkeypatch.setitem(sys.modules, "dgl", None)  # nothing needs it
    monkeypatch.delattr(matgl.config, "BACKEND", raising=False)
    assert not runs_on_dgl()
    assert import_matgl() is matgl


def test_matgl_2_without_dgl(monkeypatch, needs_matgl):
    monkeypatch.setattr("deeprelax_ase.graph.matgl_import.version", lambda package: "2.2.1")
    monkeypatch.setitem(sys.modules, "dgl", None)
    with pytest.raises(BackendError, match=r'MatGL 2 with DGL cannot be .*pip install "deeprelax-ase\[dgl\]"'):
        import_matgl()


def test_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "matgl", None)
    with pytest.raises(BackendError, match=r'pip install "deeprelax-ase\[matgl\]"') as caught:
        import_matgl()
    assert isinstance(caught.value, ImportError)
