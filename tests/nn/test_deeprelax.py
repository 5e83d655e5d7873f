from __future__ import annotations

from dataclasses import asdict, fields, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.geometry.quantities import RelaxationQuantities
from deeprelax_ase.graph import CrystalGraph, affine_positions, edge_batch, edge_vectors
from deeprelax_ase.nn import ABLATIONS, DeepRelax, DeepRelaxConfig

VARIANTS = {"default": DeepRelaxConfig(), **ABLATIONS}
PER_EDGE = ("distances", "distance_scales")
PER_PAIR = ("displacements", "displacement_scales")
INVARIANTS = PER_EDGE + PER_PAIR

every_variant = pytest.mark.parametrize("variant", VARIANTS)


def moved(crystal: Crystal, isometry: Tensor) -> Crystal:
    q = isometry.numpy()
    return Crystal(crystal.numbers, crystal.positions @ q, crystal.cell @ q)


def assert_same(actual: RelaxationQuantities, expected: RelaxationQuantities, names, atol: float) -> None:
    for name in names:
        torch.testing.assert_close(
            getattr(actual, name), getattr(expected, name), rtol=0, atol=atol, msg=lambda m, name=name: f"{name}: {m}"
        )


def keyed(graph: CrystalGraph, values: Tensor, order=None) -> dict[tuple, float]:
    """Values by edge: (source, destination, offset), the atoms renamed by ``order``."""
    name = range(graph.num_atoms) if order is None else order
    rows = zip(graph.edge_index.T.tolist(), graph.cell_offsets.tolist(), values.tolist(), strict=True)
    return {(name[j], name[i], tuple(k)): value for (j, i), k, value in rows}


# -- shapes and types


@every_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_types_and_finiteness(network, graph_of, sample_crystals, variant: str, dtype: torch.dtype) -> None:
    net = network(VARIANTS[variant]).to(dtype)
    graph = graph_of(list(sample_crystals.values()), net.config).to(dtype=dtype)
    quantities = net(graph)
    edges, pairs = graph.num_edges, int(graph.in_cell.sum())
    shapes = {"distances": (edges,), "distance_scales": (edges,), "cell": (10, 3, 3), "anchors": (graph.num_atoms, 3)}
    shapes |= {"displacements": (pairs,), "displacement_scales": (pairs,)}
    assert set(shapes) == {f.name for f in fields(quantities)}
    for name, shape in shapes.items():
        value = getattr(quantities, name)
        assert value.shape == shape, name
        assert value.dtype == dtype, name
        assert value.isfinite().all(), name
    assert (quantities.distances >= 0).all()
    assert (quantities.displacements >= 0).all()
    for scales in (quantities.distance_scales, quantities.displacement_scales):
        assert (scales > 0).all() if net.config.local_uncertainty else not scales.any()


@every_variant
def test_geometry_keeps_its_own_type(network, graph_of, sample_crystals, variant: str) -> None:
    net = network(VARIANTS[variant])
    graph = graph_of(sample_crystals["triclinic"], net.config)
    exact, rounded = net(graph), net.float()(graph)
    for f in fields(rounded):
        assert getattr(rounded, f.name).dtype == torch.float64, f.name
        torch.testing.assert_close(getattr(rounded, f.name), getattr(exact, f.name), rtol=1e-4, atol=1e-4)


@every_variant
def test_every_weight_takes_part(network, graph_of, sample_crystals, variant: str) -> None:
    net = network(VARIANTS[variant])
    quantities = net(graph_of(sample_crystals["triclinic"], net.config))
    torch.stack([getattr(quantities, f.name).square().sum() for f in fields(quantities)]).sum().backward()
    idle = {name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()}
    assert not {name for name in idle if not name.startswith("backbone.updates.1")}
    # Scalars alone feed the paper's heads: nobody reads the last layer's vectors there.
    assert not idle or not net.config.directional_heads


@every_variant
def test_batch_gives_what_single_crystals_give(network, graph_of, sample_crystals, variant: str) -> None:
    net = network(VARIANTS[variant])
    crystals = list(sample_crystals.values())
    together = net(graph_of(crystals, net.config))
    alone = [net(graph_of(crystal, net.config)) for crystal in crystals]
    for f in fields(together):
        expected = torch.cat([getattr(quantities, f.name) for quantities in alone])
        torch.testing.assert_close(getattr(together, f.name), expected, rtol=1e-12, atol=1e-12)


# -- symmetry

NAMES = ("triclinic", "rocksalt", "thin", "one atom", "left-handed")


@every_variant
@pytest.mark.parametrize("name", NAMES)
def test_distances_do_not_turn(network, graph_of, sample_crystals, isometry: Tensor, variant: str, name: str) -> None:
    net = network(VARIANTS[variant])
    if net.config.distance_baseline == "carried":
        assert net.config.lattice_head == "strain"  # a baseline from a cell that does not turn would not either
    expected, turned = (
        net(graph_of(crystal, net.config))
        for crystal in (sample_crystals[name], moved(sample_crystals[name], isometry))
    )
    assert_same(turned, expected, INVARIANTS, 1e-10)


def test_default_network_turns_with_the_crystal_as_a_whole(
    network, graph_of, sample_crystals, isometry: Tensor
) -> None:
    net, crystal = network(), sample_crystals["triclinic"]
    expected, turned = (net(graph_of(c, net.config)) for c in (crystal, moved(crystal, isometry)))
    torch.testing.assert_close(turned.cell, expected.cell @ isometry, rtol=0, atol=1e-10)
    torch.testing.assert_close(turned.anchors, expected.anchors @ isometry, rtol=0, atol=1e-10)


@every_variant
def test_rigid_shift_without_wrapping_changes_nothing(network, graph_of, sample_crystals, variant: str) -> None:
    net, crystal = network(VARIANTS[variant]), sample_crystals["triclinic"]
    shift = np.array([1.234, -7.1, 20.3])
    shifted = Crystal(crystal.numbers, crystal.positions + shift, crystal.cell)
    expected, actual = (net(graph_of(c, net.config)) for c in (crystal, shifted))
    assert_same(actual, expected, (*INVARIANTS, "cell"), 1e-10)


@every_variant
def test_atom_order_does_not_matter(network, graph_of, sample_crystals, variant: str) -> None:
    net, crystal, order = network(VARIANTS[variant]), sample_crystals["triclinic"], [2, 0, 3, 1]
    permuted = Crystal(crystal.numbers[order], crystal.positions[order], crystal.cell)
    graphs = [graph_of(c, net.config) for c in (crystal, permuted)]
    expected, actual = (net(graph) for graph in graphs)
    for name in PER_EDGE:
        assert keyed(graphs[1], getattr(actual, name), order) == pytest.approx(
            keyed(graphs[0], getattr(expected, name)), abs=1e-11
        )
    inner = [
        replace(g, edge_index=g.edge_index[:, k], cell_offsets=g.cell_offsets[k], in_cell=k[k])
        for g, k in zip(graphs, (g.in_cell for g in graphs), strict=True)
    ]
    for name in PER_PAIR:
        assert keyed(inner[1], getattr(actual, name), order) == pytest.approx(
            keyed(inner[0], getattr(expected, name)), abs=1e-11
        )
    torch.testing.assert_close(actual.cell, expected.cell, rtol=0, atol=1e-11)
    torch.testing.assert_close(actual.anchors, expected.anchors[order], rtol=0, atol=1e-11)


@every_variant
def test_other_periodic_images_matter_to_the_cell_offset_encoding_alone(network, graph_of, variant: str) -> None:
    crystal = Crystal([55, 17], [[0.1, 0.2, 0.1], [1.7, 1.8, 1.75]], np.diag([3.3, 3.4, 3.5]))
    jump = np.array([[0, 0, 0], [0, -1, 1]])  # another image of the second atom
    other = Crystal(crystal.numbers, crystal.positions + jump @ crystal.cell, crystal.cell)
    # Every neighbour within a generous cutoff: the graph is the same but for the names of the images.
    net = network(VARIANTS[variant], max_neighbors=400, cutoff=7.0)
    graphs = [graph_of(c, net.config) for c in (crystal, other)]
    expected, actual = (net(graph) for graph in graphs)
    distances = keyed(graphs[0], expected.distances)
    jumps = jump.tolist()
    renamed = {
        (j, i, tuple(np.add(k, np.subtract(jumps[j], jumps[i])).tolist())): value
        for (j, i, k), value in keyed(graphs[1], actual.distances).items()
    }
    assert renamed.keys() == distances.keys()
    change = max(abs(renamed[edge] - distances[edge]) for edge in distances)
    if net.config.cell_offset_encoding:
        assert change > 1e-2  # Å
    else:
        assert change < 1e-10


# -- what an untrained network predicts


def test_untrained_default_network_predicts_the_unrelaxed_crystal(graph_of, sample_crystals) -> None:
    torch.manual_seed(0)
    net = DeepRelax(DeepRelaxConfig(channels=16, num_layers=2)).double()
    graph = graph_of(list(sample_crystals.values()), net.config)
    quantities = net(graph)
    lengths = edge_vectors(graph).norm(dim=1)
    assert torch.equal(quantities.cell, graph.cell)
    torch.testing.assert_close(quantities.distances, lengths, rtol=0, atol=1e-11)
    torch.testing.assert_close(quantities.displacements, lengths[graph.in_cell], rtol=0, atol=1e-11)
    torch.testing.assert_close(quantities.anchors, graph.positions, rtol=0, atol=1e-11)


def test_untrained_network_as_printed_does_not(graph_of, sample_crystals) -> None:
    torch.manual_seed(0)
    net = DeepRelax(replace(ABLATIONS["DeepRelax"], channels=16, num_layers=2)).double()
    graph = graph_of(sample_crystals["triclinic"], net.config)
    quantities = net(graph)
    assert torch.equal(quantities.cell, graph.cell)  # the residual head
    assert (quantities.distances - edge_vectors(graph).norm(dim=1)).abs().mean() > 1
    assert torch.equal(quantities.anchors, graph.positions)


# -- cells given from outside


def strained(graph: CrystalGraph) -> Tensor:
    return graph.cell @ torch.diag(torch.tensor([1.1, 1.0, 0.9], dtype=torch.float64))


def carried_lengths(graph: CrystalGraph, cell: Tensor) -> Tensor:
    return edge_vectors(graph, affine_positions(graph, cell), cell).norm(dim=1)


def test_a_given_cell_replaces_the_predicted_one(network, graph_of, sample_crystals) -> None:
    net = network(shuffled=False)  # heads at zero: what remains is the baseline
    graph = graph_of([sample_crystals["triclinic"], sample_crystals["hcp"]], net.config)
    cell = strained(graph)
    quantities = net(graph, cell=cell)
    assert quantities.cell is cell
    torch.testing.assert_close(quantities.distances, carried_lengths(graph, cell), rtol=0, atol=1e-12)
    torch.testing.assert_close(
        quantities.displacements, carried_lengths(graph, cell)[graph.in_cell], rtol=0, atol=1e-12
    )
    torch.testing.assert_close(quantities.anchors, affine_positions(graph, cell), rtol=0, atol=1e-12)


def test_a_given_cell_does_not_change_what_the_heads_add(network, graph_of, sample_crystals) -> None:
    net = network()
    graph = graph_of(sample_crystals["triclinic"], net.config)
    free, fixed = net(graph), net(graph, cell=graph.cell)
    assert torch.equal(fixed.cell, graph.cell)
    torch.testing.assert_close(fixed.anchors, graph.positions, rtol=0, atol=1e-12)
    assert torch.equal(fixed.distance_scales, free.distance_scales)
    assert (fixed.distances - free.distances).abs().max() > 1e-3


def test_anchor_cell_carries_displacements_alone(network, graph_of, sample_crystals) -> None:
    net = network()
    graph = graph_of(sample_crystals["triclinic"], net.config)
    cell = strained(graph)
    plain, anchored = net(graph), net(graph, anchor_cell=cell)
    assert_same(anchored, plain, (*PER_EDGE, "displacement_scales", "cell"), 0.0)
    torch.testing.assert_close(anchored.anchors, affine_positions(graph, cell), rtol=0, atol=1e-12)
    untrained = network(shuffled=False)(graph, anchor_cell=cell)
    torch.testing.assert_close(untrained.displacements, carried_lengths(graph, cell)[graph.in_cell], rtol=0, atol=1e-12)
    assert_same(net(graph, anchor_cell=plain.cell), plain, (*INVARIANTS, "cell", "anchors"), 1e-12)


def test_anchor_cell_means_nothing_without_the_carried_baseline(network, graph_of, sample_crystals) -> None:
    net = network(ABLATIONS["DeepRelax"])
    graph = graph_of(sample_crystals["triclinic"], net.config)
    assert_same(net(graph, anchor_cell=strained(graph)), net(graph), (*INVARIANTS, "cell", "anchors"), 0.0)


def test_distances_do_not_train_the_cell(network, graph_of, sample_crystals) -> None:
    net = network()
    graph = graph_of(sample_crystals["triclinic"], net.config)
    quantities = net(graph)
    (quantities.distances.sum() + quantities.displacements.sum() + quantities.anchors.sum()).backward()
    assert all(p.grad is None for p in net.lattice_head.parameters())


# -- configuration


@every_variant
def test_configuration_survives_a_dictionary(variant: str) -> None:
    config = VARIANTS[variant]
    assert DeepRelaxConfig.from_dict(config.to_dict()) == config
    assert DeepRelaxConfig.from_dict({}) == DeepRelaxConfig()


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="number_of_layers"):
        DeepRelaxConfig.from_dict({"number_of_layers": 3})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("distance_baseline", "printed"),
        ("lattice_head", "equivariant"),
        ("encoding_channels", 63),
        ("encoding_channels", 0),
        ("channels", 0),
        ("channels", 2.5),
        ("num_layers", 0),
        ("num_basis", 1),
        ("num_elements", 0),
        ("offset_range", -1),
        ("basis_stop", 0.0),
        ("basis_stop", float("nan")),
        ("cutoff", -6.0),
        ("max_neighbors", 0),
        ("max_in_cell", 0),
    ],
)
def test_bad_settings_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        DeepRelaxConfig(**{name: value})


def test_the_graph_is_the_papers_by_default() -> None:
    graph = DeepRelaxConfig().graph
    assert (graph.cutoff, graph.max_neighbors, graph.max_in_cell) == (6.0, 30, 20)


def test_ablations_are_table_4() -> None:
    switches = {name: (config.cell_offset_encoding, config.local_uncertainty) for name, config in ABLATIONS.items()}
    assert switches == {
        "Vanilla": (False, False),
        "DeepRelaxP": (True, False),
        "DeepRelaxU": (False, True),
        "DeepRelax": (True, True),
    }


def test_ablations_differ_in_nothing_else() -> None:
    rest = [
        {k: v for k, v in asdict(config).items() if k not in ("cell_offset_encoding", "local_uncertainty")}
        for config in ABLATIONS.values()
    ]
    assert all(settings == rest[0] for settings in rest)
    assert rest[0]["distance_baseline"] == "none"  # eq. (8) as printed
    assert not rest[0]["directional_heads"]
    assert rest[0]["offset_range"] == 2


@every_variant
def test_names_of_the_weights_stay(network, variant: str) -> None:
    # Files of weights are read by these names.
    parts = {name.split(".")[0] for name in network(VARIANTS[variant]).state_dict()}
    assert parts == {"backbone", "distance_head", "displacement_head", "lattice_head"}


def test_edges_of_a_batch_belong_to_their_crystals(network, graph_of, sample_crystals) -> None:
    net = network()
    crystals = [sample_crystals["hcp"], sample_crystals["triclinic"]]
    graph = graph_of(crystals, net.config)
    alone = net(graph_of(crystals[1], net.config)).distances
    torch.testing.assert_close(net(graph).distances[edge_batch(graph) == 1], alone, rtol=0, atol=1e-12)
