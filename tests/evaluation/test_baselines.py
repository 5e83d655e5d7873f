"""Baselines that relax in batches."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from deeprelax_ase.calculators import AsePotential
from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import CalculatorError
from deeprelax_ase.evaluation.baselines import BASELINES, Limits, ase_optimizer, in_batches


def crystals() -> list[Crystal]:
    made = []
    for seed, (element, size) in enumerate([("Cu", 3.8), ("Al", 4.2)]):
        atoms = bulk(element, a=size, cubic=True)
        atoms.rattle(0.05, seed=seed)
        made.append(Crystal.of(atoms))
    return made


@pytest.mark.parametrize("limits", [Limits(fmax=0.05, steps=200), Limits(fmax=1e-9, steps=3)])
def test_each_takes_the_calls_that_it_takes_alone(limits: Limits) -> None:
    told: list[int] = []
    alone = ase_optimizer("FIRE", EMT, limits)(crystals(), lambda: None)
    made = in_batches("fire", AsePotential(EMT()), limits)(crystals(), lambda: told.append(1))
    assert (made.calls, made.converged, made.failed) == (alone.calls, alone.converged, 0)
    assert len(told) == 2
    for one, other in zip(made.crystals, alone.crystals, strict=True):
        np.testing.assert_allclose(one.positions, other.positions, atol=2e-3)
        np.testing.assert_allclose(one.cell, other.cell, atol=2e-3)


def test_a_crystal_that_fails_costs_itself() -> None:
    bad = Crystal.of(bulk("MgO", "rocksalt", a=4.2))  # EMT knows no Mg
    made = in_batches("fire", AsePotential(EMT()), Limits())([crystals()[0], bad], lambda: None)
    assert (made.failed, made.converged) == (1, 0.5)
    assert made.crystals[1] is bad
    assert made.crystals[0].volume == pytest.approx(4 * bulk("Cu", a=3.59).get_volume(), rel=0.01)


def test_nothing_to_relax() -> None:
    assert in_batches("fire", AsePotential(EMT()), Limits())([], lambda: None).crystals == []


def test_another_m3gnet_is_no_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of all versions of MatGL are about one potential."""
    other = EMT()
    other.weights_digest = "1a2b3c4d5e6f7a8b"
    monkeypatch.setattr("deeprelax_ase.calculators.get_calculator", lambda name: other)
    with pytest.raises(CalculatorError, match=r"'m3gnet' is emt 1a2b3c4d5e6f here: set DEEPRELAX_M3GNET"):
        BASELINES["fire"](Limits())


def test_matgls_relaxer_needs_matgl_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deeprelax_ase.evaluation.baselines.runs_on_dgl", lambda: False)
    with pytest.raises(CalculatorError, match=r"with MatGL 2 and DGL alone: pip install"):
        BASELINES["relaxer"](Limits())
