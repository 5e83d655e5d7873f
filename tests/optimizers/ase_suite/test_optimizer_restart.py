"""ASE's ``test_optimizer_restart.py``: an interrupted relaxation goes on as if it had not been. Ours for BFGS."""

from __future__ import annotations

import pytest

from tests.optimizers.ase_suite.borrowed import OURS, ase_test

theirs = ase_test("test_optimizer_restart")


@pytest.mark.parametrize("cls", OURS, ids=lambda cls: cls.__name__)
def test_optimizers_restart(cls, testdir, monkeypatch):
    """They hand ``alpha`` to every optimizer: it is for the one that finishes, a BFGS as well."""

    class FinishedByBFGS(cls):
        def __init__(self, atoms, *, alpha, **kwargs):
            super().__init__(atoms, finish="bfgs", finish_kwargs={"alpha": alpha}, **kwargs)

    monkeypatch.setattr(theirs, "BFGS", FinishedByBFGS)
    theirs.test_optimizers_restart(testdir, FinishedByBFGS)
