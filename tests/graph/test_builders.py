from __future__ import annotations

import sys

import pytest
import torch

from deeprelax_ase import graph
from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import BackendError
from deeprelax_ase.graph import build_graph


def test_torch_is_the_default_and_does_not_ask_for_matgl(
    monkeypatch: pytest.MonkeyPatch, sample_crystals: dict[str, Crystal]
) -> None:
    for absent in ("dgl", "matgl"):
        monkeypatch.setitem(sys.modules, absent, None)
    assert build_graph([sample_crystals["hcp"]]).num_edges > 0
    with pytest.raises(BackendError, match=r"deeprelax-ase\[matgl\]"):
        build_graph([sample_crystals["hcp"]], backend="matgl")


def test_the_dtype_is_that_of_the_graph(sample_crystals: dict[str, Crystal]) -> None:
    made = build_graph([sample_crystals["hcp"]] * 2, dtype=torch.float32)
    assert made.positions.dtype == made.cell.dtype == torch.float32


def test_settings_reach_the_builder(sample_crystals: dict[str, Crystal]) -> None:
    few = build_graph([sample_crystals["hcp"]], settings=graph.GraphSettings(max_neighbors=6))
    assert few.num_edges < build_graph([sample_crystals["hcp"]]).num_edges


@pytest.mark.parametrize("backend", ["dgl", "auto"])
def test_unknown_backend(sample_crystals: dict[str, Crystal], backend: str) -> None:
    with pytest.raises(ValueError, match=f"Unknown backend='{backend}', must be one of torch, matgl"):
        build_graph([sample_crystals["hcp"]], backend=backend)


def test_no_crystals() -> None:
    with pytest.raises(ValueError, match="no crystals"):
        build_graph([])


def test_public_names_exist() -> None:
    assert all(hasattr(graph, name) for name in graph.__all__)
