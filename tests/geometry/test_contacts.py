from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.data import atomic_numbers, covalent_radii

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.geometry.contacts import (
    COVALENT_RADII,
    CROWDED,
    NEAREST,
    TOLERATED,
    VAN_DER_WAALS,
    closest_contact,
    closest_contacts,
    colliding,
    crowded,
    packing,
)
from deeprelax_ase.graph import build_graph, edge_vectors
from deeprelax_ase.graph.torch_builder import batch_tensors


def collisions(*crystals: Crystal) -> list[bool]:
    numbers, positions, cell, batch = batch_tensors(crystals)
    return colliding(numbers, positions, cell, batch).tolist()


def pair(first: str, second: str, distance: float) -> Crystal:
    numbers = [atomic_numbers[first], atomic_numbers[second]]
    return Crystal(numbers, [[0, 0, 0], [distance, 0, 0]], np.diag([8.0, 8.0, 8.0]))


def kept(first: str, second: str) -> float:
    """Å, what relaxed crystals keep by the larger of the two elements' shares."""
    z = np.array([atomic_numbers[first], atomic_numbers[second]])
    known = [share for share in NEAREST if share]
    return max((NEAREST[n - 1] if n <= len(NEAREST) else 0) or min(known) for n in z) * covalent_radii[z].sum()


@pytest.mark.parametrize(("first", "second"), [("Si", "Si"), ("Cs", "O"), ("O", "Cs"), ("He", "He"), ("H", "Bk")])
def test_atoms_collide_below_what_relaxed_crystals_keep(first: str, second: str) -> None:
    limit = TOLERATED * kept(first, second)
    above, below = pair(first, second, 1.001 * limit), pair(first, second, 0.999 * limit)
    assert collisions(above, below, above) == [False, True, False]
    assert [closest_contact(c).collides for c in (above, below)] == [False, True]
    assert closest_contact(below)[:2] == (0, 1)
    assert closest_contact(below).distance == pytest.approx(0.999 * limit)
    assert closest_contact(below).least == pytest.approx(kept(first, second))


def test_starts_are_crowded_below_what_any_crystal_to_learn_from_has() -> None:
    limit = CROWDED * kept("Si", "Si")
    starts = [pair("Si", "Si", share * limit) for share in (0.99, 1.01)]
    graph = build_graph([*starts, Crystal.of(bulk("Si"))])
    assert crowded(graph, edge_vectors(graph).norm(dim=1)).tolist() == [True, False, False]


def test_an_atom_may_collide_with_its_own_image() -> None:
    squeezed = Crystal([14], [[0, 0, 0]], np.diag([1.5, 4.0, 4.0]))
    assert collisions(squeezed) == [True]
    assert closest_contact(squeezed)[:3] == (0, 0, 1.5)


def test_large_crystals() -> None:
    atoms = bulk("Si", cubic=True) * 4
    crystal = Crystal.of(atoms)
    atoms.positions[100] = atoms.positions[200] + [1.0, 0, 0]
    assert collisions(crystal, Crystal.of(atoms)) == [False, True]
    assert closest_contact(Crystal.of(atoms))[:3] == pytest.approx((100, 200, 1.0))


def test_where_no_atoms_are_near() -> None:
    contact = closest_contact(Crystal([14], [[0, 0, 0]], np.diag([9.0, 9.0, 9.0])))
    assert contact.distance == np.inf
    assert not contact.collides


def test_radii_are_those_of_ase() -> None:
    np.testing.assert_array_equal(COVALENT_RADII, covalent_radii[1:])


def test_all_elements_that_are_known_have_a_share() -> None:
    assert len(NEAREST) == 96
    assert all(share == 0 or 0.5 < share < 0.9 for share in NEAREST)
    assert all(NEAREST[z - 1] for z in (1, 6, 8, 14, 26, 92))


def packed(crystal: Crystal) -> float:
    graph = build_graph([crystal])
    return packing(graph, edge_vectors(graph).norm(dim=1)).item()


def test_packing_is_the_share_of_spheres_that_touch() -> None:
    """Those of argon; they do not overlap, as no bond is between them."""
    spheres = 4 * 4 / 3 * np.pi * (1.06 + VAN_DER_WAALS) ** 3
    assert packed(Crystal.of(bulk("Ar", "fcc", a=5.26))) == pytest.approx(spheres / 5.26**3)


def test_what_two_bonded_spheres_share_counts_once() -> None:
    """Against the points of a grid that lie in one of the spheres."""
    crystal = pair("C", "O", 1.13)
    axis = (np.arange(100) + 0.5) * 8.0 / 100
    points = np.stack(np.meshgrid(axis - 3.0, axis - 4.0, axis - 4.0, indexing="ij"), axis=-1)
    radii = covalent_radii[crystal.numbers] + VAN_DER_WAALS
    inside = [np.linalg.norm(points - x, axis=-1) < r for x, r in zip(crystal.positions, radii, strict=True)]
    assert packed(crystal) == pytest.approx(np.any(inside, axis=0).mean(), rel=5e-3)


def test_contacts_of_many_are_those_of_each(sample_crystals):
    crystals = list(sample_crystals.values())
    assert closest_contacts(crystals) == [closest_contact(crystal) for crystal in crystals]
    assert closest_contacts([]) == []
