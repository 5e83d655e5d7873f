"""What became of many crystals, in arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deeprelax_ase.report import outcome_of
from tests.report.pages import EVIL


def test_what_is_told(screened: Path) -> None:
    outcome = outcome_of(screened / "out", reference=screened / "true.extxyz")
    assert len(outcome) == 4
    assert outcome.statuses == {"accepted": 3, "refused": 1}
    (reason,) = outcome.reasons
    assert "apart" in reason
    assert outcome.failures[0][:2] == (3, f"{EVIL}-3")
    assert outcome.models == {"DeepRelax-PBE": 3}
    assert np.isnan(outcome.true_errors).tolist() == [False, False, False, True]
    assert outcome.true_errors[:2] == pytest.approx(0, abs=1e-6)  # symmetry holds these atoms
    assert outcome.true_errors[2] > 0.01
    places = [place for place, _ in outcome.to_show(4)]
    assert places[0] == 3
    assert sorted(places) == [0, 1, 2, 3]
