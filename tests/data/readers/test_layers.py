from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import mx2
from ase.db import connect
from ase.io import write

from deeprelax_ase.data import PairDataset
from deeprelax_ase.data.readers.raw import periodic_layers


def layer(a: float, thickness: float, vacuum: float, lift: float = 0.0) -> Atoms:
    atoms = mx2("MoS2", a=a, thickness=thickness, vacuum=vacuum / 2)
    atoms.positions[:, 2] += lift
    return atoms


def test_the_vacuum_of_the_relaxed_layer_becomes_the_unrelaxed_one() -> None:
    initial, relaxed = layer(3.3, 3.3, 15), layer(3.18, 3.13, 22, lift=1.5)
    before = [side.copy() for side in (initial, relaxed)]
    first, last = periodic_layers(initial, relaxed)
    assert first.pbc.all()
    assert last.pbc.all()
    np.testing.assert_allclose(last.cell[2], first.cell[2], rtol=0, atol=1e-12)
    np.testing.assert_allclose(last.cell[:2], relaxed.cell[:2], rtol=0, atol=1e-12)
    np.testing.assert_allclose(last.positions, relaxed.positions, rtol=0, atol=1e-12)
    for side, copy in zip((initial, relaxed), before, strict=True):
        assert side == copy


def test_a_vector_that_leans_is_carried_along_with_the_plane() -> None:
    initial, relaxed = layer(3.3, 3.3, 15), layer(3.0, 3.1, 22)
    initial.cell[2] += 0.4 * initial.cell[0] - 0.2 * initial.cell[1]
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    relaxed.set_cell(relaxed.cell.array @ turn, scale_atoms=True)
    _, last = periodic_layers(initial, relaxed)
    height = initial.cell[2] @ [0, 0, 1]
    expected = 0.4 * relaxed.cell[0] - 0.2 * relaxed.cell[1] + height * turn[2]
    np.testing.assert_allclose(last.cell[2], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, False), (False, False, False)])
def test_all_else_is_left_alone(pbc: tuple[bool, bool, bool]) -> None:
    initial, relaxed = layer(3.3, 3.3, 15), layer(3.2, 3.1, 20)
    initial.pbc = relaxed.pbc = pbc
    assert periodic_layers(initial, relaxed) == (initial, relaxed)
    flat = layer(3.3, 3.3, 15)
    flat.cell[2] = 0
    assert periodic_layers(flat, layer(3.2, 3.1, 20))[0] is flat


def test_pairs_of_layers_are_strained_in_their_plane_only(tmp_path: Path) -> None:
    initial, relaxed = layer(3.3, 3.3, 15), layer(3.18, 3.13, 22, lift=1.5)
    write(tmp_path / "MoS2.traj", [initial, relaxed])
    pairs = PairDataset.read(tmp_path / "MoS2.traj").pairs
    deformation = np.linalg.solve(pairs.cell_initial[0].numpy(), pairs.cell_relaxed[0].numpy())
    np.testing.assert_allclose(deformation, np.diag([3.18 / 3.3, 3.18 / 3.3, 1]), rtol=0, atol=1e-9)
    moved = ((pairs.fractional_relaxed - pairs.fractional_initial) @ pairs.cell_relaxed[0]).numpy()
    order = np.argsort(initial.positions[:, 2])
    np.testing.assert_allclose(moved[order, 2], [0.085, 0, -0.085], rtol=0, atol=1e-9)
    np.testing.assert_allclose(moved[:, :2], 0, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kept", ["structure.json", "unrelaxed.json"])
def test_c2db_keeps_unrelaxed_layers_in_the_data_of_its_rows(tmp_path: Path, kept: str) -> None:
    initial, relaxed = layer(3.3, 3.3, 15), layer(3.18, 3.13, 15)
    held = {n: getattr(initial, n) for n in ("numbers", "positions", "pbc")} | {"cell": initial.cell.array}
    with connect(tmp_path / "unrelaxed.db") as first, connect(tmp_path / "relaxed.db") as last:
        for name in ("MoS2-1", "MoS2-2"):
            first.write(relaxed, folder=f"/a/tree/{name}", data={kept: {"1": held, "ids": [1]}})
            last.write(relaxed, folder=f"/another/tree/{name}")
    dataset = PairDataset.read(tmp_path)
    assert dataset.names == ("MoS2-1", "MoS2-2")
    np.testing.assert_allclose(dataset.pairs.cell_initial[0], initial.cell.array, rtol=0, atol=1e-12)
    np.testing.assert_allclose(dataset.pairs.cell_relaxed[0, 0], relaxed.cell[0], rtol=0, atol=1e-9)
