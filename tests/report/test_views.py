"""Drawings of a crystal before and after."""

from __future__ import annotations

import numpy as np
from ase.build import bulk

from deeprelax_ase import Predictor
from deeprelax_ase.report.views import before_and_after


def test_bonds_and_arrows_are_where_the_atoms_are() -> None:
    atoms = bulk("ZnS", "wurtzite", a=4.0, c=6.6)
    atoms.rattle(0.1, seed=1)
    atoms.positions[0] += atoms.cell[0] - 2 * atoms.cell[2]  # an atom in another cell is drawn in the first
    prediction = Predictor(device="cpu", recycles=1, members=1).predict(atoms)
    figure, longer = before_and_after(prediction.initial, prediction.relaxed, prediction.uncertainty)
    traces = {(trace.scene, trace.name): trace for trace in figure.data}
    moves = traces["scene", "moves"]
    ends = np.array([moves.x[1::3], moves.y[1::3], moves.z[1::3]]).T
    starts = np.array([moves.x[::3], moves.y[::3], moves.z[::3]]).T
    np.testing.assert_allclose(ends - starts, prediction.displacements * longer, atol=1e-9)
    fractional = np.linalg.solve(prediction.initial.cell.T, starts.T).T
    assert (fractional > -0.01).all()
    assert (fractional < 1).all()
    bonds = traces["scene2", "bonds"]
    lengths = np.linalg.norm(
        np.array([bonds.x[1::3], bonds.y[1::3], bonds.z[1::3]]) - np.array([bonds.x[::3], bonds.y[::3], bonds.z[::3]]),
        axis=0,
    )
    assert 2.0 < lengths.min() < 2.6  # Zn-S
    assert lengths.max() < 3.0
    assert len(bonds.line.color) == 3 * len(lengths)
    assert _holds_an_atom(figure, "scene2", bonds)


def _holds_an_atom(figure, scene: str, bonds) -> bool:
    """Whether each bond ends at an atom, of the crystal or a copy."""
    drawn = [t for t in figure.data if t.scene == scene and t.name in ("atoms", "copies")]
    atoms = np.concatenate([np.array([t.x, t.y, t.z]).T for t in drawn])
    ends = np.array([bonds.x, bonds.y, bonds.z]).T.reshape(-1, 3, 3)[:, :2].reshape(-1, 3)
    distances = np.linalg.norm(ends[:, None] - atoms, axis=2)
    return bool((distances.min(axis=1) < 1e-3).all())
