"""Crystals that are made unlike others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.evaluation.outliers import MOST_ATOMS, SHAPES, cut_free, scaled, substituted, supercell
from deeprelax_ase.geometry.contacts import covalent_radii
from deeprelax_ase.geometry.vacuum import vacuum_of
from deeprelax_ase.graph import build_graph

ROCKSALT = Crystal.of(bulk("NaCl", "rocksalt", a=5.6, cubic=True))
TRICLINIC = Crystal(
    [22, 8, 8, 38],
    [[0.1, 0.2, 0.3], [2.1, 0.4, 0.9], [0.3, 2.6, 1.1], [2.0, 2.7, 3.9]],
    [[4.1, 0.0, 0.0], [1.3, 4.7, 0.0], [-0.9, 1.1, 5.6]],
)
every_source = pytest.mark.parametrize("source", [ROCKSALT, TRICLINIC], ids=["rocksalt", "triclinic"])


def directions(crystal: Crystal) -> int:
    """Along how many a vacuum is found."""
    return int(vacuum_of(build_graph([crystal], dtype=torch.float64)).directions)


@every_source
@pytest.mark.parametrize(("kind", "expected"), [("slab", 1), ("layer", 1), ("wire", 2), ("cluster", 3)])
def test_what_is_cut_free_has_vacuum_around_it(source: Crystal, kind: str, expected: int):
    for seed in range(3):
        made = SHAPES[kind](source, np.random.default_rng(seed))
        assert made is not None
        assert directions(made) == expected
        assert len(made) % len(source) == 0


@every_source
@pytest.mark.parametrize("axes", [[0], [2], [0, 1], [0, 1, 2]])
def test_cutting_keeps_the_atoms_apart_from_each_other_and_the_other_axes(source: Crystal, axes: list[int]):
    made = cut_free(source, axes, 9.0)
    kept = [k for k in range(3) if k not in axes]
    np.testing.assert_allclose(made.cell[: len(kept)], source.cell[kept])
    assert np.linalg.det(made.cell) > 0
    wrapped = (source.fractional_positions % 1.0) @ source.cell
    np.testing.assert_allclose(made.positions, wrapped, atol=1e-9)
    for vector in made.cell[len(kept) :]:
        length = np.linalg.norm(vector)
        assert length - np.ptp(made.positions @ vector / length) == pytest.approx(9.0)


@every_source
def test_a_fragment_is_of_the_crystals_atoms_and_holds_together(source: Crystal):
    for seed in range(5):
        made = SHAPES["fragment"](source, np.random.default_rng(seed))
        assert made is not None
        assert 2 <= len(made) <= 12
        assert set(made.numbers) <= set(source.numbers)
        assert directions(made) == 3
        assert nearest(made).max() <= nearest(source).max() + 1e-6


@pytest.mark.parametrize("kind", ["molecule", "covalent molecule", "molecule with hydrogen"])
def test_molecules_are_bonded_as_their_radii_say_and_alone(kind: str):
    elements = [1, 6, 8, 17, 29, 56]
    made = [substituted(elements)[kind](ROCKSALT, np.random.default_rng(seed)) for seed in range(30)]
    for molecule in made:
        assert molecule is not None
        assert 2 <= len(molecule) <= 12
        assert directions(molecule) == 3
        radii = covalent_radii().numpy()[molecule.numbers]
        apart = distances(molecule) / (radii[:, None] + radii)
        assert apart.min() >= 0.9
        assert apart.min(axis=1).max() <= 1.15
        assert molecule.cell.diagonal().min() > 8
    found = {int(z) for molecule in made for z in molecule.numbers}
    assert found == (set(elements) if kind == "molecule" else {1, 6, 8, 17})


@pytest.mark.parametrize(
    ("elements", "expected"),
    [([3, 29], {"molecule"}), ([3, 8], {"molecule", "covalent molecule"})],
)
def test_molecules_are_of_elements_that_are_there(elements: list[int], expected: set[str]):
    assert {kind for kind in substituted(elements) if "molecule" in kind} == expected


def distances(crystal: Crystal) -> np.ndarray:
    """(N, N) Å, between its atoms, without images; infinite on the diagonal."""
    lengths = np.linalg.norm(crystal.positions[:, None] - crystal.positions, axis=2)
    np.fill_diagonal(lengths, np.inf)
    return lengths


def nearest(crystal: Crystal) -> np.ndarray:
    """(N,) Å, from each atom to the nearest one."""
    lengths = crystal.to_atoms().get_all_distances(mic=True)
    np.fill_diagonal(lengths, np.inf)
    return lengths.min(axis=1)


@every_source
@pytest.mark.parametrize(("kind", "more"), [("vacancy", -1), ("interstitial", 1)])
def test_defects_have_one_atom_more_or_less_than_whole_cells(source: Crystal, kind: str, more: int):
    made = SHAPES[kind](source, np.random.default_rng(1))
    assert made is not None
    assert (len(made) - more) % len(source) == 0
    assert len(made) <= MOST_ATOMS + 1
    assert directions(made) == 0


def test_an_interstitial_atom_keeps_its_distance():
    made = SHAPES["interstitial"](ROCKSALT, np.random.default_rng(0))
    assert made is not None
    graph = build_graph([made], dtype=torch.float64)
    ends = graph.positions[graph.edge_index[0]] + graph.cell_offsets.double() @ graph.cell[0]
    lengths = (ends - graph.positions[graph.edge_index[1]]).norm(dim=1)
    assert lengths.min() > 1.2


@every_source
def test_volumes_are_scaled(source: Crystal):
    assert scaled(source, 0.6).volume == pytest.approx(0.6 * source.volume)
    assert 0.45 <= SHAPES["compressed"](source, np.random.default_rng(0)).volume / source.volume <= 0.72
    assert 1.5 <= SHAPES["expanded"](source, np.random.default_rng(0)).volume / source.volume <= 3.0


def test_elements_are_exchanged_for_the_given_ones():
    makers = substituted([3, 9, 92])
    made = makers["exchanged"](ROCKSALT, np.random.default_rng(0))
    assert set(made.numbers) <= {3, 9, 92}
    assert len(set(zip(ROCKSALT.numbers, made.numbers, strict=True))) == 2  # each element for one other
    doped = makers["dopant"](ROCKSALT, np.random.default_rng(0))
    assert 1 <= np.isin(doped.numbers, [3, 9, 92]).sum() <= 2


def test_supercells_do_not_grow_beyond_the_most():
    assert len(supercell(TRICLINIC, 10)) >= 10
    assert len(supercell(TRICLINIC, 10_000)) <= MOST_ATOMS


@every_source
@pytest.mark.parametrize("kind", [*SHAPES, *substituted([3, 9])])
def test_outliers_reproduce_and_leave_their_source_alone(source: Crystal, kind: str):
    before = source.positions.copy()
    maker = {**SHAPES, **substituted([3, 9])}[kind]
    one, again = (maker(source, np.random.default_rng(5)) for _ in range(2))
    assert one is not None
    np.testing.assert_array_equal(one.positions, again.positions)
    np.testing.assert_array_equal(source.positions, before)
