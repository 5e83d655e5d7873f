"""Finishes of many crystals that are interrupted, and gone on with by the same call."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixSymmetry

from deeprelax_ase.optimizers import finish_atoms
from deeprelax_ase.optimizers.restart import RestartFolder
from deeprelax_ase.prediction.allowed_strain import AllowedStrain
from tests.optimizers.helpers import CountingEMT

OPTIONS = {"finish": "bfgs", "fmax": 0.005}
CELLS = {"free": None, "masked": AllowedStrain((1, 1, 0, 0, 0, 1)), "kept": False}


@pytest.fixture
def interrupted(make_atoms, predictor, tmp_path):
    """Interrupts a finish at a call; the folder that is left, and what it would have come to."""

    def interrupt(**options) -> tuple[Path, Atoms, int]:
        whole = CountingEMT()
        _, end = finish_atoms(make_atoms(calc=False), predictor, whole, **OPTIONS, **options)
        broken, folder = CountingEMT(at=5, then=KeyboardInterrupt()), tmp_path / "restart"
        with pytest.raises(KeyboardInterrupt):
            finish_atoms(make_atoms(calc=False), predictor, broken, restart=RestartFolder(folder), **OPTIONS, **options)
        return folder, end, whole.calls

    return interrupt


@pytest.mark.parametrize("relax_cell", CELLS.values(), ids=CELLS)
def test_it_goes_on_from_its_last_step(make_atoms, predictor, interrupted, relax_cell):
    folder, end, calls = interrupted(relax_cell=relax_cell)
    calculator, kept = CountingEMT(), RestartFolder(folder)
    result, atoms = finish_atoms(
        make_atoms(calc=False), predictor, calculator, restart=kept, relax_cell=relax_cell, **OPTIONS
    )
    assert result.status == "converged"
    assert result.jump == "kept"
    assert result.force_calls == calculator.calls <= calls - 3  # those of the first call but the one that was lost
    np.testing.assert_allclose(atoms.positions, end.positions, rtol=0, atol=1e-9)
    np.testing.assert_allclose(atoms.cell.array, end.cell.array, rtol=0, atol=1e-9)
    assert len(list(folder.iterdir())) == 2
    kept.clear()
    assert list(folder.iterdir()) == []


def test_a_crystal_that_is_done_costs_one_call(make_atoms, predictor, tmp_path):
    for calls in (None, 1):
        calculator, folder = CountingEMT(), RestartFolder(tmp_path)
        result, _ = finish_atoms(make_atoms(calc=False), predictor, calculator, restart=folder, **OPTIONS)
        assert result.status == "converged"
        assert calls is None or calculator.calls == calls


@pytest.mark.parametrize(
    "other",
    [pytest.param({"finish": "fire"}, marks=pytest.mark.slow), {"relax_cell": False}, {"calculator_name": "another"}],
)
def test_what_is_asked_otherwise_begins_anew(make_atoms, predictor, interrupted, other):
    folder, *_ = interrupted()
    expected, _ = finish_atoms(make_atoms(calc=False), predictor, CountingEMT(), **{**OPTIONS, **other})
    options = {**OPTIONS, **other, "restart": RestartFolder(folder)}
    result, _ = finish_atoms(make_atoms(calc=False), predictor, CountingEMT(), **options)
    assert result.force_calls == expected.force_calls


@pytest.mark.parametrize("damage", ["cut", "empty", "no record"])
def test_damaged_files_begin_anew(make_atoms, predictor, interrupted, damage):
    folder, end, calls = interrupted()
    (trajectory,), (record,) = folder.glob("*.traj"), folder.glob("*.json")
    if damage == "no record":
        record.unlink()
    else:
        trajectory.write_bytes(trajectory.read_bytes()[: 100 if damage == "cut" else 0])
    options = {**OPTIONS, "restart": RestartFolder(folder)}
    result, atoms = finish_atoms(make_atoms(calc=False), predictor, CountingEMT(), **options)
    assert result.force_calls == calls
    np.testing.assert_allclose(atoms.positions, end.positions, rtol=0, atol=1e-9)


def test_symmetry_is_held_when_it_goes_on(make_atoms, predictor, interrupted):
    folder, end, _ = interrupted(keep_symmetry=True)
    options = {**OPTIONS, "restart": RestartFolder(folder), "keep_symmetry": True}
    _, atoms = finish_atoms(make_atoms(calc=False), predictor, CountingEMT(), **options)
    np.testing.assert_allclose(atoms.positions, end.positions, rtol=0, atol=1e-9)
    assert not any(isinstance(held, FixSymmetry) for held in atoms.constraints)
