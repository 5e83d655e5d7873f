"""Bring a module of ASE's tests, its fixtures included, into one of ours."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

import pytest

from deeprelax_ase.optimizers import DeepRelaxOptimizer, DeepRelaxPositions

OURS = [DeepRelaxOptimizer, DeepRelaxPositions]

#: Files of ``ase/test/optimize`` whose tests are run here.
RUN = {"test_optimizers", "test_nsteps", "test_optimize_stepwise", "test_optimizer_restart", "test_restart"}

#: The others, and why they cannot be.
OUT_OF_PLACE = {
    "test_bad_restart": "before 3.27; later part of test_restart, which is run",
    "test_cellawarebfgs": "the elastic tensor that CellAwareBFGS starts from",
    "test_climb_fix_internals": "a saddle point, not a minimum, along FixInternals",
    "test_fire": "FIRE's downhill check",
    "test_fire2": "FIRE2's accelerated bias correction",
    "test_maxstep": "a molecule, and how MDMin cuts its steps",
    "test_minimahop": "minima hopping, with a calculator that is not ASE's",
    "test_pure": "a function of two variables; a crystal is asked for, see test_coverage",
    "test_replay": "BFGS learns from a trajectory; ours restarts from a file instead, see test_coverage",
    "test_rfo": "RFO's eigenvalue solver",
}


def ase_test(name: str) -> ModuleType:
    """A module of ``ase/test/optimize``; the file that asks is skipped where the installed ASE does not have it."""
    pytest.importorskip("ase.test", reason="this ASE comes without its tests")
    return pytest.importorskip(f"ase.test.optimize.{name}", reason=f"this ASE has no {name}")


def borrow(theirs: ModuleType) -> dict[str, Any]:
    """Tests and fixtures of ``theirs``, for ``globals().update``."""
    return {name: value for name, value in vars(theirs).items() if not name.startswith("__")}


def names_of_tests(name: str) -> set[str]:
    """The test functions that a module of ``ase/test/optimize`` defines."""
    return {key for key in vars(import_module(f"ase.test.optimize.{name}")) if key.startswith("test_")}


def fails(test: str, cls: type, reason: str) -> Any:
    """An autouse fixture: ``test`` is expected to fail for ``cls``, strictly, for this ``reason``."""

    @pytest.fixture(autouse=True)
    def expected(request: pytest.FixtureRequest) -> None:
        chosen = {value for value in request.node.callspec.params.values() if isinstance(value, type)}
        if request.node.originalname == test and cls in chosen:
            request.node.add_marker(pytest.mark.xfail(reason=reason, strict=True, raises=AssertionError))

    return expected
