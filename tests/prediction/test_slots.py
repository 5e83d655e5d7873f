"""How the processes of a screening divide a machine."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from deeprelax_ase.prediction.slots import WorkerSlot, default_workers, share_device


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What each GPU's processes may use of its memory."""
    shares: dict[str, float] = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda name: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda name: SimpleNamespace(total_memory=80 * 10**9))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda part, name: shares.update({name: part}))
    return shares


def slots(device: str, workers: int) -> list[WorkerSlot]:
    return [WorkerSlot(number, workers, device) for number in range(workers)]


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_gpus_are_given_out_in_turn_and_shared_equally(name: str, two_gpus: dict[str, float]) -> None:
    assert [share_device(slot) for slot in slots(name, 7)] == [f"cuda:{n % 2}" for n in range(7)]
    assert set(two_gpus) == {"cuda:0", "cuda:1"}
    for share in two_gpus.values():
        assert 4 * (share * 80e9 + 1e9) == pytest.approx(80e9)  # four processes at most, each with CUDA's own needs


def test_a_gpu_that_is_named_is_everyones(two_gpus: dict[str, float]) -> None:
    assert [share_device(slot) for slot in slots("cuda:1", 2)] == ["cuda:1"] * 2
    assert two_gpus == {"cuda:1": pytest.approx(0.5 - 1 / 80)}


def test_a_process_alone_has_all_of_it(two_gpus: dict[str, float]) -> None:
    assert share_device(WorkerSlot(0, 1, "auto")) == "cuda:0"
    assert not two_gpus


def test_without_gpus_the_name_stays() -> None:
    assert {share_device(slot) for slot in slots("auto", 4)} == {"auto"}
    assert {share_device(slot) for slot in slots("cpu", 4)} == {"cpu"}


@pytest.mark.parametrize(("device", "workers"), [("cpu", 64), ("auto", 6), ("cuda", 6), ("cuda:1", 3)])
def test_as_many_processes_as_the_machine_makes_good_use_of(
    device: str, workers: int, two_gpus: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(64)), raising=False)
    assert default_workers(device) == workers
    assert WorkerSlot(0, None, device).count() == workers


def test_the_first_process_knows_by_itself_how_many_share_its_gpu(
    two_gpus: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(64)), raising=False)
    assert share_device(WorkerSlot(0, None, "auto")) == "cuda:0"
    assert two_gpus == {"cuda:0": pytest.approx(1 / 3 - 1 / 80)}  # of six
