"""Crystals that were once predicted wrongly, and said to be right."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from ase import Atom, Atoms
from ase.build import bulk
from ase.constraints import FixAtoms
from ase.data import covalent_radii
from ase.io import read, write
from ase.neighborlist import neighbor_list
from pymatgen.io.ase import AseAtomsAdaptor
from typer.testing import CliRunner

from deeprelax_ase.cli import app
from deeprelax_ase.errors import DeepRelaxError
from deeprelax_ase.prediction.judgement import judge
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.prediction.status import ACCEPTED
from deeprelax_ase.screening import RelaxOptions, relax_many


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(device="cpu", members=1, recycles=1)


def test_an_interstitial_too_near_is_no_crystal_with_colliding_atoms(predictor):
    def interstitial(seed: int) -> Atoms:
        away = np.random.default_rng(seed).normal(size=3)
        atoms = bulk("Si", cubic=True)
        atoms.append(Atom("Si", atoms.positions[0] + 0.52 * away / np.linalg.norm(away)))
        return atoms

    for made in predictor.predict_many([interstitial(seed) for seed in range(6)]):
        if not isinstance(made, DeepRelaxError):
            nearest = neighbor_list("d", made.relaxed.to_atoms(), 3.0).min()
            assert nearest > 0.5 * 2 * covalent_radii[14]


@pytest.mark.slow
def test_a_vacancy_is_never_said_to_be_relaxed_without_a_reason():
    atoms = bulk("MgO", "rocksalt", a=4.25, cubic=True).repeat(2)
    del atoms[0]
    made = Predictor(device="cpu").predict(atoms)
    judgement = judge(made)
    moved = np.abs(made.displacements).max() > 0.02
    assert moved or (judgement.status != ACCEPTED and judgement.reason)


def fixed() -> Atoms:
    return bulk("NaCl", "rocksalt", a=5.5)


def _by_relax_many(atoms: Atoms, predictor: Predictor) -> object:
    options = RelaxOptions(device="cpu", members=1, recycles=1)
    return next(relax_many([atoms], options, workers=0))


#: What predicts crystals by the thousand, by name.
WAYS: dict[str, Callable] = {
    "predict_many": lambda atoms, predictor: next(predictor.predict_many([atoms])),
    "relax_many": _by_relax_many,
    "pymatgen": lambda atoms, predictor: next(predictor.predict_many([AseAtomsAdaptor.get_structure(atoms)])),
}


@pytest.mark.parametrize("way", WAYS)
def test_fixed_atoms_are_kept_by_whatever_predicts(predictor, way):
    atoms = fixed()
    atoms.positions[1] += 0.1
    free = WAYS[way](atoms, predictor).displacements
    atoms.set_constraint(FixAtoms([1]))
    kept = WAYS[way](atoms, predictor).displacements
    np.testing.assert_allclose(kept[1], 0, atol=1e-12)
    np.testing.assert_allclose(kept[0] - kept[1], free[0] - free[1], atol=1e-9)


@pytest.mark.parametrize("ending", ["extxyz", "json", "db", "traj", "cif"])
def test_what_is_no_element_costs_its_row_whatever_the_format(tmp_path, ending):
    """Numbers that no symbol is written for; the results of the others are all there."""
    sound = [bulk("NaCl", "rocksalt", a=a) for a in (5.5, 5.6)]
    frame = '2\nLattice="0 2 2 2 0 2 2 2 0" Properties=Z:I:1:pos:R:3 pbc="T T T"\n268 0 0 0\n264 2 0 0\n'
    for number, atoms in enumerate(sound):
        write(tmp_path / f"{number}.extxyz", atoms)
    first, last = ((tmp_path / f"{number}.extxyz").read_text() for number in (0, 1))
    (tmp_path / "in.extxyz").write_text(first + frame + last)
    out = tmp_path / f"out.{ending}"
    options = ["--device", "cpu", "--members", "1", "--recycles", "1"]
    result = CliRunner().invoke(app, ["relax", str(tmp_path / "in.extxyz"), "-o", str(out), *options])
    assert result.exit_code == 1, result.output
    assert "268" in result.output
    made = [atoms for atoms in read(out, ":") if max(atoms.numbers) <= 118]
    assert [len(atoms) for atoms in made] == [2, 2]
