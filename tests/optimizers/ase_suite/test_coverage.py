"""Nothing of ASE's tests of its optimizers is passed over without a reason, and the reasons hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from ase.build import bulk

from tests.optimizers.ase_suite.borrowed import OURS, OUT_OF_PLACE, RUN, ase_test, names_of_tests


def test_every_file_is_run_or_out_of_place():
    folder = Path(ase_test("test_optimizers").__file__).parent
    files = {path.stem for path in folder.glob("test_*.py")}
    assert files >= RUN - {"test_restart"}
    assert files <= RUN | set(OUT_OF_PLACE), "ASE has tests that nobody has looked at"
    assert not RUN & set(OUT_OF_PLACE)
    assert all((Path(__file__).parent / f"{name}.py").is_file() for name in RUN)


def test_their_tests_are_those_that_were_looked_at():
    ase_test("test_optimizers")
    assert names_of_tests("test_optimizers") <= {"test_optimize", "test_unconverged", "test_run_twice", "test_path"}
    assert names_of_tests("test_nsteps") == {"test_nsteps"}
    assert names_of_tests("test_optimize_stepwise") == {"test_irun_start", "test_attach_trajectory"}
    assert names_of_tests("test_optimizer_restart") == {"test_optimizers_restart"}


@pytest.mark.parametrize("cls", OURS, ids=lambda cls: cls.__name__)
def test_a_function_is_no_crystal(cls):
    booth = ase_test("test_pure").BoothFunctionOptimizable([1.0, 2.0])
    with pytest.raises((AttributeError, TypeError, ValueError)):
        cls(booth, logfile=None)


@pytest.mark.parametrize("cls", OURS, ids=lambda cls: cls.__name__)
def test_a_trajectory_cannot_be_replayed(cls):
    """As with every optimizer of ASE's that does not offer it."""
    with pytest.raises((AttributeError, TypeError), match="replay_trajectory"):
        cls(bulk("Cu"), logfile=None).replay_trajectory("relax.traj")
