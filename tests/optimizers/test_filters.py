"""The cell filter that computes its gradient once a step: that of ASE's, whatever changes in between."""

from __future__ import annotations

import numpy as np
import pytest
from ase.filters import FrechetCellFilter

from deeprelax_ase.optimizers.filters import RememberingCellFilter

CHANGES = {
    "positions": lambda target: target.atoms.positions.__setitem__((0, 1), 0.2),
    "cell": lambda target: target.atoms.set_cell(1.01 * target.atoms.cell, scale_atoms=True),
    "its own step": lambda target: target.set_positions(target.get_positions() + 0.01),
    "orig_cell": lambda target: setattr(target, "orig_cell", 1.02 * target.orig_cell),
    "mask": lambda target: target.mask.__setitem__((0, 0), 0),
    "pressure": lambda target: setattr(target, "scalar_pressure", 0.1),
    "hydrostatic": lambda target: setattr(target, "hydrostatic_strain", True),
    "constant volume": lambda target: setattr(target, "constant_volume", True),
    "factor": lambda target: setattr(target, "exp_cell_factor", 2.0),
}


@pytest.fixture
def computed(monkeypatch) -> list:
    """Grows with each gradient that is computed, ours in closed form or ASE's."""
    seen = []

    def counted(compute):
        def wrapped(self, *args, **kwargs):
            seen.append(self)
            return compute(self, *args, **kwargs)

        return wrapped

    monkeypatch.setattr(FrechetCellFilter, "get_forces", counted(FrechetCellFilter.get_forces))
    monkeypatch.setattr(FrechetCellFilter, "deform_grad", counted(FrechetCellFilter.deform_grad))
    return seen


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("limits", [{}, {"mask": [1, 1, 0, 0, 0, 1]}, {"hydrostatic_strain": True}], ids=str)
def test_it_has_the_gradient_of_ases_filter(make_atoms, change, limits):
    ours, theirs = RememberingCellFilter(make_atoms(), **limits), FrechetCellFilter(make_atoms(), **limits)
    before = ours.get_forces()
    np.testing.assert_allclose(before, theirs.get_forces(), rtol=0, atol=1e-12)
    for target in (ours, theirs):
        CHANGES[change](target)
    after = ours.get_forces()
    if change == "constant volume" and limits.get("mask"):  # ASE would stretch what the mask keeps
        assert np.trace(after[-3:]) == pytest.approx(0, abs=1e-12)
        assert after[-1, -1] == pytest.approx(0, abs=1e-12)
    else:
        np.testing.assert_allclose(after, theirs.get_forces(), rtol=0, atol=1e-12)
        np.testing.assert_allclose(ours.stress, theirs.stress, rtol=0, atol=1e-12)


@pytest.mark.parametrize("turned", [False, True])
def test_it_has_the_positions_of_ases_filter(make_atoms, turned):
    ours, theirs = RememberingCellFilter(make_atoms()), FrechetCellFilter(make_atoms())
    stretch = np.array([[0.01, 0.02, 0.0], [0.0 if turned else 0.02, -0.03, 0.01], [0.0, 0.01, 0.02]])
    for target in (ours, theirs):
        target.atoms.set_cell(target.atoms.cell.array @ (np.eye(3) + stretch), scale_atoms=True)
    np.testing.assert_allclose(ours.get_positions(), theirs.get_positions(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("change", [name for name in CHANGES if name != "hydrostatic"])
def test_it_follows_a_change(make_atoms, change):
    target = RememberingCellFilter(make_atoms())
    before = target.get_forces()
    CHANGES[change](target)
    assert np.abs(target.get_forces() - before).max() > 1e-4


def test_it_is_computed_once(make_atoms, computed):
    target = RememberingCellFilter(make_atoms())
    first = target.get_forces()
    first[:] = 0  # the caller's to do with as he likes
    assert np.abs(target.get_forces()).max() > 0.1
    assert len(computed) == 1
