"""Torch computes in as many threads as there are free cores."""

from __future__ import annotations

import os

import pytest
import torch
from ase.build import bulk

from deeprelax_ase.models.registry import DEFAULT_MODEL
from deeprelax_ase.prediction import devices
from deeprelax_ase.prediction.predictor import Predictor
from tests.batched_emt import Together


@pytest.fixture(autouse=True)
def four_threads(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("load", "threads"), [(0.0, 4), (3.7, 4), (6.2, 2), (7.9, 1), (30.0, 1)])
def test_as_many_as_there_are_free_cores(monkeypatch: pytest.MonkeyPatch, load: float, threads: int) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    assert devices.free_threads() == threads
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert devices.free_threads() == 4


def test_potentials_in_batches_compute_in_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (6.2, 0.0, 0.0))
    seen = []

    class Seeing(Together):
        def compute(self, *given):
            seen.append(torch.get_num_threads())
            return super().compute(*given)

    potential = Seeing()
    numbers, batch = torch.tensor([29]), torch.tensor([0])
    for _ in range(2):
        potential(numbers, torch.zeros(1, 3, dtype=torch.float64), 2.6 * torch.eye(3, dtype=torch.float64)[None], batch)
    assert seen == [2, 2]
    assert torch.get_num_threads() == 4


def test_predictors_too(monkeypatch: pytest.MonkeyPatch, shipped) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (6.2, 0.0, 0.0))
    predictor = Predictor(shipped(DEFAULT_MODEL), device="cpu", members=1, recycles=1)
    seen = []
    stages = predictor.model.networks[0].stages

    def seeing(given):
        seen.append(torch.get_num_threads())
        return stages(given)

    monkeypatch.setattr(predictor.model.networks[0], "stages", seeing)
    predictor.predict(bulk("Cu"))
    assert seen == [2]
    assert torch.get_num_threads() == 4


def test_the_first_of_several_at_once_decides() -> None:
    with devices.at_most(3):
        assert torch.get_num_threads() == 3
        with devices.at_most(1):
            assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == 4
    with devices.at_most(8):
        assert torch.get_num_threads() == 4
