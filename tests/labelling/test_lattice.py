"""What is cut of crystals: layers and slabs in their plane, z out of it."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.labelling.lattice import Lattice, layers_of, slab


def graphite() -> Crystal:
    below = graphene(a=2.46)
    above = below.copy()
    above.positions += [1.23, 0.71, 3.35]
    both = below + above
    both.cell[2], both.pbc = [0, 0, 6.7], True
    return Crystal.of(both)


def test_layered_crystals_come_apart_and_others_do_not() -> None:
    found = layers_of(graphite(), vacuum=12.0)
    assert len(found) == 2
    for layer in found:
        made = layer.made()
        assert made.numbers.tolist() == [6, 6]
        assert made.pbc.tolist() == [True, True, False]
        assert made.cell[2] == pytest.approx([0, 0, 12.0], abs=1e-9)
        assert np.linalg.norm(made.cell[:2], axis=1) == pytest.approx([2.46, 2.46])
        assert made.to_atoms().get_distance(0, 1, mic=True) == pytest.approx(2.46 / np.sqrt(3), abs=1e-3)


@pytest.mark.parametrize(
    "atoms",
    [
        bulk("NaCl", "rocksalt", a=5.6),
        bulk("Ne", a=4.4),
        Atoms("H2", [[0, 0, 0], [0, 0, 0.74]], cell=[8] * 3, pbc=True),
    ],
    ids=str,
)
def test_what_is_not_layered_has_no_layers(atoms: Atoms) -> None:
    assert layers_of(Crystal.of(atoms), vacuum=12.0) == []


def test_slabs_of_oblique_cells_have_z_for_their_normal() -> None:
    start = Lattice.of(Crystal.of(bulk("NaCl", "rocksalt", a=5.6)))
    for seed in range(6):
        made = slab(np.random.default_rng(seed), start, 8, 15.0).made()
        assert made.cell[:2, 2] == pytest.approx([0, 0], abs=1e-9)
        assert made.cell[2, :2] == pytest.approx([0, 0], abs=1e-9)
        distances = made.to_atoms().get_all_distances(mic=True)
        assert distances[~np.eye(len(made), dtype=bool)].min() == pytest.approx(2.8, abs=1e-6)
