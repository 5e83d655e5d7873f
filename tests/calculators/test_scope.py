"""Settings of torch for the time of a calculation, and the threads that it gets a core for."""

from __future__ import annotations

import os

import pytest
import torch

from deeprelax_ase.calculators import scope
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
    assert scope.free_threads() == threads
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert scope.free_threads() == 4


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
