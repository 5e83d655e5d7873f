"""Ratios of two commits are told apart where they differ by more than their spread."""

from __future__ import annotations

from ratios import compared, measured


def of(**ratios: float) -> dict:
    return {"ratios": {name: {"ratio": ratio, "spread": 0.1} for name, ratio in ratios.items()}}


def test_what_became_slower_and_faster() -> None:
    lines = compared(of(graph=10.0, network=10.0, rows=10.0, gone=1.0), of(graph=15.0, network=6.0, rows=10.5, new=2.0))
    assert [line.split(":")[0] for line in lines] == ["graph", "network", "rows"]
    assert [line.split()[-1] for line in lines] == ["slower", "faster", "equal"]


def test_work_is_told_in_units_of_the_reference() -> None:
    (row,) = measured({"nothing": lambda: None}, rounds=4).values()
    assert 0 <= row["ratio"] < 1
