"""That shapes are checked in the tests, and nowhere else."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from jaxtyping import TypeCheckError

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.geometry.strain import logarithmic_strain
from deeprelax_ase.geometry.symmetry import project
from deeprelax_ase.graph import CrystalGraph, affine_positions, build_graph
from tests.checked_shapes import CHECKED


@pytest.fixture
def graph(sample_crystals: dict[str, Crystal]) -> CrystalGraph:
    return build_graph([sample_crystals["hcp"]])


def test_the_rooms_of_tensors_are_checked() -> None:
    rooms = {"calculators", "geometry", "graph", "nn", "optimizers", "uncertainty"}
    assert {name.split(".")[1] for name in CHECKED} == rooms


def test_a_tensor_of_another_shape_is_an_error(graph: CrystalGraph) -> None:
    with pytest.raises(TypeCheckError, match="cell"):
        affine_positions(graph, graph.cell[0])


def test_an_array_of_another_shape_is_an_error(sample_crystals: dict[str, Crystal]) -> None:
    crystal = sample_crystals["hcp"]
    moved, cell = project(crystal, crystal.positions, crystal.cell, None)
    assert moved.shape == (2, 3)
    with pytest.raises(TypeCheckError, match="positions"):
        project(crystal, crystal.positions.T, cell, None)
    with pytest.raises(TypeCheckError, match="cell"):
        logarithmic_strain(cell, cell[:2])


def test_a_letter_is_one_number(graph: CrystalGraph) -> None:
    with pytest.raises(TypeCheckError, match="batch"):
        replace(graph, batch=torch.zeros(5, dtype=torch.int64))


@pytest.mark.slow  # tests/cli/test_process.py looks at a command
def test_nothing_is_checked_at_run_time() -> None:
    code = (
        "import sys, torch, deeprelax_ase.nn.deeprelax_e3, deeprelax_ase.graph.crystal_graph as record\n"
        "record.rows_times_matrices(torch.zeros(2, 3), torch.zeros(1, 3, 3))  # broadcast: not what it is meant for\n"
        "print({'jaxtyping', 'beartype'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
