from __future__ import annotations

import pytest
import torch

from deeprelax_ase import graph
from deeprelax_ase.crystal import Crystal
from deeprelax_ase.graph import build_graph, matgl_builder, torch_builder


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Records which builder makes the graph; MatGL is replaced, so that the test runs without it."""
    used: list[str] = []
    original = torch_builder.build_graph

    def by_matgl(crystals, *, settings, dtype):
        used.append("matgl")
        return original(crystals, settings=settings, dtype=dtype)

    def by_torch(crystals, **options):
        used.append("torch")
        return original(crystals, **options)

    monkeypatch.setattr(matgl_builder, "build_graph", by_matgl)
    monkeypatch.setattr(torch_builder, "build_graph", by_torch)
    return used


@pytest.mark.parametrize(
    ("available", "count", "expected"), [(True, 1, "matgl"), (True, 2, "torch"), (False, 1, "torch")]
)
def test_auto(
    monkeypatch: pytest.MonkeyPatch,
    used: list[str],
    sample_crystals: dict[str, Crystal],
    available: bool,
    count: int,
    expected: str,
) -> None:
    monkeypatch.setattr(matgl_builder, "is_available", lambda: available)
    build_graph([sample_crystals["hcp"]] * count)
    assert used == [expected]


@pytest.mark.parametrize("backend", ["matgl", "torch"])
@pytest.mark.parametrize("count", [1, 2])
def test_a_named_backend_is_used(
    used: list[str], sample_crystals: dict[str, Crystal], backend: str, count: int
) -> None:
    made = build_graph([sample_crystals["hcp"]] * count, backend=backend, dtype=torch.float32)
    assert used == [backend]
    assert made.positions.dtype == torch.float32


def test_auto_builds_on_another_device_with_torch(
    monkeypatch: pytest.MonkeyPatch, sample_crystals: dict[str, Crystal]
) -> None:
    devices = []
    monkeypatch.setattr(torch_builder, "build_graph", lambda crystals, *, device, **_: devices.append(device))
    monkeypatch.setattr(matgl_builder, "is_available", lambda: True)
    build_graph([sample_crystals["hcp"]], device="cuda:1")
    assert devices == ["cuda:1"]


def test_settings_reach_the_builder(sample_crystals: dict[str, Crystal]) -> None:
    few = build_graph([sample_crystals["hcp"]], backend="torch", settings=graph.GraphSettings(max_neighbors=6))
    assert few.num_edges < build_graph([sample_crystals["hcp"]], backend="torch").num_edges


def test_unknown_backend(sample_crystals: dict[str, Crystal]) -> None:
    with pytest.raises(ValueError, match="Unknown backend='dgl', must be one of auto, matgl, torch"):
        build_graph([sample_crystals["hcp"]], backend="dgl")


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_no_crystals(backend: str) -> None:
    with pytest.raises(ValueError, match="no crystals"):
        build_graph([], backend=backend)


def test_public_names_exist() -> None:
    assert all(hasattr(graph, name) for name in graph.__all__)
