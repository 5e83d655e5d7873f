"""ASE's own tests of its optimizers, which come with it as ``ase.test``, run with ours among or in place of theirs.

The tests are taken from the installed ASE as they stand; each file here says which of theirs it runs, and
``test_coverage.py`` that none is forgotten. Models and finish are the defaults, on the CPU.
"""

from __future__ import annotations

import pytest


@pytest.fixture
def testdir(tmp_path, monkeypatch):
    """ASE's fixture of that name: an empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
