"""The solver beside a peer on the same targets: the IDPP solver of pymatgen-analysis-diffusion."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.geometry import EDGSettings, solve_edg
from deeprelax_ase.geometry.quantities import RelaxationQuantities
from deeprelax_ase.graph import CrystalGraph, edge_vectors


@pytest.fixture(scope="module")
def pathfinder() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about optional parts of pymatgen
        return pytest.importorskip("pymatgen.analysis.diffusion.neb.pathfinder")


#: X-Mn-O crystals of 12 to 16 atoms: in smaller cells the nearest images alone do not fix the crystal.
CRYSTALS = [1000, *(pytest.param(n, marks=pytest.mark.slow) for n in (3000, 5000))]
RUN = {"maxiter": 3000, "tol": 1e-9, "gtol": 1e-6, "step_size": 0.2}

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iteration number")  # it gets near, slowly


def nearest_image_graph(crystal: Crystal) -> CrystalGraph:
    """Every pair of atoms once in each direction, over its nearest image: the distances that IDPP knows."""
    structure = crystal.to_structure()
    edges, offsets = [], []
    for i in range(len(crystal)):
        for j in range(len(crystal)):
            if i != j:
                edges.append((j, i))
                offsets.append(structure[i].distance_and_image(structure[j])[1])
    offsets = torch.tensor(np.array(offsets), dtype=torch.int64)
    return CrystalGraph(
        numbers=torch.from_numpy(crystal.numbers.copy()),
        positions=torch.from_numpy(crystal.positions.copy()),
        cell=torch.from_numpy(crystal.cell.copy())[None],
        batch=torch.zeros(len(crystal), dtype=torch.int64),
        edge_index=torch.tensor(edges).T,
        cell_offsets=offsets,
        in_cell=torch.zeros(len(edges), dtype=torch.bool),
    )


def lengths(graph: CrystalGraph, positions: np.ndarray) -> np.ndarray:
    """(N, N) distances from atom i to the image of atom j that the graph knows."""
    matrix = np.zeros((graph.num_atoms, graph.num_atoms))
    matrix[graph.edge_index[1], graph.edge_index[0]] = edge_vectors(graph, torch.tensor(positions)).norm(dim=1)
    return matrix


def solve(graph: CrystalGraph, target: np.ndarray) -> np.ndarray:
    """Our positions for the (N, N) ``target`` distances, from those of the graph."""
    distances = torch.from_numpy(target[graph.edge_index[1], graph.edge_index[0]])
    none = distances.new_zeros(0)
    quantities = RelaxationQuantities(
        distances, torch.zeros_like(distances), none, none, graph.cell, anchors=graph.positions
    )
    return solve_edg(graph, quantities, settings=EDGSettings(fix_drift=False)).positions.numpy()


def spread(difference: np.ndarray) -> float:
    """Root mean square displacement, a common displacement of all atoms left out."""
    return float(np.sqrt(((difference - difference.mean(axis=0)) ** 2).sum(axis=1).mean()))


@pytest.mark.parametrize("index", CRYSTALS)
def test_both_solvers_recover_a_crystal_from_its_exact_distances(
    pathfinder: ModuleType, data_crystals: Callable[..., list[Crystal]], rng: np.random.Generator, index: int
):
    (crystal,) = data_crystals("xmno", [index], which="relaxed")
    perturbed = crystal.with_geometry(crystal.positions + rng.normal(scale=0.05, size=(len(crystal), 3)), crystal.cell)
    # IDPP optimises the middle of a path and keeps it half-way between the ends, so that the ends must lie evenly
    # around the answer.
    along = rng.normal(scale=0.1, size=(len(crystal), 3))
    ends = [crystal.with_geometry(crystal.positions + sign * along, crystal.cell) for sign in (-1, 1)]
    graph = nearest_image_graph(perturbed)
    target = lengths(graph, crystal.positions)
    peer = pathfinder.IDPPSolver([c.to_structure() for c in (ends[0], perturbed, ends[1])])
    peer.target_dists = target[None]
    theirs = peer.run(**RUN)[1].cart_coords
    ours = solve(graph, target)
    start = spread(perturbed.positions - crystal.positions)
    assert start > 0.05
    assert spread(theirs - crystal.positions) < start / 3
    assert spread(ours - crystal.positions) < 1e-3


@pytest.mark.parametrize("index", CRYSTALS)
def test_both_solvers_agree_half_way_along_a_relaxation(
    pathfinder: ModuleType, data_crystals: Callable[..., list[Crystal]], index: int
):
    (initial,), (relaxed,) = (data_crystals("xmno", [index], which=which) for which in ("initial", "relaxed"))
    carried = initial.with_geometry(initial.fractional_positions @ relaxed.cell, relaxed.cell)
    ends = [carried.to_structure(), relaxed.to_structure()]
    theirs = pathfinder.IDPPSolver.from_endpoints(ends, nimages=1, sort_tol=0).run(**RUN)[1].cart_coords
    target = (ends[0].distance_matrix + ends[1].distance_matrix) / 2
    middle = carried.with_geometry((carried.positions + relaxed.positions) / 2, carried.cell)
    graph = nearest_image_graph(middle)
    ours = solve(graph, target)
    assert spread(relaxed.positions - carried.positions) > 0.01
    assert spread(ours - theirs) < 0.25 * spread(relaxed.positions - carried.positions)
    violations = [np.abs(lengths(graph, positions) - target).mean() for positions in (ours, theirs, middle.positions)]
    assert violations[0] < min(violations[1:])
