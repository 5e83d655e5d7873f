"""Curves of errors and coverage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deeprelax_ase.report import outcome_of
from deeprelax_ase.report.charts import SHARES, bulk_of, coverage, coverages, curve, error_map, histogram


def test_curve_and_coverage(screened: Path) -> None:
    generator = np.random.default_rng(0)
    expected = generator.uniform(0.01, 0.5, 3000)
    points = curve(expected, expected * generator.exponential(1.0, 3000))
    np.testing.assert_allclose(points[:, 1], points[:, 0], rtol=0.3)
    assert (np.diff(points[:, 0]) > 0).all()
    np.testing.assert_allclose(coverages(expected, expected * generator.exponential(1.0, 3000)), SHARES, atol=0.03)
    outcome = outcome_of(screened / "out", reference=screened / "true.extxyz")
    outcome.numbers["error_bound"] = outcome.true_errors + np.array([0.1, 0.1, -0.001, 0.1])
    assert coverage(outcome) == pytest.approx(2 / 3)


def test_a_value_far_out_leaves_the_others_their_bars() -> None:
    values = np.append(np.random.default_rng(0).normal(0.1, 0.01, 500), [1e6, 2e6])
    low, high = bulk_of(values)
    assert 0 < low < 0.1 < high < 0.2
    bulk, beyond = histogram(values, "x").data
    assert (np.array(bulk.y) > 0).sum() > 10
    assert sum(bulk.y) + sum(beyond.y) == 502
    assert sum(beyond.y) < 10
    assert beyond.customdata[0].endswith("2e+06")


@pytest.mark.parametrize(("crystals", "step"), [(3, 1), (80, None)])
def test_counts_are_whole(crystals: int, step: int | None) -> None:
    axis = histogram(np.full(crystals, 0.3), "x").layout.yaxis
    assert (axis.tickformat, axis.dtick) == (",d", step)


def test_equal_values_are_one_bar() -> None:
    (bars,) = histogram(np.full(7, 0.3), "x").data
    assert sum(bars.y) == 7


def test_axes_of_errors_end_where_the_crystals_do() -> None:
    expected, true = np.array([0.02, 0.1, 0.3]), np.array([0.0, 0.05, 1.0])
    layout = error_map(expected, true, "x").layout
    for axis, values in ((layout.xaxis, (0.02, 0.3)), (layout.yaxis, (1e-4, 1.0))):
        assert axis.range[0] < np.log10(values[0]) < axis.range[0] + 0.15
        assert axis.range[1] - 0.15 < np.log10(values[1]) < axis.range[1]
    assert layout.xaxis.ticktext == ("0.02", "0.05", "0.1", "0.2")
    assert layout.yaxis.ticktext == ("0.0001", "0.001", "0.01", "0.1", "1")
