"""ASE's ``test_optimize_stepwise.py``: what has happened at each yield; what a trajectory holds. Ours for BFGS."""

from __future__ import annotations

import pytest

from deeprelax_ase.optimizers import DeepRelaxOptimizer
from tests.optimizers.ase_suite.borrowed import OURS, ase_test, borrow, fails

theirs = ase_test("test_optimize_stepwise")
globals().update(borrow(theirs))

REASON = "they ask that positions alone change, and bare atoms are relaxed with their cell"


@pytest.fixture(autouse=True, params=OURS, ids=lambda cls: cls.__name__)
def in_place_of_bfgs(request, monkeypatch):
    monkeypatch.setattr(theirs, "BFGS", request.param)


the_cell_moves_at_once = fails("test_irun_start", DeepRelaxOptimizer, REASON)
the_cell_moves = fails("test_attach_trajectory", DeepRelaxOptimizer, REASON)
