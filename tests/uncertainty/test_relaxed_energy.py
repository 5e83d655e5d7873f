"""Bounds on predicted energies of relaxed crystals."""

from __future__ import annotations

import numpy as np
import pytest

from deeprelax_ase.uncertainty.calibration import COVERAGE
from deeprelax_ase.uncertainty.kinds import DEFECT, KINDS
from deeprelax_ase.uncertainty.relaxed_energy import ENERGY_KINDS, EnergyLaw, RelaxedEnergy

NUMBER = 2000


def test_bounds_hold_for_nine_in_ten_of_each_kind():
    rng = np.random.default_rng(0)
    kinds, scales = np.repeat(np.arange(len(KINDS)), NUMBER), rng.uniform(0.01, 0.1, len(KINDS) * NUMBER)
    errors = scales * (1 + kinds) * rng.exponential(size=len(kinds))  # the network is more sure of some than it may be
    fitted, held = np.arange(len(kinds)) % 2 == 0, np.arange(len(kinds)) % 2 == 1
    law = EnergyLaw.fit("some potential", errors[fitted], scales[fitted], kinds[fitted])
    bounds = law.bounds(scales, kinds)
    for kind in range(len(ENERGY_KINDS)):
        own = held & (kinds == kind)
        assert (errors[own] <= bounds[own]).mean() == pytest.approx(COVERAGE, abs=0.03)


def test_kinds_without_crystals_share_the_factor_of_all():
    errors, kinds = np.arange(1.0, 101.0), np.arange(100) // 50  # bulk up to 50, oxides up to 100
    law = EnergyLaw.fit("some potential", errors, np.ones(100), kinds)
    assert law.factors == (46.0, 96.0, 91.0, 91.0)
    with pytest.raises(ValueError, match="no crystals to fit the bounds"):
        EnergyLaw.fit("some potential", *np.zeros((3, 0)))


def test_energies_are_read_with_the_factor_of_their_kind():
    law = EnergyLaw("some potential", (2.0, 3.0, 4.0, 5.0))
    bulk, slab, held = law.read(np.array([-1.0, -2.0, np.nan]), np.full(3, 0.01), np.array([0, 3, DEFECT]))
    assert bulk == RelaxedEnergy(-1.0, 0.02, "some potential")
    assert slab is not None
    assert slab.interval == pytest.approx((-2.05, -1.95))
    assert held is None


def test_a_card_tells_a_law_or_nothing():
    told = {"potential": "some potential", "factors": dict.fromkeys(ENERGY_KINDS, 2.5)}
    assert EnergyLaw.of_card(told) == EnergyLaw("some potential", (2.5,) * len(ENERGY_KINDS))
    assert EnergyLaw.of_card({}) is None
    with pytest.raises(KeyError):
        EnergyLaw.of_card({"potential": "some potential", "factors": {"bulk": 2.0}})


@pytest.mark.parametrize("factor", [-1.0, 0.0, float("nan"), float("inf")])
def test_a_factor_that_is_no_bound_is_refused(factor: float):
    factors = dict.fromkeys(ENERGY_KINDS, 2.0) | {ENERGY_KINDS[0]: factor}
    with pytest.raises(ValueError, match=ENERGY_KINDS[0]):
        EnergyLaw.of_card({"potential": "Nequix-OAM-1", "factors": factors})
