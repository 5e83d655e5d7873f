"""Predictions by several processes are those of one, in order, whatever becomes of a process."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

import deeprelax_ase
from deeprelax_ase.errors import MissingCellError, ModelError, StructureError, UncertainPredictionError
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.screening.many import relax_many
from deeprelax_ase.screening.options import RelaxOptions
from tests.killing import Killer
from tests.screening.conftest import some_crystals

MOLECULE = Atoms("H2", [[0, 0, 0], [0, 0, 1]])


def assert_as_alone(made: list, given: list) -> None:
    predictor = Predictor(members=1, recycles=1, device="cpu")
    assert len(made) == len(given)
    for prediction, atoms in zip(made, given, strict=True):
        alone = predictor.predict(atoms)
        np.testing.assert_allclose(prediction.relaxed.positions, alone.relaxed.positions, rtol=0, atol=1e-5)
        np.testing.assert_allclose(prediction.relaxed.cell, alone.relaxed.cell, rtol=0, atol=1e-5)
        assert prediction.uncertainty.total == pytest.approx(alone.uncertainty.total, abs=1e-5)


def test_it_is_public() -> None:
    assert deeprelax_ase.relax_many is relax_many


def test_in_order_and_bad_ones_yield_their_error(quick: RelaxOptions) -> None:
    given = some_crystals(7)
    made = list(relax_many([*given[:3], MOLECULE, *given[3:]], quick, workers=0))
    assert isinstance(made.pop(3), MissingCellError)
    assert_as_alone(made, given)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_processes_do_the_same_and_read_as_they_need(quick: RelaxOptions, workers: int) -> None:
    given, read = some_crystals(10), []
    locked = given[0].copy()
    locked.info["opened"] = threading.Lock()

    def structures() -> Iterator[Atoms]:
        for atoms in (*given[:3], MOLECULE, locked, *given[3:]):
            read.append(atoms)
            yield atoms

    stream = relax_many(structures(), quick, workers=workers, chunk=1)
    assert not read
    made = [next(stream)]
    assert len(read) <= 8
    made += stream
    unsent, molecule = made.pop(4), made.pop(3)
    assert isinstance(molecule, MissingCellError)
    assert isinstance(unsent, StructureError)
    assert "cannot be sent to another process" in str(unsent)
    assert_as_alone(made, given)


def test_wrong_options_show_at_once() -> None:
    with pytest.raises(ModelError):
        relax_many([], RelaxOptions(model="nothing"))
    assert list(relax_many([], RelaxOptions(members=1), workers=0)) == []


@pytest.mark.slow
def test_a_script_without_the_guard_is_told_what_is_missing(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from deeprelax_ase import relax_many\n"
        "from deeprelax_ase.screening import RelaxOptions\n"
        "print(list(relax_many([], RelaxOptions(members=1, recycles=1, device='cpu'), workers=1)))\n"
        "from ase.build import bulk\n"
        "list(relax_many([bulk('Cu')], RelaxOptions(members=1, recycles=1, device='cpu'), workers=1))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert "WorkerError" in done.stderr.splitlines()[-1]
    assert "under `if __name__ == '__main__':`" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_crystal_that_kills_its_process_yields_an_error(quick: RelaxOptions) -> None:
    given = some_crystals(9)
    made = list(relax_many([*given[:5], Killer(), *given[5:]], quick, workers=2, chunk=3))
    error = made.pop(5)
    assert isinstance(error, StructureError)
    assert "was killed" in str(error)
    assert_as_alone(made, given)


@pytest.mark.parametrize("on_uncertain", ["keep", "warn", "skip", "raise"])
def test_what_comes_of_uncertain_predictions(quick: RelaxOptions, on_uncertain: str) -> None:
    given = some_crystals(2)
    made = relax_many(given, replace(quick, max_uncertainty=1e-9, on_uncertain=on_uncertain), workers=0)
    with pytest.warns(UserWarning, match="is uncertain") if on_uncertain == "warn" else nullcontext() as told:
        found = list(made)
    if told is not None:
        assert [str(one.message).partition(" is uncertain: ")[0] for one in told] == [
            *("the prediction of structure 0", "the prediction of structure 1")
        ]
    for one, atoms in zip(found, given, strict=True):
        if on_uncertain == "raise":
            assert isinstance(one, UncertainPredictionError)
            continue
        assert one.judgement.status == one.to_atoms().info["deeprelax_status"] == "uncertain"
        assert np.array_equal(one.relaxed.cell, atoms.cell.array) is (on_uncertain == "skip")


@pytest.mark.parametrize("calculator", ["ase.calculators.emt:EMT", "tests.batched_emt:emt"])
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_under_a_calculator_they_are_finished(quick: RelaxOptions, calculator: str, workers: int) -> None:
    good = [bulk("Cu", a=3.7, cubic=True), bulk("Ag", a=4.2)]
    given = [good[0], Atoms("H2", [[0, 0, 0], [0, 0, 1]]), bulk("MgO", "rocksalt", a=4.2), good[1]]
    options = replace(quick, calculator=calculator, finish="fast", fmax=0.02)
    first, molecule, unknown, last = relax_many(given, options, workers=workers)
    for result, atoms in ((first, good[0]), (last, good[1])):
        assert (result.status, result.calculator) == ("converged", calculator)
        relaxed = result.to_atoms(atoms)
        relaxed.calc = EMT()
        assert result.energy == pytest.approx(relaxed.get_potential_energy(), abs=1e-6)
        assert np.abs(relaxed.get_forces()).max() < 0.02
        assert result.forces == pytest.approx(relaxed.get_forces().ravel(), abs=1e-5)
        assert "deeprelax_forces" not in relaxed.info
        assert result.force_calls >= 2
    assert molecule.status == "refused"
    assert unknown.status == "failed"
    assert "No EMT-potential for Mg" in unknown.reason
