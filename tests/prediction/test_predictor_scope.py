"""What a predictor leaves alone, and what leaves it alone: the process's default type, warnings, threads."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from deeprelax_ase import Predictor
from deeprelax_ase.models.loading import load_model
from tests.crystals import BY_DISTANCES, CRYSTALS, DISTORTED, END_TO_END, assert_same


@pytest.mark.parametrize("name", [END_TO_END, BY_DISTANCES])
@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_the_default_type_does_not_matter(name: str, default: torch.dtype):
    crystal = CRYSTALS[DISTORTED[0]]
    expected = Predictor(name, device="cpu", members=1).predict(crystal)
    torch.set_default_dtype(default)
    try:
        assert {p.dtype for p in load_model(name).networks.parameters()} == {torch.float32}
        found = Predictor(name, device="cpu", members=1).predict(crystal)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same(expected, found, atol=0)


def test_threads_predict_at_the_same_time_and_leave_warnings_alone():
    predictor = Predictor(device="cpu", members=1)
    crystals = [CRYSTALS[name] for name in DISTORTED] * 2
    expected = [predictor.predict(crystal) for crystal in crystals]
    filters = list(warnings.filters)
    changed = []

    def predict(crystal):
        changed.append(list(warnings.filters) != filters)
        return predictor.predict(crystal)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(predict, crystals))
    assert not any(changed)
    assert warnings.filters == filters
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.relaxed.positions, other.relaxed.positions)
