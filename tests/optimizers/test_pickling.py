"""Optimizers can be pickled, as ASE's can from 3.27 on; before, those keep their log open."""

from __future__ import annotations

import pickle

import ase
import pytest
from ase.calculators.lj import LennardJones
from packaging.version import Version

from tests.optimizers.helpers import assert_at, quiet

pytestmark = pytest.mark.skipif(Version(ase.__version__) < Version("3.27"), reason="ASE's own cannot be pickled")


@pytest.mark.parametrize("steps", [0, 1, 4])
@pytest.mark.parametrize("finish", ["fire", "fast", None])
def test_it_goes_on_as_the_original(make_atoms, predictor, finish, steps):
    atoms = make_atoms(calc=False)
    atoms.calc = LennardJones(sigma=2.3, epsilon=0.3, rc=6.0)  # EMT cannot be pickled once it was used
    optimizer = quiet(atoms, predictor, finish=finish)
    optimizer.run(fmax=1e-6, steps=steps)
    copy = pickle.loads(pickle.dumps(optimizer))
    for one in (optimizer, copy):
        one.run(fmax=1e-6, steps=3)
    assert copy.nsteps == optimizer.nsteps
    assert copy.decision == optimizer.decision
    assert_at(copy.atoms, atoms, atol=1e-12)
    assert copy.atoms is not atoms


def test_after_a_restart(make_atoms, predictor, tmp_path):
    for _ in range(2):
        atoms = make_atoms(calc=False)
        atoms.calc = LennardJones(sigma=2.3, epsilon=0.3, rc=6.0)
        optimizer = quiet(atoms, predictor, finish="bfgs", restart=tmp_path / "relax.json")
        optimizer.run(fmax=1e-6, steps=3)
        assert pickle.loads(pickle.dumps(optimizer)).decision == optimizer.decision
