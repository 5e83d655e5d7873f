"""``compare=``: the other way down is gone too, and the lower minimum kept."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import read
from ase.optimize import BFGS

from deeprelax_ase.crystal import Crystal
from tests.optimizers.helpers import CountingEMT, assert_at, quiet

FMAX = 0.01


def ordered(*gold: int) -> Atoms:
    """Eight atoms of an fcc lattice, two of them gold: numbers 0 and 1, at the sites ``gold``."""
    sites = bulk("Cu", cubic=True, a=3.75) * (1, 1, 2)
    others = [k for k in range(8) if k not in gold]
    return Atoms("Au2Cu6", sites.positions[[*gold, *others]], cell=sites.cell, pbc=True)


#: Gold atoms that touch, and that do not, as in Cu3Au: 0.01 eV/atom lower.
TOUCHING, APART = (0, 1), (0, 4)


@pytest.fixture
def relax(stand_in):
    """Relaxes from gold atoms at one pair of sites, with a jump to where they are at the other."""

    def run(start, predicted, steps: int = 200, **kwargs):
        atoms = ordered(*start)
        atoms.positions += 0.15 * np.random.default_rng(2).normal(size=(8, 3))
        before = atoms.copy()
        atoms.calc = CountingEMT()
        predictor = stand_in(Crystal.from_atoms(ordered(*predicted)))
        with quiet(atoms, predictor, finish="fast", relax_cell=False, **kwargs) as optimizer:
            converged = optimizer.run(fmax=FMAX, steps=steps)
        return optimizer, atoms, before, converged

    return run


def plainly(start: Atoms) -> tuple[float, int]:
    """Energy, and number of calls, of BFGS from the start."""
    start.calc = CountingEMT()
    assert BFGS(start, logfile=None).run(fmax=FMAX, steps=200)
    return start.get_potential_energy(), start.calc.calls


def test_a_jump_to_a_higher_minimum_is_found_out(relax):
    _, misled, before, _ = relax(APART, TOUCHING)
    energy, _ = plainly(before)
    assert misled.get_potential_energy() > energy + 0.02
    optimizer, atoms, _, converged = relax(APART, TOUCHING, compare="bfgs")
    assert converged
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-9)
    assert optimizer.decision.outcome == atoms.info["deeprelax_jump"] == "rejected"
    assert "BFGS from the start ends 0.0" in optimizer.decision.reason
    assert atoms.info["deeprelax_status"] == "converged"


def test_a_jump_to_a_lower_minimum_stays(relax):
    _, expected, before, _ = relax(TOUCHING, APART)
    energy, _ = plainly(before)
    assert expected.get_potential_energy() < energy - 0.02
    optimizer, atoms, _, converged = relax(TOUCHING, APART, compare="bfgs")
    assert converged
    assert_at(atoms, expected, atol=1e-12)
    assert optimizer.decision.outcome == "kept"
    assert "; BFGS from the start ends at +0.0" in optimizer.decision.reason
    assert atoms.info["deeprelax_status"] == "converged"


@pytest.mark.parametrize(("start", "predicted"), [(APART, TOUCHING), (TOUCHING, APART), (APART, APART)])
def test_it_costs_what_the_other_way_costs(relax, start, predicted, tmp_path):
    alone, one_way, before, _ = relax(start, predicted)
    _, calls = plainly(before)
    optimizer, atoms, _, _ = relax(start, predicted, compare="bfgs", trajectory=tmp_path / "relax.traj")
    assert atoms.calc.calls == one_way.calc.calls + calls - 1  # the start is known
    assert optimizer.nsteps == alone.nsteps + calls - 1 + 1  # and the return
    frames = read(tmp_path / "relax.traj", index=":")
    assert len(frames) == optimizer.nsteps + 1
    assert_at(frames[-1], atoms)


def test_where_the_other_way_does_not_end_the_jump_stays(relax):
    alone, expected, _, _ = relax(APART, TOUCHING)
    optimizer, atoms, _, converged = relax(APART, TOUCHING, compare="bfgs", steps=alone.nsteps + 2)
    assert converged
    assert_at(atoms, expected, atol=1e-12)
    assert optimizer.decision.reason.endswith("BFGS from the start does not come to rest")


def test_a_jump_that_was_taken_back_is_not_compared(make_atoms, near, stand_in):
    atoms = make_atoms(calc=False)
    atoms.calc = CountingEMT()
    uphill = stand_in(near.with_geometry(near.positions + 0.8 * np.eye(4, 3), near.cell))
    optimizer = quiet(atoms, uphill, relax_cell=False, compare="bfgs")
    assert optimizer.run(fmax=0.05)
    assert optimizer.decision.outcome == "rejected"
    assert atoms.calc.calls == optimizer.nsteps + 1
    assert "BFGS" not in optimizer.decision.reason


@pytest.mark.parametrize("kwargs", [{"finish": None}, {"restart": "relax.json"}])
def test_it_needs_a_finish_and_no_restart(make_atoms, predictor, kwargs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"compare='fire' needs a finish .* does not go with restart="):
        quiet(make_atoms(), predictor, compare="fire", **kwargs)


def test_it_needs_an_optimizer(make_atoms, predictor):
    with pytest.raises(ValueError, match="step by step"):
        quiet(make_atoms(), predictor, compare="nonsense")


def test_left_in_the_middle_it_goes_back_to_the_jumps_minimum(relax, stand_in):
    _, landed, before, _ = relax(APART, TOUCHING)
    atoms = before.copy()
    atoms.calc = calculator = CountingEMT()
    predictor = stand_in(Crystal.from_atoms(ordered(*TOUCHING)))
    with quiet(atoms, predictor, finish="fast", relax_cell=False, compare="bfgs") as optimizer:
        steps = optimizer.irun(fmax=FMAX, steps=200)
        while not next(steps):
            pass
        for _ in range(3):
            assert next(steps) is False
        assert np.abs(atoms.positions - landed.positions).max() > 0.01
        steps.close()
    assert_at(atoms, landed, atol=1e-12)
    assert atoms.calc is calculator
