"""ASE's ``test_nsteps.py``: how often ``irun`` yields. Ours in place of BFGS."""

from __future__ import annotations

import pytest

from tests.optimizers.ase_suite.borrowed import OURS, ase_test, borrow

theirs = ase_test("test_nsteps")
globals().update(borrow(theirs))


@pytest.fixture(autouse=True, params=OURS, ids=lambda cls: cls.__name__)
def in_place_of_bfgs(request, monkeypatch):
    monkeypatch.setattr(theirs, "BFGS", request.param)
