from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bcc110, bulk, fcc111, mx2, surface
from hypothesis import given
from hypothesis import strategies as st

from deeprelax_ase import Predictor
from deeprelax_ase.crystal import Crystal
from deeprelax_ase.geometry.vacuum import (
    Vacuum,
    free_directions,
    in_plane_projectors,
    project_strain,
    strain_projectors,
    vacuum_of,
    widest_gaps,
)
from deeprelax_ase.graph import GraphSettings, build_graph
from tests.crystals import END_TO_END
from tests.geometry.structures import (
    CHAINS,
    CRYSTALS,
    LAYERS,
    MOLECULAR,
    MOLECULES,
    SLABS,
    SMALL_BOXES,
    WIRES,
    boxed,
    ionic_slab,
    leaning,
    rutile_slab,
    wire,
    with_vacuum,
)


def judged(*structures: Atoms | Crystal, **settings: int) -> Vacuum:
    return vacuum_of(build_graph([Crystal.of(s) for s in structures], settings=GraphSettings(**settings)))


def tensors(*crystals: Crystal) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    batch = torch.repeat_interleave(torch.arange(len(crystals)), torch.tensor([len(c) for c in crystals]))
    fractional = torch.from_numpy(np.concatenate([c.fractional_positions for c in crystals]))
    return fractional, torch.from_numpy(np.stack([c.cell for c in crystals])), batch


def layer(vacuum: float, turn: int = 0) -> Crystal:
    """A monolayer of MoS2 whose plane the lattice vectors other than the one numbered ``turn - 1`` span."""
    atoms = mx2("MoS2", vacuum=vacuum / 2)
    atoms.pbc = True
    order = np.roll(np.arange(3), turn)
    return Crystal(atoms.numbers, atoms.positions, atoms.cell.array[order])


@pytest.mark.parametrize("max_in_cell", [0, 20])
@pytest.mark.parametrize(
    ("kinds", "directions"), [(CRYSTALS, 0), ({**LAYERS, **SLABS}, 1), (WIRES, 2)], ids=["crystals", "layers", "wires"]
)
def test_vacuum_is_told_by_the_atoms(kinds, directions: int, max_in_cell: int) -> None:
    """Together in one batch, by the graph of either network."""
    found = judged(*(make() for make in kinds.values()), max_in_cell=max_in_cell)
    assert dict(zip(kinds, found.directions.tolist(), strict=True)) == dict.fromkeys(kinds, directions)


def test_molecules_have_vacuum_around_them_in_boxes_of_any_size() -> None:
    found = judged(*(boxed(*arguments) for arguments in MOLECULES.values()))
    told = dict(zip(MOLECULES, found.directions.tolist(), strict=True))
    assert {name for name, directions in told.items() if directions < 2} == set()
    assert {directions for name, directions in told.items() if "C60" not in name} == {3}


@pytest.mark.parametrize("name", SMALL_BOXES)
def test_molecules_and_wires_have_little_vacuum_around_them_in_crystals(name: str) -> None:
    atoms = SMALL_BOXES[name]()
    found = judged(atoms, leaning(atoms))
    assert found.directions.min() >= 2
    assert not found.molecular.any()


def test_crystals_of_molecules_are_told() -> None:
    others = [name for name in CRYSTALS if name not in MOLECULAR]
    found = judged(*(make() for make in MOLECULAR.values()), *(CRYSTALS[name]() for name in others))
    assert found.directions.tolist() == [0] * (len(MOLECULAR) + len(others))
    assert found.molecular.tolist() == [True] * len(MOLECULAR) + [False] * len(others)
    assert not found.stringy.any()


def test_crystals_of_chains_are_told_in_any_cell() -> None:
    made = [make() for make in CHAINS.values()]
    found = judged(*made, *(leaning(atoms) for atoms in made))
    assert found.stringy.all()
    assert not found.directions.any()
    assert not found.molecular.any()


def test_layers_of_molecules_and_of_chains_are_told() -> None:
    layers = Atoms("CO", [[0, 0, 0], [0, 0, 1.13]], cell=[3.4, 3.4, 16], pbc=True), wire("Se", 4.5, 2.4)
    layers[1].cell[1] = [0, 15, 0]
    found = judged(*layers, *(make() for make in LAYERS.values()))
    assert found.directions.tolist() == [1] * (2 + len(LAYERS))
    assert found.molecular.tolist() == [True, False] + [False] * len(LAYERS)
    assert found.stringy.tolist() == [False, True] + [False] * len(LAYERS)


def test_layers_of_a_crystal_may_be_apart_and_metals_may_not() -> None:
    graphites = [CRYSTALS["graphite"]() for _ in range(4)]
    for atoms, height in zip(graphites, (6.7, 8.0, 9.0, 13.0), strict=True):
        atoms.set_cell([2.46, 2.46, height, 90, 90, 120], scale_atoms=True)
    found = judged(*graphites)
    assert found.directions.tolist() == [0, 0, 0, 1]
    assert not found.parted.any()
    slabs = judged(*(with_vacuum(fcc111("Al", (1, 1, 6)), width) for width in (2.3, 3.5, 4.5, 6.0)))
    assert slabs.directions.tolist() == [0, 0, 1, 1]
    assert slabs.parted.tolist() == [False, True, False, False]


def test_slabs_of_oxides_have_little_vacuum_between_them() -> None:
    found = judged(*(ionic_slab(width) for width in (2.1, 4.0, 4.5, 5.0)), rutile_slab(4.0), rutile_slab(5.0))
    assert found.directions.tolist() == [0, 0, 1, 1, 0, 1]
    assert found.parted.tolist() == [False, True, False, False, True, False]
    assert found.slabs.tolist() == [False, False, True, True, False, True]


def test_slabs_of_salts_are_further_apart_than_their_ions() -> None:
    found = judged(*(ionic_slab(width, "NaCl", 5.64) for width in (2.82, 3.5, 4.0, 4.5, 5.5)))
    assert found.directions.tolist() == [0, 0, 0, 0, 1]
    assert found.parted.tolist() == [False, True, True, True, False]
    near_metals = judged(ionic_slab(2.41, "CaO", 4.81), ionic_slab(4.0, "CaO", 4.81), ionic_slab(4.0, "SrO", 5.16))
    assert near_metals.parted.tolist() == [False, True, True]


def test_slabs_whose_faces_touch_are_told_by_the_width_of_one_gap() -> None:
    """Large ions, and metals across from each other."""
    chloride = surface(bulk("CsCl", "cesiumchloride", a=4.12), (1, 1, 0), 4)
    slabs = [
        ionic_slab(4.0, "KCl", 6.29),
        with_vacuum(chloride, 4.0),
        ionic_slab(4.0, "TiN", 4.24),
        with_vacuum(bcc110("W", (1, 1, 5)), 3.5),
    ]
    whole = [ionic_slab(3.145, "KCl", 6.29), ionic_slab(2.12, "TiN", 4.24), CRYSTALS["graphite"]()]
    found = judged(*slabs, *(leaning(atoms) for atoms in slabs), *whole)
    assert not found.directions.any()
    assert found.parted.tolist() == [True] * 8 + [False] * 3
    assert judged(slabs[0]).parted.all()  # alone in its batch, where all that touches repeats in all directions


def test_slabs_are_thicker_than_layers() -> None:
    found = judged(*(make() for make in {**LAYERS, **SLABS}.values()))
    assert found.slabs.tolist() == [False] * len(LAYERS) + [True] * len(SLABS)
    np.testing.assert_allclose(found.width, [15, 15, 15, 8, 15, 15], rtol=0, atol=1e-9)
    assert found.thickness[1].item() == pytest.approx(3.19, abs=1e-9)


@pytest.mark.parametrize("name", [*LAYERS, *SLABS])
def test_the_plane_of_a_layer_is_found_in_any_cell(name: str) -> None:
    atoms = {**LAYERS, **SLABS}[name]()
    found = judged(atoms, leaning(atoms))
    for plane in found.planes:
        np.testing.assert_allclose(plane, np.diag([1.0, 1.0, 0.0]), rtol=0, atol=1e-9)


def test_what_floats_above_a_slab_does_not_count() -> None:
    atoms = SLABS["Al(111)"]() * (3, 3, 1)
    atoms += Atoms("CO", positions=[atoms.positions[-1] + [0, 0, 1.9], atoms.positions[-1] + [0, 0, 3.05]])
    assert judged(atoms).directions.tolist() == [1]


def test_a_batch_is_its_crystals() -> None:
    atoms = [made for kinds in (CRYSTALS, LAYERS, WIRES, SLABS) for make in kinds.values() if len(made := make()) < 50]
    together, alone = judged(*atoms), [judged(one) for one in atoms]
    for field in Vacuum._fields:
        np.testing.assert_array_equal(getattr(together, field), torch.cat([getattr(one, field) for one in alone]))


def test_gaps_by_hand() -> None:
    coordinates = torch.tensor([0.1, 0.4, 0.5, -0.2, 0.9, 0.3], dtype=torch.float64)
    batch = torch.tensor([0, 0, 0, 1, 1, 2])
    # 0.1, 0.4, 0.5 and round to 1.1; 0.8, 0.9 and round to 1.8; a single plane
    along = torch.stack([coordinates, coordinates.flip(0)], dim=1)
    assert widest_gaps(along[:, :1], batch, 3).flatten().tolist() == pytest.approx([0.6, 0.9, 1.0])
    assert widest_gaps(along, batch, 3)[:, 0].tolist() == pytest.approx([0.6, 0.9, 1.0])
    assert widest_gaps(along, batch, 3)[2, 1] == 1


@given(shift=st.floats(-2, 2), images=st.lists(st.integers(-2, 2), min_size=4, max_size=4))
def test_gaps_know_neither_origin_nor_images(shift: float, images: list[int]) -> None:
    coordinates = torch.tensor([0.11, 0.42, 0.57, 0.9], dtype=torch.float64)
    moved = coordinates + shift + torch.tensor(images)
    batch = torch.zeros(4, dtype=torch.long)
    assert widest_gaps(moved[:, None], batch, 1).item() == pytest.approx(0.33, abs=1e-9)


@pytest.mark.parametrize("turn", [0, 1, 2])
def test_a_layer_keeps_what_is_across_it(turn: int) -> None:
    crystal = layer(15.0, turn)
    projector = in_plane_projectors(*tensors(crystal))[0]
    np.testing.assert_allclose(projector, np.diag([1.0, 1.0, 0.0]), rtol=0, atol=1e-12)


def test_crystals_are_no_layers() -> None:
    rock_salt = bulk("NaCl", "rocksalt", a=5.6)
    thin = layer(8.0)
    projectors = in_plane_projectors(*tensors(Crystal.of(rock_salt), thin, layer(15.0)))
    for projector in projectors[:2]:
        np.testing.assert_array_equal(projector, np.eye(3))
    assert projectors[2].trace().item() == pytest.approx(2)


def test_the_width_of_a_vacuum_may_be_said() -> None:
    assert in_plane_projectors(*tensors(layer(8.0)), 6.0)[0].trace().item() == pytest.approx(2)


def test_wires_and_molecules_are_no_layers() -> None:
    wire = Crystal([6, 6], [[0, 0, 0], [0, 0, 1.3]], np.diag([12.0, 12.0, 2.6]))
    np.testing.assert_array_equal(in_plane_projectors(*tensors(wire))[0], np.eye(3))


def test_fixed_cells_are_not_strained_at_all() -> None:
    crystals = (Crystal.of(bulk("NaCl", "rocksalt", a=5.6)), layer(15.0)) * 2
    fixed_cell = torch.tensor([False, False, True, True])
    projectors = strain_projectors(*tensors(*crystals), fixed_cell)
    assert not projectors[2:].any()
    assert free_directions(projectors).tolist() == [3, 2, 0, 0]
    strain = project_strain(torch.ones(4, 3, 3, dtype=torch.float64), projectors)
    assert torch.equal(strain[0], torch.ones(3, 3))
    np.testing.assert_allclose(strain[1], [[1, 1, 0], [1, 1, 0], [0, 0, 0]], rtol=0, atol=1e-12)
    assert not strain[2:].any()


def test_the_vacuum_is_kept_and_the_plane_relaxes(shipped) -> None:
    predictor = Predictor(shipped(END_TO_END), members=1, recycles=2)
    crystal = layer(15.0)
    wide = crystal.with_geometry(crystal.positions * [1.05, 1.05, 1.0], crystal.cell * [[1.05], [1.05], [1.0]])
    relaxed = predictor.predict(wide).relaxed
    np.testing.assert_allclose(relaxed.cell[2], wide.cell[2], rtol=0, atol=1e-10)
    assert abs(relaxed.cell[0, 0] / wide.cell[0, 0] - 1) > 1e-3
