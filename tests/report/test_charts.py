"""Curves of errors and coverage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deeprelax_ase.report import outcome_of
from deeprelax_ase.report.charts import SHARES, coverage, coverages, curve


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
