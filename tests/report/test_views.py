"""Drawings of a crystal before and after."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from ase.build import bulk

from deeprelax_ase import Prediction, Predictor
from deeprelax_ase.report.views import before_and_after


def test_bonds_and_arrows_are_where_the_atoms_are() -> None:
    atoms = bulk("ZnS", "wurtzite", a=4.0, c=6.6)
    atoms.rattle(0.1, seed=1)
    atoms.positions[0] += atoms.cell[0] - 2 * atoms.cell[2]  # an atom in another cell is drawn in the first
    prediction = Predictor(device="cpu", recycles=1, members=1).predict(atoms)
    scene, longer = before_and_after(prediction.initial, prediction.relaxed, prediction.uncertainty)
    before, after = scene["views"]
    moves = np.array(before["arrows"])
    np.testing.assert_allclose(moves[:, 3:] - moves[:, :3], prediction.displacements * longer, atol=2e-4)
    fractional = np.linalg.solve(prediction.initial.cell.T, moves[:, :3].T).T
    assert (fractional > -0.01).all()
    assert (fractional < 1).all()
    ends = np.array([bond[:6] for bond in after["bonds"]])
    lengths = np.linalg.norm(ends[:, 3:] - ends[:, :3], axis=1)
    assert 2.0 < lengths.min() < 2.6  # Zn-S
    assert lengths.max() < 3.0
    assert all(bond[7].startswith(f"{length:.3f}"[:4]) for bond, length in zip(after["bonds"], lengths, strict=True))
    assert {bond[6] for bond in after["bonds"]} <= set(scene["scale"]["colours"])
    atoms = np.array([atom[1:4] for atom in after["atoms"]])
    apart = np.linalg.norm(ends.reshape(-1, 1, 3) - atoms, axis=2)
    assert apart.min(axis=1).max() < 1e-3  # each bond ends at an atom, of the crystal or a copy


def test_bonds_that_are_alike_have_one_colour_and_others_have_many() -> None:
    predictor = Predictor(device="cpu", recycles=1, members=1)
    salt = predictor.predict(bulk("MgO", "rocksalt", a=4.5, cubic=True))
    scale, colours = _scale_and_colours(salt)
    assert float(scale["high"]) - float(scale["low"]) >= 0.0099
    assert len(colours) == 1
    uneven = np.where(np.arange(len(salt.uncertainty.bonds)) % 2, 0.02, 0.3)
    scale, colours = _scale_and_colours(replace(salt, uncertainty=replace(salt.uncertainty, per_bond=uneven)))
    assert (scale["low"], scale["high"]) == ("0.020", "0.300")
    assert colours == {scale["colours"][0], scale["colours"][-1]}


def _scale_and_colours(prediction: Prediction) -> tuple[dict, set[str]]:
    scene, _ = before_and_after(prediction.initial, prediction.relaxed, prediction.uncertainty)
    return scene["scale"], {bond[6] for bond in scene["views"][1]["bonds"]}
