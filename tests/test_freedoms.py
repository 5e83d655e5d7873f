"""What people fix stays fixed, through every door, and the page says so cell by cell."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from tests.freedoms import DOORS, pass_through, printed
from tests.what_is_fixed import FREEDOMS, End, enthalpy, lowest, word

pytest.importorskip("pyarrow")

pytestmark = pytest.mark.filterwarnings("ignore")  # of jobflow, Ray and spglib

#: Doors that need more than the package: they take their time to start.
SLOW = {"Ray Data": "ray", "jobflow": "jobflow"}
#: Doors that relax one by one by what `deeprelax screen` calls too, or what calls it.
BEHIND_OTHERS = {"`relax_many`", "`relax_many`, calculator", "`deeprelax relax`, calculator"}

#: What is kept in batches in ways of its own; those of the others are tested in tests/optimizers/batched.
BATCHED = {"mask and constant volume", "kept symmetry", "pressure"}


def doors(*, finishes: bool) -> list:
    return [
        pytest.param(name, marks=[pytest.mark.slow] if name.split(",")[0] in SLOW or name in BEHIND_OTHERS else [])
        for name, door in DOORS.items()
        if door.finishes is finishes
    ]


def needs(door: str) -> None:
    if (module := SLOW.get(door.split(",")[0])) is not None:
        pytest.importorskip(module)


@cache
def first(freedom: str, *, finishes: bool = False) -> End:
    """Where the door leaves it that the others are held against."""
    return pass_through("`DeepRelaxOptimizer`, calculator" if finishes else "`Predictor.predict`", freedom)


@cache
def lowest_of(freedom: str) -> float:
    """Where ASE's own filter leads, eV."""
    return lowest(FREEDOMS[freedom])


@pytest.mark.parametrize("freedom", FREEDOMS)
@pytest.mark.parametrize("door", doors(finishes=False))
def test_without_a_calculator_every_door_says_what_the_page_says_in_the_same_numbers(door: str, freedom: str):
    needs(door)
    end = pass_through(door, freedom)
    assert word(freedom, end) == printed()[door, freedom], "run python -m tests.freedoms"
    if not end.refused:
        np.testing.assert_allclose(end.positions, first(freedom).positions, rtol=0, atol=2e-6)
        np.testing.assert_allclose(end.cell, first(freedom).cell, rtol=0, atol=2e-6)
    else:
        assert first(freedom).refused in end.refused.replace("\n", " ")


@pytest.mark.parametrize("freedom", FREEDOMS)
@pytest.mark.parametrize("door", doors(finishes=True))
def test_with_a_calculator_it_ends_where_ase_does(door: str, freedom: str):
    needs(door)
    end = pass_through(door, freedom)
    assert word(freedom, end) == printed()[door, freedom], "run python -m tests.freedoms"
    if freedom == "mask and constant volume":  # of which ASE's filter loses the volume
        return
    assert enthalpy(FREEDOMS[freedom], end) == pytest.approx(lowest_of(freedom), abs=5e-4)


@pytest.mark.parametrize(
    "freedom",
    [name if name in BATCHED else pytest.param(name, marks=pytest.mark.slow) for name in FREEDOMS],
)
@pytest.mark.parametrize(
    "door", [pytest.param("`deeprelax relax`, calculator", marks=pytest.mark.slow), "`deeprelax screen`, calculator"]
)
def test_many_at_once_are_kept_as_one_by_one(door: str, freedom: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tests.freedoms.CALCULATOR", "tests.batched_emt:emt")
    monkeypatch.setattr("tests.freedoms.FINISH", "fast")
    end = pass_through(door, freedom)
    assert word(freedom, end) == printed()[door, freedom]
    expected = enthalpy(FREEDOMS[freedom], first(freedom, finishes=True))
    assert enthalpy(FREEDOMS[freedom], end) == pytest.approx(expected, abs=5e-4)


@pytest.mark.slow
def test_ases_filter_loses_the_volume_under_a_mask_and_ours_does_not():
    """The lowest energy of the mask alone is where ASE's filter goes that is to keep the volume too."""
    name = "mask and constant volume"
    mask = lowest_of("a mask of the strain")
    assert lowest_of(name) == pytest.approx(mask, abs=1e-4)
    assert enthalpy(FREEDOMS[name], first(name, finishes=True)) > mask + 0.02


def test_the_page_has_every_door_and_every_freedom():
    assert set(printed()) == {(door, freedom) for door in DOORS for freedom in FREEDOMS}
    assert set(printed().values()) == {"kept", "refused"}
    assert {freedom for (_, freedom), said in printed().items() if said == "refused"} == {"pressure"}
