from __future__ import annotations

import ase.optimize
import numpy as np
import pytest
from ase.filters import FrechetCellFilter
from ase.md import VelocityVerlet
from ase.optimize.sciopt import SciPyFminCG

from deeprelax_ase.optimizers import DeepRelaxOptimizer
from deeprelax_ase.optimizers.finish import resolve_finish

NAMES = sorted(set(ase.optimize.__all__) - {"RestartError", "ODE12r", "QuasiNewton", "CellAwareBFGS"})


@pytest.mark.parametrize("name", [*NAMES, "QuasiNewton", "CellAwareBFGS"])
def test_names_of_ase(name):
    cls = getattr(ase.optimize, name)
    assert resolve_finish(name) is resolve_finish(name.lower()) is resolve_finish(cls) is cls


def test_none_is_the_jump_alone():
    assert resolve_finish(None) is None


@pytest.mark.parametrize("finish", ["fires", "", ase.optimize.ODE12r, "ode12r", SciPyFminCG, VelocityVerlet, 3])
def test_others_are_refused(make_atoms, predictor, finish):
    with pytest.raises(ValueError, match=r"step by step, one of .*'BFGS'.*'FIRE'.* or None"):
        DeepRelaxOptimizer(make_atoms(), predictor=predictor, finish=finish)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("relax_cell", [True, False])
def test_any_stepping_optimizer_finishes(make_atoms, predictor, name, relax_cell):
    atoms = make_atoms()
    optimizer = DeepRelaxOptimizer(atoms, logfile=None, predictor=predictor, finish=name, relax_cell=relax_cell)
    assert optimizer.run(fmax=0.02, steps=200)
    assert optimizer.nsteps > 1
    assert np.linalg.norm(atoms.get_forces(), axis=1).max() < 0.022
    assert optimizer.todict()["finish"] == getattr(ase.optimize, name).__name__


def test_cell_aware_bfgs_finishes_in_its_own_filter(make_atoms, predictor):
    target = FrechetCellFilter(make_atoms(), exp_cell_factor=1.0)
    optimizer = DeepRelaxOptimizer(
        target, logfile=None, predictor=predictor, finish="CellAwareBFGS", finish_kwargs={"alpha": 70.0}
    )
    assert optimizer.run(fmax=0.02, steps=200)
