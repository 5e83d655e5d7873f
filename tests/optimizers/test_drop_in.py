"""The optimizer inside other people's libraries: their own code where it is installed, their sequence of calls else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.io import Trajectory
from ase.optimize.optimize import Optimizer

from deeprelax_ase.calculators import (
    M3GNET_POTENTIAL,
    M3GNET_VARIABLE,
    get_calculator,
    model_for,
    potential_name,
)
from deeprelax_ase.errors import MissingCellError
from deeprelax_ase.graph.matgl_import import import_matgl, runs_on_dgl
from deeprelax_ase.models.registry import M3GNET_RELAX_MODEL
from deeprelax_ase.optimizers import DeepRelaxOptimizer, DeepRelaxPositions

EXAMPLES = Path(__file__).parents[2] / "examples" / "drop_in"
M3GNET = Path(__file__).parents[3] / "shared" / "models" / M3GNET_POTENTIAL


#: What the libraries, and what they import, warn of is no affair of ours.
of_others = pytest.mark.filterwarnings("ignore")


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


@pytest.fixture
def matcalc(monkeypatch):
    """MatCalc, which would ask the Hub for MatGL's models when it is imported, and imports MatGL."""
    if find_spec("matcalc") is None:
        pytest.skip("needs MatCalc: pip install matcalc")
    if find_spec("matgl") is not None:
        import_matgl()
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    import matcalc

    return matcalc


@of_others
@pytest.mark.parametrize("relax_cell", [True, False])
def test_matcalc(matcalc, make_atoms, predictor, minimum, tmp_path, relax_cell):
    class Ours(DeepRelaxPositions):
        def __init__(self, atoms):  # that MatCalc gives no more is part of the test
            super().__init__(atoms, predictor=predictor)

    file = str(tmp_path / "relax.traj")
    relaxation = matcalc.RelaxCalc(EMT(), optimizer=Ours, fmax=0.05, relax_cell=relax_cell, traj_file=file)
    atoms = make_atoms(calc=False)
    result = relaxation.calc(atoms)
    assert predictor.asked == [relax_cell]
    with Trajectory(file) as frames:
        energies = [frame.get_potential_energy() for frame in frames]
    assert energies[0] > energies[1] > energies[-1] == pytest.approx(result["energy"])
    assert np.linalg.norm(result["forces"], axis=1).max() < 1.1 * 0.05  # the filter's are those at its first cell
    volume = abs(np.linalg.det(minimum.cell)) if relax_cell else atoms.get_volume()
    assert result["volume"] == pytest.approx(volume, rel=5e-3 if relax_cell else 1e-9)


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
    lines = (tmp_path / "opt.log").read_text().splitlines()
    assert len(lines) == optimizer.nsteps + 3  # a heading, the start, and a line on the jump


@of_others
@pytest.mark.parametrize("relax_cell", [True, False])
def test_quacc(make_atoms, predictor, tmp_path, monkeypatch, relax_cell):
    pytest.importorskip("quacc", reason="needs quacc: pip install quacc")
    from quacc import change_settings
    from quacc.runners.ase import Runner

    monkeypatch.chdir(tmp_path)
    atoms, seen = make_atoms(calc=False), []
    cls = DeepRelaxOptimizer if relax_cell else DeepRelaxPositions
    with change_settings({"RESULTS_DIR": tmp_path / "results", "SCRATCH_DIR": tmp_path, "GZIP_FILES": False}):
        dynamics = Runner(atoms, EMT()).run_opt(
            relax_cell=relax_cell,
            fmax=0.05,
            optimizer=cls,
            optimizer_kwargs={"predictor": predictor},
            store_intermediate_results=True,
            fn_hook=lambda dynamics: seen.append(dynamics.nsteps),
        )
    assert predictor.asked == [relax_cell]
    assert isinstance(dynamics, cls)
    assert dynamics.converged()
    assert seen == list(range(dynamics.nsteps + 1))
    (results,) = {path.parent for path in tmp_path.rglob("opt.traj")}
    with Trajectory(results / "opt.traj") as frames:
        assert len(frames) == dynamics.nsteps + 1
        assert (frames[-1].cell == atoms.cell).all() != relax_cell
    assert {"opt.json", "opt.log"} <= {path.name for path in results.iterdir()}


@pytest.fixture
def matgl_potential(tmp_path, needs_matgl):
    """A potential of the installed MatGL's: M3GNet where it runs on DGL, and a small one of its own classes else."""
    if runs_on_dgl():
        if not M3GNET.is_dir():
            pytest.skip("needs M3GNet")
        return get_calculator(f"m3gnet:{M3GNET}").potential
    import_matgl()
    from matgl.apps.pes import Potential
    from matgl.models import M3GNet

    torch.manual_seed(0)
    network = M3GNet(element_types=("Cu", "Al", "Au"), is_intensive=False, units=8, nblocks=1)
    Potential(network, data_std=20.0).save(tmp_path / "mine")
    return get_calculator(str(tmp_path / "mine")).potential


@pytest.mark.filterwarnings("ignore:Please use atoms.calc:FutureWarning")  # in MatGL's own code
def test_matgl_relaxer(make_atoms, predictor, matgl_potential):
    from matgl.ext.ase import Relaxer

    result = Relaxer(matgl_potential, optimizer=DeepRelaxOptimizer).relax(
        make_atoms(calc=False), fmax=1e-4, steps=4, predictor=predictor
    )
    assert predictor.asked == [True]
    energies = result["trajectory"].energies
    assert len(energies) == 6  # unrelaxed, predicted, three steps, and the Relaxer's own last look
    assert energies[1] < energies[0] or not runs_on_dgl()  # nobody knows where that of our making has its minima


def test_matgl_calculator(make_atoms, predictor, matgl_potential):
    """MatGL's own ASE calculator, as its users make it."""
    from matgl.ext.ase import PESCalculator

    atoms = make_atoms(calc=False)
    atoms.calc = PESCalculator(matgl_potential, stress_unit="eV/A3", use_voigt=True)
    before = atoms.get_potential_energy()
    optimizer = DeepRelaxOptimizer(atoms, logfile=None, predictor=predictor)
    optimizer.run(fmax=0.01, steps=5)
    assert optimizer.prediction is not None
    assert atoms.get_potential_energy() < before
    assert atoms.info["deeprelax_potential"] == potential_name(atoms.calc)
    known = model_for(atoms.calc) == M3GNET_RELAX_MODEL
    assert known == runs_on_dgl()


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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "package"),
    [
        *[("matgl_relaxer", "dgl"), ("chgnet_relax", "chgnet"), ("matcalc_relax", "matcalc"), ("quacc_relax", "quacc")],
        ("atomate2_relax", "atomate2"),
    ],
)
def test_examples(tmp_path, name, package):
    """Each relaxes one crystal twice, the second time in fewer steps and to the same minimum."""
    if find_spec(package) is None or find_spec("chgnet") is None:
        pytest.skip(f"needs {package} and CHGNet")
    if name == "matgl_relaxer" and not (runs_on_dgl() and M3GNET.is_dir()):
        pytest.skip("needs MatGL on DGL, and M3GNet")
    paths = [str(EXAMPLES.parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, M3GNET_VARIABLE: str(M3GNET), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ":".join(paths)}
    command = [sys.executable, str(EXAMPLES / f"{name}.py")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^(\w+): (\d+) steps, (-\d+\.\d+) eV, (\d+\.\d+) Å³$", done.stdout, flags=re.MULTILINE)
    (_, steps, energy, volume), (ours, fewer, same, close) = found
    assert ours.startswith("DeepRelax")
    assert 1 <= int(fewer) < int(steps)
    assert float(same) == pytest.approx(float(energy), abs=2e-3)
    assert float(close) == pytest.approx(float(volume), rel=0.02)


def test_every_example_changes_one_line():
    for path in EXAMPLES.glob("*.py"):
        assert path.read_text().count("# the one line that changes") == 1, path
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {
        *("matgl_relaxer", "chgnet_relax", "matcalc_relax", "quacc_relax", "atomate2_relax")
    }
