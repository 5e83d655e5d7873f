"""The optimizer inside other people's libraries: their own code where it is installed, their sequence of calls else."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.io import Trajectory
from ase.optimize.optimize import Optimizer

from deeprelax_ase.calculators import M3GNET_MODEL, get_calculator
from deeprelax_ase.errors import MissingCellError
from deeprelax_ase.optimizers import DeepRelaxOptimizer, DeepRelaxPositions

M3GNET = Path(__file__).parents[3] / "shared" / "models" / M3GNET_MODEL


@pytest.mark.parametrize("relax_cell", [True, False])
def test_matcalc_sequence(make_atoms, predictor, relax_cell, capsys):
    """MatCalc's RelaxCalc makes the class with nothing but its target, and lets the cell move by a filter."""
    atoms = make_atoms()
    before = atoms.cell.copy()
    cls = partial(DeepRelaxPositions, predictor=predictor)
    optimizer = cls(FrechetCellFilter(atoms) if relax_cell else atoms)
    optimizer.run(fmax=0.05, steps=500)
    assert optimizer.converged()
    assert (atoms.cell == before).all() != relax_cell
    assert "DeepRelaxPositions:" in capsys.readouterr().out


def test_quacc_sequence(make_atoms, predictor, tmp_path):
    """quacc's runner opens the optimizer as a context and keeps its own copies of files at each step."""
    atoms = make_atoms()
    options = {
        "logfile": tmp_path / "opt.log",
        "restart": tmp_path / "opt.json",
        "trajectory": Trajectory(tmp_path / "opt.traj", "w", atoms=atoms),
    }
    assert issubclass(DeepRelaxOptimizer, Optimizer)
    with DeepRelaxOptimizer(FrechetCellFilter(atoms), predictor=predictor, **options) as optimizer:
        for step, _ in enumerate(optimizer.irun(fmax=0.05, steps=500)):
            assert optimizer.get_number_of_steps() == step
    options["trajectory"].close()
    assert optimizer.converged()
    with Trajectory(tmp_path / "opt.traj") as frames:
        assert len(frames) == optimizer.nsteps + 1
    assert (tmp_path / "opt.json").is_file()
    assert len((tmp_path / "opt.log").read_text().splitlines()) == optimizer.nsteps + 2


@pytest.mark.skipif(find_spec("dgl") is None or not M3GNET.is_dir(), reason="needs DGL and M3GNet")
@pytest.mark.filterwarnings("ignore:Please use atoms.calc:FutureWarning")  # in MatGL's own code
def test_matgl_relaxer(make_atoms, predictor):
    potential = get_calculator(f"m3gnet:{M3GNET}").potential
    from matgl.ext.ase import Relaxer

    result = Relaxer(potential, optimizer=DeepRelaxOptimizer).relax(
        make_atoms(calc=False), fmax=0.1, steps=4, predictor=predictor
    )
    assert predictor.asked == [True]
    energies = result["trajectory"].energies
    assert len(energies) == 6  # unrelaxed, predicted, three steps, and the Relaxer's own last look
    assert energies[1] < energies[0]


@pytest.mark.skipif(find_spec("chgnet") is None, reason="needs CHGNet")
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True:UserWarning")  # in CHGNet's own code
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit, beneath CHGNet
def test_chgnet_struct_optimizer(make_atoms, predictor):
    from chgnet.model.dynamics import StructOptimizer

    relaxer = StructOptimizer(get_calculator("chgnet", device="cpu"), optimizer_class=DeepRelaxOptimizer)
    result = relaxer.relax(make_atoms(calc=False), fmax=0.1, steps=3, predictor=predictor, verbose=False)
    assert predictor.asked == [True]
    energies = result["trajectory"].energies
    assert len(energies) == 5
    assert energies[1] < energies[0]
    assert np.isfinite(result["final_structure"].volume)


def test_molecule_in_a_library_is_refused(predictor):
    atoms = molecule("H2O")
    atoms.calc = EMT()
    with pytest.raises(MissingCellError):
        DeepRelaxPositions(atoms, logfile=None, predictor=predictor).run()
