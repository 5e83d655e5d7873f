from __future__ import annotations

import ase.optimize
import numpy as np
import pytest
from ase.filters import FrechetCellFilter
from ase.md import VelocityVerlet
from ase.optimize import FIRE
from ase.optimize.precon import PreconFIRE, PreconLBFGS
from ase.optimize.sciopt import SciPyFminCG

from deeprelax_ase.optimizers import DeepRelaxOptimizer
from deeprelax_ase.optimizers.finish import resolve_finish
from deeprelax_ase.optimizers.model_hessian import ModelHessianBFGS
from tests.optimizers.helpers import quiet, watched

NAMES = sorted(set(ase.optimize.__all__) - {"RestartError", "ODE12r", "QuasiNewton", "CellAwareBFGS"})


@pytest.mark.parametrize("name", [*NAMES, "QuasiNewton", "CellAwareBFGS"])
def test_names_of_ase(name):
    cls = getattr(ase.optimize, name)
    assert resolve_finish(name) is resolve_finish(name.lower()) is resolve_finish(cls) is cls


def test_names_of_preconditioned_optimizers_and_of_our_own():
    assert resolve_finish("PreconLBFGS") is resolve_finish("preconlbfgs") is PreconLBFGS
    assert resolve_finish("preconfire") is PreconFIRE
    assert resolve_finish("fast") is resolve_finish("FAST") is resolve_finish("ModelHessianBFGS") is ModelHessianBFGS
    assert resolve_finish(ModelHessianBFGS) is ModelHessianBFGS


@pytest.mark.parametrize("finish", ["fires", "", ase.optimize.ODE12r, "ode12r", SciPyFminCG, VelocityVerlet, 3])
def test_others_are_refused(make_atoms, predictor, finish):
    with pytest.raises(ValueError, match=r"step by step, one of .*'fast'.*'BFGS'.*'FIRE'.* or None"):
        DeepRelaxOptimizer(make_atoms(), predictor=predictor, finish=finish)


@pytest.mark.parametrize("name", [*NAMES, "fast"])
@pytest.mark.parametrize("relax_cell", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_any_stepping_optimizer_finishes(make_atoms, predictor, name, relax_cell):
    atoms = make_atoms()
    optimizer = quiet(atoms, predictor, finish=name, relax_cell=relax_cell)
    assert optimizer.run(fmax=0.05, steps=200)
    assert optimizer.nsteps > 1
    assert np.linalg.norm(atoms.get_forces(), axis=1).max() < 0.055
    assert optimizer.todict()["finish"] == resolve_finish(name).__name__


@pytest.mark.parametrize("relax_cell", [True, False])
@pytest.mark.parametrize("name", ["PreconLBFGS", "PreconFIRE"])
def test_preconditioned_optimizers_finish(make_atoms, predictor, relax_cell, name):
    atoms = make_atoms()
    optimizer = quiet(atoms, predictor, finish=name, finish_kwargs={"precon": None}, relax_cell=relax_cell)
    assert optimizer.run(fmax=0.05, steps=200)
    assert optimizer.nsteps > 1


@pytest.mark.parametrize(
    "wrap", [lambda atoms: atoms, lambda atoms: FrechetCellFilter(atoms, exp_cell_factor=1.0)], ids=["bare", "filter"]
)
def test_cell_aware_bfgs_finishes_in_a_filter_of_its_own_kind(make_atoms, predictor, minimum, wrap):
    atoms = make_atoms()
    optimizer = quiet(wrap(atoms), predictor, finish="CellAwareBFGS", finish_kwargs={"alpha": 70.0})
    assert optimizer.run(fmax=0.02, steps=200)
    assert atoms.get_volume() == pytest.approx(minimum.volume, rel=2e-3)


@pytest.mark.parametrize(
    ("wrap", "kwargs"), [(FrechetCellFilter, {}), (lambda atoms: atoms, {"relax_cell": False})], ids=["filter", "bare"]
)
def test_cell_aware_bfgs_says_what_it_needs(make_atoms, predictor, wrap, kwargs):
    atoms = make_atoms()
    optimizer = quiet(wrap(atoms), predictor, finish="CellAwareBFGS", finish_kwargs={"alpha": 70.0}, **kwargs)
    with pytest.raises(ValueError, match=r"needs bare Atoms with relax_cell=True, or .*exp_cell_factor=1\.0"):
        optimizer.run(fmax=0.02)
    assert atoms == make_atoms()


def test_the_finish_is_told_of_how_far_to_go(make_atoms, predictor):
    finish, made = watched(FIRE)
    quiet(make_atoms(), predictor, finish=finish).run(fmax=0.123, steps=2)
    assert [optimizer.fmax for optimizer in made] == [0.123]
