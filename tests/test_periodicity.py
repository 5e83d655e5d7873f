"""Periodic directions, told by truth values or in words."""

from __future__ import annotations

import numpy as np
import pytest

from deeprelax_ase.errors import BrokenStructureError
from deeprelax_ase.periodicity import periodic_directions


@pytest.mark.parametrize("given", ["T T F", ["True", "1", "false"], np.array(["t", "T", "F"]), [1, 1, 0]])
def test_in_words(given: object) -> None:
    assert periodic_directions(given).tolist() == [True, True, False]


@pytest.mark.parametrize(("given", "all_repeat"), [(True, True), ("F", False), (["T"] * 3, True), (np.False_, False)])
def test_one_for_all(given: object, all_repeat: bool) -> None:
    assert periodic_directions(given).tolist() == [all_repeat] * 3


@pytest.mark.parametrize("given", ["yes", ["T", "T", "?"], [True, None, True], None])
def test_what_is_not_told(given: object) -> None:
    with pytest.raises(BrokenStructureError, match="does not say of every direction"):
        periodic_directions(given)
