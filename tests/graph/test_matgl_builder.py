from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import BackendError, OverlappingAtomsError
from deeprelax_ase.graph import (
    BACKENDS,
    DEFAULT_SETTINGS,
    CrystalGraph,
    GraphSettings,
    build_graph,
    edge_vectors,
    matgl_builder,
    read_matgl_graph,
)
from deeprelax_ase.graph.matgl_import import runs_on_dgl
from deeprelax_ase.nn import ARCHITECTURES

if TYPE_CHECKING:
    from dgl import DGLGraph
    from torch_geometric.data import Data

Samples = dict[str, Crystal]
pytestmark = pytest.mark.usefixtures("needs_matgl")


def edge_set(graph: CrystalGraph) -> set[tuple[int, ...]]:
    """(i, j, k, in_cell) of each edge."""
    table = torch.cat([graph.edge_index.flip(0), graph.cell_offsets.T, graph.in_cell[None]]).T.tolist()
    assert len(set(map(tuple, table))) == len(table)
    return set(map(tuple, table))


def assert_parity(crystals: list[Crystal], settings: GraphSettings = DEFAULT_SETTINGS) -> None:
    for crystal in crystals:
        matgl = build_graph([crystal], backend="matgl", settings=settings)
        torch_only = build_graph([crystal], backend="torch", settings=settings)
        assert edge_set(matgl) == edge_set(torch_only)
        # The order is the same, too, so that results do not depend on the backend to the last bit.
        for name in ("numbers", "positions", "cell", "batch", "edge_index", "cell_offsets", "in_cell"):
            assert torch.equal(getattr(matgl, name), getattr(torch_only, name)), name


@pytest.mark.parametrize("which", ["initial", pytest.param("relaxed", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "step"), [("universal", 660), ("xmno", 160)])
def test_parity_on_the_data(data_crystals: Callable[..., list[Crystal]], name: str, step: int, which: str) -> None:
    crystals = data_crystals(name, range(0, {"universal": 49_514, "xmno": 8_160}[name], step), which=which)
    assert len(crystals) > 50
    assert_parity(crystals)


def test_parity_on_awkward_cells(sample_crystals: Samples) -> None:
    assert_parity(list(sample_crystals.values()))
    assert_parity(list(sample_crystals.values()), GraphSettings(cutoff=4.5, max_neighbors=8, max_in_cell=2))


@pytest.mark.parametrize("shape", ["thin", "hexagonal", "triclinic", "skewed"])
def test_parity_on_random_cells(shape: str, rng: np.random.Generator) -> None:
    """Of one to five atoms that lie up to three cells away."""
    widest = 0
    for atoms in (1, 1, 2, 3, 4, 5) * 2:
        a, b, c = rng.uniform(3.0, 6.0, size=3)
        cell = {
            "thin": np.diag([rng.uniform(1.8, 2.4), b, c + 3]),
            "hexagonal": np.array([[a, 0, 0], [-a / 2, a * 3**0.5 / 2, 0], [0, 0, c]]),
            "triclinic": np.diag([a, b, c]) + np.tril(rng.uniform(-1.5, 1.5, size=(3, 3)), -1),
            "skewed": np.diag([a, b, c]) + np.array([[0, 0, 0], [5 * a, 0, 0], [-4 * a, 3 * b, 0]]),
        }[shape]
        # Far enough apart not to overlap: along the body diagonal.
        fractional = np.arange(atoms)[:, None] / atoms + rng.uniform(-0.02, 0.02, size=(atoms, 3))
        positions = (fractional + rng.integers(-3, 4, size=(atoms, 3))) @ cell
        crystal = Crystal(rng.integers(1, 90, size=atoms), positions, cell)
        assert_parity([crystal])
        widest = max(widest, int(build_graph([crystal], backend="matgl").cell_offsets.abs().max()))
    assert widest > 2


@pytest.mark.parametrize("name", ["hcp", "triclinic", "thin"])
def test_atoms_far_away_are_wrapped_first(sample_crystals: Samples, rng: np.random.Generator, name: str) -> None:
    """The converter's memory grows with the cells between atoms and origin: gigabytes for 200."""
    crystal = sample_crystals[name]
    cells = 200 * rng.choice([-1, 1], size=(len(crystal), 3))
    assert_parity([crystal.with_geometry(crystal.positions + cells @ crystal.cell, crystal.cell)])


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_gradients_do_not_depend_on_the_backend(sample_crystals: Samples, architecture: str) -> None:
    """Of what the network predicts, with respect to positions, cell and weights."""
    Network, Config = ARCHITECTURES[architecture]
    torch.manual_seed(0)
    network = Network(Config(channels=16, num_basis=8)).double()
    for weights in network.parameters():
        torch.nn.init.normal_(weights, std=0.2)  # some start at zero
    found = []
    for backend in BACKENDS:
        graph = build_graph([sample_crystals["triclinic"], sample_crystals["hcp"]], backend=backend)
        given = [tensor.requires_grad_() for tensor in (graph.positions, graph.cell)]
        output = network(graph)
        record = output[-1] if isinstance(output, list) else output
        total = sum((getattr(record, f.name) ** 2).sum() for f in fields(record))
        found.append(torch.autograd.grad(total, [*given, *network.parameters()], materialize_grads=True))
    assert found[0][0].abs().max() > 0
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_edge_vectors_point_from_destination_to_the_image_of_the_source() -> None:
    """A chain along z: atom 1 lies 1 Å above atom 0, the next atom 0 another 2 Å above that."""
    crystal = Crystal([6, 7], [[0, 0, 0], [0, 0, 1.0]], np.diag([9.0, 9.0, 3.0]))
    graph = build_graph([crystal], backend="matgl", settings=GraphSettings(cutoff=2.5))
    heights = edge_vectors(graph)[:, 2].tolist()
    edges = zip(graph.edge_index[1].tolist(), graph.edge_index[0].tolist(), graph.cell_offsets.tolist(), strict=True)
    assert [(i, j, k[2], height) for (i, j, k), height in zip(edges, heights, strict=True)] == [
        (0, 1, 0, 1.0),
        (0, 1, -1, -2.0),
        (1, 0, 0, -1.0),
        (1, 0, 1, 2.0),
    ]


def test_a_batch_is_its_crystals(sample_crystals: Samples) -> None:
    every = list(sample_crystals.values())
    matgl = build_graph(every, backend="matgl", dtype=torch.float32)
    torch_only = build_graph(every, backend="torch", dtype=torch.float32)
    assert matgl.positions.dtype == torch.float32
    assert edge_set(matgl) == edge_set(torch_only)
    assert torch.equal(matgl.batch, torch_only.batch)


def matgl_graph(crystal: Crystal, converter: str, cutoff: float) -> DGLGraph | Data:
    matgl_builder.import_matgl()
    from matgl.ext.ase import Atoms2Graph
    from matgl.ext.pymatgen import Structure2Graph

    elements = tuple(sorted(set(crystal.to_atoms().get_chemical_symbols())))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("ase", "pymatgen"):  # TorchSim's neighbours are rounded to float32, and lack those at just 6 Å
            patch.setattr(f"matgl.ext.{name}._alchmtk_available", False, raising=False)
        if converter == "Atoms2Graph":
            return Atoms2Graph(elements, cutoff).get_graph(crystal.to_atoms())[0]
        return Structure2Graph(elements, cutoff).get_graph(crystal.to_structure())[0]


class TestReadMatGLGraph:
    @pytest.mark.parametrize("converter", ["Atoms2Graph", "Structure2Graph"])
    @pytest.mark.parametrize("cutoff", [6.0, 7.3])
    def test_takes_what_a_matgl_workflow_made(self, sample_crystals: Samples, converter: str, cutoff: float) -> None:
        for crystal in sample_crystals.values():
            read = read_matgl_graph(matgl_graph(crystal, converter, cutoff), crystal)
            assert edge_set(read) == edge_set(build_graph([crystal], backend="torch"))

    def test_takes_the_dtype(self, sample_crystals: Samples) -> None:
        crystal = sample_crystals["hcp"]
        read = read_matgl_graph(matgl_graph(crystal, "Atoms2Graph", 6.0), crystal, dtype=torch.float32)
        assert read.positions.dtype == torch.float32

    def test_refuses_a_smaller_cutoff(self, sample_crystals: Samples) -> None:
        crystal = sample_crystals["triclinic"]
        with pytest.raises(ValueError, match=r"cutoff below 6\.0 Å.*cutoff=6\.0 or more"):
            read_matgl_graph(matgl_graph(crystal, "Atoms2Graph", 5.0), crystal)

    def test_refuses_the_graph_of_other_positions(self, sample_crystals: Samples) -> None:
        crystal = sample_crystals["triclinic"]
        images = crystal.positions + np.vstack([np.zeros(3), crystal.cell])
        with pytest.raises(ValueError, match="of other positions"):
            read_matgl_graph(matgl_graph(crystal, "Atoms2Graph", 6.0), crystal.with_geometry(images, crystal.cell))

    def test_refuses_a_graph_of_another_size(self, sample_crystals: Samples) -> None:
        graph = matgl_graph(sample_crystals["hcp"], "Atoms2Graph", 6.0)
        with pytest.raises(ValueError, match=r"a graph of 2 atoms .* crystal of 4 atoms"):
            read_matgl_graph(graph, sample_crystals["triclinic"])

    def test_refuses_a_graph_without_offsets(self, sample_crystals: Samples) -> None:
        graph = matgl_graph(sample_crystals["hcp"], "Atoms2Graph", 6.0)
        if hasattr(graph, "edata"):
            graph.edata.pop("pbc_offset")
        else:
            del graph.pbc_offset
        with pytest.raises(ValueError, match="make it with MatGL's Atoms2Graph"):
            read_matgl_graph(graph, sample_crystals["hcp"])

    def test_refuses_overlapping_atoms(self) -> None:
        crystal = Crystal([1, 1], [[0, 0, 0], [0, 0, 0.2]], np.eye(3) * 4)
        with pytest.raises(OverlappingAtomsError):
            read_matgl_graph(matgl_graph(crystal, "Atoms2Graph", 6.0), crystal)


def test_matgl_on_another_backend(monkeypatch: pytest.MonkeyPatch, sample_crystals: Samples) -> None:
    other, wanted = ("PYG", "DGL") if runs_on_dgl() else ("DGL", "PYG")
    monkeypatch.setattr(matgl_builder.import_matgl().config, "BACKEND", other, raising=False)
    with pytest.raises(BackendError, match=f"MATGL_BACKEND={wanted}"):
        build_graph([sample_crystals["hcp"]], backend="matgl")


QUIET = """
import sys
from deeprelax_ase.crystal import Crystal
from deeprelax_ase.graph import build_graph
from deeprelax_ase.graph.matgl_import import runs_on_dgl
assert not {"dgl", "matgl"} & set(sys.modules)
crystal = Crystal([3], [[0, 0, 0]], [[3, 0, 0], [0, 3, 0], [0, 0, 3]])
build_graph([crystal])
assert not {"dgl", "matgl"} & set(sys.modules)
build_graph([crystal], backend="matgl")
assert ("dgl" in sys.modules) == runs_on_dgl()
"""


@pytest.mark.slow  # seconds of imports; that it is imported late is held by tests/cli/test_process.py too
def test_matgl_is_imported_late_quietly_and_leaves_no_file(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    home = tmp_path / "home"
    home.mkdir()
    paths = f"{os.environ.get('PYTHONPATH', '')}{os.pathsep}{root}"
    # matplotlib, which newer versions of MatGL import, keeps a list of fonts
    environment = {"HOME": str(home), "MPLCONFIGDIR": str(tmp_path), "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", QUIET], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    # printed by a library in C, which TorchSim brings and MatGL 4 then takes; by matplotlib, where its list takes long
    others = ("Warp CUDA warning: ", "Matplotlib is building the font cache")
    told = [line for line in done.stderr.splitlines() if not line.startswith(others)]
    assert (done.returncode, done.stdout, told) == (0, "", [])
    assert [path for path in home.rglob("*") if path.is_file()] == []
