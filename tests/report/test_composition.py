"""Elements and kinds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deeprelax_ase.report import outcome_of
from deeprelax_ase.report.composition import element_maps, kinds_of, periodic_place


@pytest.mark.parametrize(
    ("number", "place"),
    [(1, (1, 1)), (2, (18, 1)), (5, (13, 2)), (12, (2, 3)), (21, (3, 4)), (57, (3, 8)), (71, (3, 6)), (86, (18, 6))],
)
def test_elements_are_where_chemists_look_for_them(number: int, place: tuple[int, int]) -> None:
    assert periodic_place(number) == place


def test_each_place_is_taken_once() -> None:
    assert len({periodic_place(number) for number in range(1, 119)}) == 118


def test_elements_and_kinds_are_counted(screened: Path) -> None:
    outcome = outcome_of(screened / "out")
    assert outcome.present(12).tolist() == [True, False, False, False]
    assert {kind.name: kind.crystals for kind in kinds_of(outcome)} == {
        "oxides": 1,
        "halides": 1,
        "sulphides, selenides, tellurides": 1,
        "nitrides, phosphides, arsenides": 1,
    }
    caption, drawn = next(iter(element_maps(outcome).items()))
    assert caption == "Elements: crystals that hold each (pale 1, dark 1)"
    assert np.nansum(drawn.data[0].customdata[..., 0].astype(float)) == 8
