from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec

import pytest

from deeprelax_ase.errors import BackendError
from deeprelax_ase.graph.matgl_import import import_matgl

needs_dgl = pytest.mark.skipif(find_spec("dgl") is None, reason="DGL has no wheel for this Python")


def python(code: str, home, **variables: str) -> subprocess.CompletedProcess:
    """Run ``code`` in a fresh interpreter with an empty home folder and every warning shown."""
    kept = {k: v for k, v in os.environ.items() if k not in ("MATGL_BACKEND", "DGLBACKEND", "PYTHONWARNINGS")}
    environment = {**kept, "HOME": str(home), "OMP_NUM_THREADS": "1", **variables}
    command = [sys.executable, "-W", "always", "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@needs_dgl
def test_matgl_on_dgl():
    assert import_matgl().config.BACKEND == "DGL"
    from matgl.ext.ase import Atoms2Graph

    assert "dgl" in Atoms2Graph.__module__


@needs_dgl
def test_users_choice_of_backend_is_not_overruled(tmp_path):
    done = python(
        "import os, deeprelax_ase.graph.matgl_import as m\n"
        "try:\n    m.import_matgl()\n"
        "except m.BackendError as error:\n    print(os.environ['MATGL_BACKEND'], error)",
        tmp_path,
        MATGL_BACKEND="PYG",
    )
    assert done.stdout.startswith("PYG MatGL runs on PYG")
    assert "MATGL_BACKEND=DGL" in done.stdout


@needs_dgl
def test_a_matgl_without_dgl(monkeypatch):
    """As from version 3 on."""
    monkeypatch.delattr(import_matgl().config, "BACKEND")
    with pytest.raises(BackendError, match="does not run on DGL any more"):
        import_matgl()


@needs_dgl
@pytest.mark.parametrize("module", ["matgl.config", "matgl.ext.ase"])
def test_a_matgl_of_other_modules(monkeypatch, module):
    """What it lacks is not what is told."""
    if module == "matgl.ext.ase":
        monkeypatch.delattr(import_matgl().config, "BACKEND")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendError, match=rf"MatGL {import_module('matgl').__version__} does not run on DGL any more"):
        import_matgl()


@pytest.mark.parametrize("package", ["matgl", "dgl"])
def test_missing_package(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BackendError, match=r'pip install "deeprelax-ase\[matgl\]"') as caught:
        import_matgl()
    assert isinstance(caught.value, ImportError)
