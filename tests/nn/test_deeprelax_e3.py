from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from ase.build import make_supercell
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from torch import Tensor

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.geometry.strain import matrix_product, symmetric_exponential
from deeprelax_ase.graph import affine_positions, atom_counts, edge_vectors
from deeprelax_ase.nn.deeprelax_e3 import (
    DISPLACEMENT_SCALES,
    STRAIN_SCALES,
    moved_vectors,
    network_input,
    strain_matrix,
)
from deeprelax_ase.nn.heads import bounded_scale
from deeprelax_ase.nn.records import Relaxation
from tests.relaxations import assert_same

NONE, PLANE = (torch.diag(torch.tensor(ends, dtype=torch.float64))[None] for ends in ([0.0] * 3, [1.0, 1.0, 0.0]))
NAMES = ("triclinic", "rocksalt", "hcp", "thin", "skewed", "one atom", "left-handed")
every_kind = pytest.mark.parametrize("tensor_messages", [True, False])


def placed(crystal: Crystal, positions: np.ndarray, cell: np.ndarray | None = None) -> Crystal:
    return Crystal(crystal.numbers, positions, crystal.cell if cell is None else cell)


def turned(crystal: Crystal, isometry: Tensor) -> Crystal:
    q = isometry.numpy()
    return placed(crystal, crystal.positions @ q, crystal.cell @ q)


@pytest.fixture(scope="module")
def relax(e3_network, graph_of):
    """``relax(crystals, network)``: the relaxation after each block of a random network."""

    def run(crystals, network=None, **options) -> list[Relaxation]:
        network = network or e3_network()
        return network(graph_of(crystals, network.config), **options)

    return run


# -- shapes, types, and what an untrained network predicts


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_types_and_finiteness(e3_network, graph_of, sample_crystals, dtype: torch.dtype) -> None:
    network = e3_network(num_blocks=3).to(dtype)
    graph = graph_of(list(sample_crystals.values()), network.config).to(dtype=dtype)
    relaxations, atoms = network(graph), graph.num_atoms
    assert len(relaxations) == 3
    shapes = {"displacements": (atoms, 3), "strain": (10, 3, 3), "displacement_scales": (atoms,)}
    shapes |= {"volume_scales": (10,), "shape_scales": (10,)}
    for relaxation in relaxations:
        for name, shape in shapes.items():
            value = getattr(relaxation, name)
            assert value.shape == shape, name
            assert value.dtype == dtype, name
            assert value.isfinite().all(), name


def test_geometry_keeps_its_own_type(e3_network, relax, sample_crystals) -> None:
    exact, rounded = (relax(sample_crystals["triclinic"], net) for net in (e3_network(), e3_network().float()))
    assert all(getattr(r, f.name).dtype == torch.float64 for r in rounded for f in fields(Relaxation))
    assert_same(rounded, exact, atol=1e-4)


@every_kind
def test_an_untrained_network_predicts_no_motion(e3_network, relax, sample_crystals, tensor_messages: bool) -> None:
    network = e3_network(shuffled=False, tensor_messages=tensor_messages)
    for relaxation in relax(list(sample_crystals.values()), network):
        assert not relaxation.displacements.any()
        assert not relaxation.strain.any()
        assert relaxation.displacement_scales.unique().numel() == relaxation.volume_scales.unique().numel() == 1
    moving = relax(list(sample_crystals.values()))[0]  # with random weights
    assert moving.displacements.abs().max() > 1e-2  # Å
    assert moving.strain.abs().max() > 1e-2


@every_kind
def test_every_weight_takes_part(e3_network, relax, sample_crystals, tensor_messages: bool) -> None:
    network = e3_network(tensor_messages=tensor_messages)
    relaxations = relax(sample_crystals["triclinic"], network)
    torch.stack([getattr(r, f.name).square().sum() for r in relaxations for f in fields(r)]).sum().backward()
    idle = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    # Where tensors do not travel, there are none yet in the first layer.
    assert idle == (set() if tensor_messages else {"blocks.0.updates.0.mix_tensors.weight"})
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_symmetry_leaves_gradients_finite(e3_network, relax, sample_crystals) -> None:
    network = e3_network()
    relaxations = relax([sample_crystals["rocksalt"], sample_crystals["one atom"]], network)
    torch.stack([getattr(r, f.name).sum() for r in relaxations for f in fields(r)]).sum().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_blocks_do_not_train_each_other_through_the_geometry(e3_network, relax, sample_crystals) -> None:
    network = e3_network()
    relax(sample_crystals["triclinic"], network)[1].strain.square().sum().backward()
    assert all(p.grad is None for p in network.blocks[0].refinement.parameters())
    assert network.blocks[0].filters[0].weight.grad.any()  # through the features they do


def test_through_the_geometry_too_gradients_are_the_derivative(e3_network, relax, sample_crystals) -> None:
    network = e3_network(num_blocks=3)
    network.gradients_through_blocks = True
    weights = network.blocks[0].refinement.gates[-1].weight

    def loss() -> Tensor:
        last = relax([sample_crystals["triclinic"], sample_crystals["hcp"]], network)[-1]
        return last.strain.square().sum() + last.displacements.square().sum() + last.shape_scales.sum()

    loss().backward()
    along = torch.randn(weights.shape, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        weights += 1e-6 * along
        ahead = loss()
        weights -= 2e-6 * along
        behind = loss()
    assert weights.grad is not None
    assert (weights.grad * along).sum().item() == pytest.approx((ahead - behind).item() / 2e-6, rel=1e-6)


# -- E(3)


@every_kind
@pytest.mark.parametrize("name", NAMES)
def test_all_blocks_turn_with_the_crystal(e3_network, relax, sample_crystals, isometry, tensor_messages, name) -> None:
    network, crystal = e3_network(tensor_messages=tensor_messages), sample_crystals[name]
    expected = relax(crystal, network)
    assert_same(relax(turned(crystal, isometry), network), expected, isometry=isometry)
    assert expected[0].strain.abs().max() > 1e-3


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=6)
def test_any_rotation_or_reflection_of_any_crystal(relax, sample_crystals, seed: int) -> None:
    rng = np.random.default_rng(seed)
    isometry = torch.from_numpy(Rotation.random(rng=rng).as_matrix() * rng.choice([-1, 1]))
    lattice = np.diag(rng.uniform(3, 5, size=3)) + rng.uniform(-1, 1, size=(3, 3))
    sites = (np.arange(3)[:, None] / 3 + rng.uniform(-0.05, 0.05, size=(3, 3))) @ lattice
    crystal = Crystal(rng.integers(1, 90, size=3), sites, lattice)
    expected = relax(crystal)
    assert_same(relax(turned(crystal, isometry)), expected, isometry=isometry)
    assert expected[-1].displacements.norm(dim=1).max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_the_origin_does_not_matter(relax, sample_crystals, name: str) -> None:
    crystal = sample_crystals[name]
    assert_same(relax(placed(crystal, crystal.positions + np.array([1.234, -7.1, 20.3]))), relax(crystal))


def test_atom_order_does_not_matter(relax, sample_crystals) -> None:
    crystal, order = sample_crystals["triclinic"], [2, 0, 3, 1]
    permuted = Crystal(crystal.numbers[order], crystal.positions[order], crystal.cell)
    assert_same(relax(permuted), relax(crystal), atoms=order)


@pytest.mark.parametrize("name", NAMES)
def test_the_choice_of_periodic_images_does_not_matter(relax, sample_crystals, rng, name: str) -> None:
    crystal = sample_crystals[name]
    jumps = rng.integers(-3, 4, size=(len(crystal), 3))
    assert_same(relax(placed(crystal, crystal.positions + jumps @ crystal.cell)), relax(crystal))


# -- the choice of the cell


@every_kind
@pytest.mark.parametrize("name", ["triclinic", "hcp", "thin", "one atom", "skewed"])
@pytest.mark.parametrize(
    "supercell",
    [
        pytest.param(np.diag([2, 1, 1]), marks=pytest.mark.slow),
        pytest.param(np.diag([2, 2, 2]), marks=pytest.mark.slow),
        [[1, 1, 0], [0, 2, 0], [0, -1, 1]],
    ],
    ids=["211", "222", "hnf"],
)
def test_atoms_of_a_supercell_move_as_those_of_the_cell(
    e3_network, relax, sample_crystals, tensor_messages: bool, name: str, supercell
) -> None:
    network, crystal = e3_network(tensor_messages=tensor_messages), sample_crystals[name]
    big = Crystal.from_atoms(make_supercell(crystal.to_atoms(), supercell, order="atom-major"))
    copies = len(big) // len(crystal)
    assert copies > 1
    assert_same(relax(big, network), relax(crystal, network), atoms=torch.arange(len(big)) // copies)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "basis",
    [
        [[1, 0, 0], [2, 1, 0], [-1, 3, 1]],
        pytest.param([[0, 1, 0], [0, 0, 1], [1, 0, 0]], marks=pytest.mark.slow),
        pytest.param([[-1, 0, 0], [0, 1, 0], [0, 0, 1]], marks=pytest.mark.slow),
    ],
    ids=["sheared", "permuted", "inverted"],
)
def test_another_basis_of_the_same_lattice_changes_nothing(relax, sample_crystals, name: str, basis) -> None:
    crystal = sample_crystals[name]
    assert abs(np.linalg.det(basis)) == pytest.approx(1)
    assert_same(relax(placed(crystal, crystal.positions, np.array(basis) @ crystal.cell)), relax(crystal))


@every_kind
def test_a_batch_gives_what_single_crystals_give(e3_network, relax, sample_crystals, tensor_messages: bool) -> None:
    network, crystals = e3_network(tensor_messages=tensor_messages), list(sample_crystals.values())
    together, alone = relax(crystals, network), [relax(crystal, network) for crystal in crystals]
    joined = [
        Relaxation(*(torch.cat([getattr(r, f.name) for r in block]) for f in fields(Relaxation)))
        for block in zip(*alone, strict=True)
    ]
    assert_same(together, joined, atol=1e-11)


# -- drift, kept cells, thin cells, levels


def test_the_crystal_as_a_whole_does_not_drift(e3_network, graph_of, sample_crystals) -> None:
    network = e3_network()
    graph = graph_of(list(sample_crystals.values()), network.config)
    for relaxation in network(graph):
        sums = torch.zeros(10, 3, dtype=torch.float64).index_add(0, graph.batch, relaxation.displacements)
        assert (sums / atom_counts(graph)[:, None]).abs().max() < 1e-14


def test_a_kept_cell_is_kept_exactly(relax, sample_crystals) -> None:
    crystals = [sample_crystals["triclinic"], sample_crystals["thin"]]
    kept, free = relax(crystals, strain_projectors=NONE.expand(2, 3, 3)), relax(crystals)
    assert not any(relaxation.strain.any() for relaxation in kept)
    assert torch.equal(kept[0].displacements, free[0].displacements)  # the first block sees the same crystal
    assert (kept[1].displacements - free[1].displacements).abs().max() > 1e-5


def test_a_layer_is_strained_in_its_plane_alone(relax, sample_crystals) -> None:
    for relaxation in relax(sample_crystals["triclinic"], strain_projectors=PLANE):
        assert not relaxation.strain[0, 2].any()
        assert not relaxation.strain[0, :, 2].any()
        assert relaxation.strain[0, :2, :2].abs().max() > 1e-4


@pytest.mark.parametrize("projectors", [NONE, PLANE], ids=["fixed", "layer"])
def test_cell_freedom_is_read_once_it_is_learnt(e3_network, relax, sample_crystals, projectors: Tensor) -> None:
    network, crystal = e3_network(reads_cell_freedom=True), sample_crystals["triclinic"]
    torch.nn.init.zeros_(network.freedoms.weight)
    unlearnt, free = relax(crystal, network, strain_projectors=projectors)[0], relax(crystal, network)[0]
    assert torch.equal(unlearnt.displacements, free.displacements)
    torch.nn.init.normal_(network.freedoms.weight)
    learnt = relax(crystal, network, strain_projectors=projectors)[0]
    assert (learnt.displacements - free.displacements).abs().max() > 1e-5


def test_a_network_begins_without_knowledge_of_cell_freedom(e3_network) -> None:
    assert not e3_network(reads_cell_freedom=True, shuffled=False).freedoms.weight.any()
    plain = e3_network()
    assert not plain.config.reads_cell_freedom
    assert not any(name.startswith("freedoms") for name in plain.state_dict())


def test_cells_of_one_atom_strain_alone(relax, sample_crystals) -> None:
    for name in ("one atom", "one atom, cubic"):
        relaxation = relax(sample_crystals[name])[-1]
        assert not relaxation.displacements.any()
        # Both are cubic: the strain is a multiple of the identity.
        identity = torch.eye(3, dtype=torch.float64) * relaxation.strain[0, 0, 0]
        torch.testing.assert_close(relaxation.strain[0], identity, rtol=0, atol=1e-12)
        assert relaxation.strain.abs().max() > 1e-3


def test_the_level_of_theory_changes_the_prediction(e3_network, relax, sample_crystals) -> None:
    crystals = [sample_crystals["triclinic"], sample_crystals["hcp"]]
    pbe, m3gnet, mixed = (relax(crystals, level=level) for level in (0, 1, torch.tensor([1, 0])))
    assert (pbe[-1].strain - m3gnet[-1].strain).abs().amax(dim=(1, 2)).min() > 1e-4
    torch.testing.assert_close(mixed[-1].strain, torch.stack([m3gnet[-1].strain[0], pbe[-1].strain[1]]))
    torch.testing.assert_close(mixed[-1].displacements[:4], m3gnet[-1].displacements[:4])


# -- parts


def test_scales_are_positive_and_bounded_with_finite_gradients(relax, sample_crystals) -> None:
    for relaxation in relax(list(sample_crystals.values())):
        for name, (low, high) in {
            "displacement_scales": DISPLACEMENT_SCALES,
            "volume_scales": STRAIN_SCALES,
            "shape_scales": STRAIN_SCALES,
        }.items():
            scale = getattr(relaxation, name)
            assert low < scale.min() < scale.max() < high, name
    raw = torch.tensor([-1e30, -60.0, 0.0, 60.0, 1e30], dtype=torch.float64, requires_grad=True)
    scale = bounded_scale(raw, DISPLACEMENT_SCALES)
    assert scale.tolist() == pytest.approx([5e-4, 5e-4, 0.05, 5.0, 5.0])
    scale.log().sum().backward()
    assert raw.grad is not None
    assert raw.grad.isfinite().all()


def test_blocks_see_the_geometry_predicted_before(e3_network, graph_of, relax, sample_crystals) -> None:
    network = e3_network()
    graph = graph_of([sample_crystals["triclinic"], sample_crystals["thin"]], network.config)
    first = network(graph)[0]
    cell = matrix_product(graph.cell, symmetric_exponential(first.strain))
    positions = affine_positions(graph, cell) + first.displacements
    seen = moved_vectors(network_input(graph, 0), first.displacements, first.strain)
    torch.testing.assert_close(seen, edge_vectors(graph, positions, cell), rtol=0, atol=1e-10)


def test_strain_is_its_trace_and_a_traceless_part() -> None:
    coefficients = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    strain = strain_matrix(coefficients)
    assert torch.equal(strain, strain.mT)
    torch.testing.assert_close(strain.diagonal(dim1=1, dim2=2).sum(1), 3 * coefficients[:, 0], rtol=0, atol=1e-14)
    expected = 3 * coefficients[:, 0] ** 2 + coefficients[:, 1:].square().sum(1)
    torch.testing.assert_close(strain.square().sum((1, 2)), expected, rtol=0, atol=1e-13)


def test_neighbours_fade_out_at_the_cutoff(e3_network, graph_of, relax) -> None:
    network = e3_network(num_blocks=1)  # a second one would see them drawn nearer by the first

    def layers(distance: float) -> Crystal:
        """Two atoms whose images above and below are so far away, in Å."""
        return Crystal([11, 17], [[0.0, 0.0, 0.0], [2.0, 1.5, 2.6]], np.diag([6.6, 6.8, distance]))

    # Neighbours that rounding would lose are kept: up to 1e-4 Å further away.
    before, within, beyond = (layers(network.config.cutoff + step) for step in (-0.05, 0.9e-4, 1.1e-4))
    edges = [graph_of([crystal], network.config).num_edges for crystal in (before, within, beyond)]
    assert edges[0] == edges[1] > edges[2]
    assert_same(relax(beyond, network), relax(within, network), atol=1e-6)
    assert (relax(before, network)[-1].displacements - relax(beyond, network)[-1].displacements).abs().max() > 1e-4
