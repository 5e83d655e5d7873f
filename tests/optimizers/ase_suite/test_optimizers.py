"""ASE's ``test_optimizers.py``: every optimizer, ours among them, relaxes rattled gold under EMT."""

from __future__ import annotations

import pytest

from deeprelax_ase.optimizers import DeepRelaxOptimizer
from tests.optimizers.ase_suite.borrowed import OURS, ase_test, borrow, fails

theirs = ase_test("test_optimizers")
globals().update(borrow(theirs))


#: ASE's own pass ASE's own tests, which is a matter of its release.
THEIRS = [pytest.param(cls, marks=pytest.mark.slow) for cls in theirs.optclasses]


@pytest.fixture(name="optcls", params=[*THEIRS, *OURS], ids=lambda cls: cls.__name__)
def fixture_optcls(request):
    return request.param


lower_than_their_reference = fails(
    "test_optimize",
    DeepRelaxOptimizer,
    "bare atoms are relaxed with their cell, to less than the energy of the kept one",
)
