from __future__ import annotations

import pytest

from deeprelax_ase.graph import DEFAULT_SETTINGS, GraphSettings


def test_defaults_are_the_papers() -> None:
    assert GraphSettings(cutoff=6.0, max_neighbors=30, max_in_cell=20) == DEFAULT_SETTINGS


@pytest.mark.parametrize("cutoff", [0.0, -1.0, float("nan"), float("inf")])
def test_refuses_a_cutoff_that_is_no_length(cutoff: float) -> None:
    with pytest.raises(ValueError, match="cutoff must be a positive number"):
        GraphSettings(cutoff=cutoff)


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_neighbors", 0), ("max_neighbors", -3), ("max_neighbors", 2.5), ("max_in_cell", -1), ("max_in_cell", 2.5)],
)
def test_refuses_numbers_that_count_nothing(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a whole number"):
        GraphSettings(**{name: value})


def test_a_graph_need_not_tell_the_own_cell_from_the_others() -> None:
    assert GraphSettings(max_in_cell=0).max_in_cell == 0
