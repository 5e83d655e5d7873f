"""Crystals with and without symmetry, and what it means that two predictions are the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.prediction.record import Prediction
from deeprelax_ase.uncertainty.features import step_sizes

#: A model of each architecture.
END_TO_END, BY_DISTANCES = "DeepRelax-PBE", "DeepRelax-PBE-v0"


def rotation(seed: int) -> np.ndarray:
    """A random proper rotation."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def rattled(atoms: Atoms, seed: int, *, displacement: float = 0.1, strain: float = 0.02) -> Crystal:
    rng = np.random.default_rng(seed)
    cell = atoms.cell.array @ (np.eye(3) + strain * rng.normal(size=(3, 3)))
    positions = atoms.get_scaled_positions() @ cell + displacement * rng.normal(size=(len(atoms), 3))
    return Crystal(atoms.numbers, positions, cell)


def perovskite(formula: str = "SrTiO3", a: float = 3.95) -> Atoms:
    sites = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    return Atoms(formula, scaled_positions=sites, cell=[a] * 3, pbc=True)


CRYSTALS = {
    "perovskite": Crystal.of(perovskite()),
    "rocksalt": Crystal.of(bulk("NaCl", "rocksalt", a=5.5)),
    "hcp": Crystal.of(bulk("Mg")),
    "wurtzite": Crystal.of(bulk("ZnS", "wurtzite", a=3.8, c=6.2)),
    "rattled perovskite": rattled(perovskite("CaMnO3", 3.8), 1),
    "rattled rocksalt": rattled(bulk("MgO", "rocksalt", a=4.4, cubic=True), 2),
    "triclinic": Crystal(
        [22, 8, 8, 38],
        [[0.1, 0.2, 0.3], [2.1, 0.4, 0.9], [0.3, 2.6, 1.1], [2.0, 2.7, 3.9]],
        [[4.1, 0.0, 0.0], [1.3, 4.7, 0.0], [-0.9, 1.1, 5.6]],
    ),
}
SYMMETRIC = ["perovskite", "rocksalt", "hcp"]
DISTORTED = ["rattled perovskite", "rattled rocksalt", "triclinic"]
every_crystal = pytest.mark.parametrize("crystal", CRYSTALS.values(), ids=CRYSTALS)


def assert_same(a: Prediction, b: Prediction, *, atol: float, order: np.ndarray | slice = slice(None)) -> None:
    """The same relaxed crystal, uncertainty and error features, with the atoms of ``a`` taken in ``order``."""
    np.testing.assert_allclose(b.relaxed.cell, a.relaxed.cell, rtol=0, atol=atol)
    np.testing.assert_allclose(b.relaxed.positions, a.relaxed.positions[order], rtol=0, atol=atol)
    np.testing.assert_allclose(b.uncertainty.per_atom, a.uncertainty.per_atom[order], rtol=0, atol=atol)
    for name in ("total", "aleatoric", "epistemic"):
        assert getattr(b.uncertainty, name) == pytest.approx(getattr(a.uncertainty, name), rel=0, abs=atol)
    assert (a.features is None) == (b.features is None)
    if a.features is not None:
        assert vars(b.features) == pytest.approx(vars(a.features), rel=0, abs=atol)


def step_between(initial: Crystal, relaxed: Crystal) -> float:
    """Å, how far the atoms of ``initial`` move to ``relaxed``."""
    start, end = (torch.tensor(crystal.fractional_positions) for crystal in (initial, relaxed))
    cell, batch = torch.tensor(relaxed.cell)[None], torch.zeros(len(initial), dtype=torch.long)
    return float(step_sizes(start, end, cell, batch)[0])
