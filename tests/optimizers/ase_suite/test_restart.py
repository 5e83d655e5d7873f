"""ASE's ``test_restart.py``: what may be given as ``restart``, and what is said of a bad file. Ours for BFGS."""

from __future__ import annotations

import pytest

from tests.optimizers.ase_suite.borrowed import OURS, ase_test, borrow

theirs = ase_test("test_restart")
globals().update(borrow(theirs))


@pytest.fixture(autouse=True, params=OURS, ids=lambda cls: cls.__name__)
def in_place_of_bfgs(request, monkeypatch):
    monkeypatch.setattr(theirs, "BFGS", request.param)
