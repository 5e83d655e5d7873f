"""The end-to-end way from a network to relaxed crystals, with a small network of random weights."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import nn

from deeprelax_ase.geometry.quantities import SiteSymmetry
from deeprelax_ase.graph import CrystalGraph, build_graph, edge_vectors, neighbor_graph
from deeprelax_ase.models.registry import Model, ModelCard
from deeprelax_ase.nn import DeepRelaxE3, DeepRelaxE3Config
from deeprelax_ase.nn.records import KnownForces, Relaxation
from deeprelax_ase.prediction.inference import BatchRelaxation, error_features, implied_distances, relax_end_to_end
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.uncertainty.calibration import ErrorFeatures
from tests.crystals import CRYSTALS, DISTORTED, rotation

CONFIG = DeepRelaxE3Config(channels=8, num_blocks=2, layers_per_block=1, num_basis=10, levels=("PBE", "M3GNet"))


def random_network(seed: int, config: DeepRelaxE3Config = CONFIG) -> DeepRelaxE3:
    """Its crystals strain by some per cent, its atoms move by some 0.01 Å."""
    torch.manual_seed(seed)
    network = DeepRelaxE3(config).double().eval().requires_grad_(False)

    def shuffle(module: nn.Module, spread: float) -> None:
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=spread / parameter.shape[-1] ** 0.5)

    shuffle(network, 1.5)
    for block in network.blocks:
        shuffle(block.refinement.gates[-1], 0.25)
    return network


def make_model(members: int = 2, *, level: str = "PBE", config: DeepRelaxE3Config = CONFIG) -> Model:
    words = dict.fromkeys(("description", "level_of_theory", "training_data", "split", "sha256"), "")
    card = ModelCard(
        name="small",
        elements=list(range(1, 95)),
        members=members,
        parameters=0,
        config=config.to_dict(),
        architecture="DeepRelaxE3",
        level=level,
        **words,
    )
    return Model(card, nn.ModuleList(random_network(seed, config) for seed in range(members)))


@pytest.fixture(scope="module")
def model() -> Model:
    return make_model()


@pytest.fixture(scope="module")
def graph() -> CrystalGraph:
    return build_graph(list(CRYSTALS.values()), backend="torch", settings=CONFIG.graph)


def relax(
    model: Model, graph: CrystalGraph, *, relax_cell: bool = True, recycles: int = 1, **options
) -> BatchRelaxation:
    with torch.inference_mode():
        return relax_end_to_end(
            model, graph, torch.float64, lambda _: nullcontext(), relax_cell=relax_cell, recycles=recycles, **options
        )


def predictor(model: Model, **options) -> Predictor:
    return Predictor(model, device="cpu", dtype="float64", graph_backend="torch", keep_symmetry=False, **options)


def test_the_network_below_does_relax(model: Model, graph: CrystalGraph):
    relaxed = relax(model, graph)
    assert 0.005 < (torch.linalg.det(relaxed.cell) / torch.linalg.det(graph.cell) - 1).abs().max() < 0.5
    for name in DISTORTED:
        assert 0.002 < np.abs(predictor(model).predict(CRYSTALS[name]).displacements).max() < 1, name


# Passes


@pytest.mark.parametrize("relax_cell", [True, False])
def test_two_passes_are_two_predictions(model: Model, relax_cell: bool):
    once, twice = predictor(model), predictor(model, recycles=2)
    for name in DISTORTED:
        first = once.predict(CRYSTALS[name], relax_cell=relax_cell)
        second = once.predict(first.relaxed, relax_cell=relax_cell)
        together = twice.predict(CRYSTALS[name], relax_cell=relax_cell)
        # each pass leaves a rotation of its own; a crystal does not know of it
        metric = second.relaxed.cell @ second.relaxed.cell.T
        np.testing.assert_allclose(together.relaxed.cell @ together.relaxed.cell.T, metric, rtol=0, atol=1e-9)
        np.testing.assert_allclose(
            together.relaxed.fractional_positions, second.relaxed.fractional_positions, rtol=0, atol=1e-10
        )
        assert vars(together.features) == pytest.approx(vars(second.features), abs=1e-9)
        assert together.uncertainty.total == pytest.approx(second.uncertainty.total, abs=1e-9)
        assert np.abs(second.relaxed.positions - first.relaxed.positions).max() > 1e-3


def test_uncertainty_is_on_the_edges_of_the_last_pass(model: Model, graph: CrystalGraph):
    relaxed = relax(model, graph, recycles=2)
    assert relaxed.graph is not graph
    assert len(relaxed.uncertainty.distances.total) == relaxed.graph.num_edges
    assert relax(model, graph, recycles=1).graph is graph


@pytest.mark.parametrize("recycles", [1, 3])
def test_no_rotation_is_left(model: Model, graph: CrystalGraph, recycles: int):
    """Of crystals without symmetry too: the deformation is symmetric."""
    relaxed = relax(model, graph, recycles=recycles)
    deformation = torch.linalg.solve(graph.cell, relaxed.cell)
    torch.testing.assert_close(deformation, deformation.mT, rtol=0, atol=1e-12)
    assert (deformation - torch.eye(3)).abs().amax(dim=(1, 2)).min() > 1e-3


@pytest.mark.parametrize("recycles", [1, 2])
def test_cell_is_kept_to_the_bit(model: Model, graph: CrystalGraph, recycles: int):
    kept, free = relax(model, graph, relax_cell=False, recycles=recycles), relax(model, graph, recycles=recycles)
    assert torch.equal(kept.cell, graph.cell)
    assert (free.cell - graph.cell).abs().max() > 1e-2
    assert (kept.positions - graph.positions).abs().max() > 1e-3
    assert not kept.features.last_strain.any()
    assert not kept.features.strain_spread.any()


def test_prediction_is_the_mean_of_the_members(model: Model, graph: CrystalGraph):
    with torch.inference_mode():
        members = [network(graph)[-1] for network in model.networks]
    mean = torch.stack([m.strain for m in members]).mean(dim=0)
    stretch = torch.linalg.matrix_exp(mean)
    cell = graph.cell @ stretch
    displacements = torch.stack([m.displacements for m in members]).mean(dim=0)
    positions = torch.einsum("nx,nxy->ny", graph.positions, stretch[graph.batch]) + displacements
    relaxed = relax(model, graph)
    torch.testing.assert_close(relaxed.cell, cell, rtol=0, atol=1e-10)
    torch.testing.assert_close(relaxed.positions, positions, rtol=0, atol=1e-10)
    assert relaxed.converged.all()
    assert not relaxed.steps.any()


def test_levels_relax_to_different_crystals(graph: CrystalGraph):
    pbe, m3gnet = (relax(make_model(level=level), graph) for level in CONFIG.levels)
    assert (pbe.cell - m3gnet.cell).abs().max() > 1e-3


@pytest.fixture(scope="module")
def known(graph: CrystalGraph) -> KnownForces:
    """Random forces, in every other crystal."""
    generator = torch.Generator().manual_seed(6)
    virial = torch.randn(graph.cell.shape, generator=generator, dtype=torch.float64)
    return KnownForces(
        forces=torch.randn(graph.positions.shape, generator=generator, dtype=torch.float64),
        virial=5 * (virial + virial.mT),
        has_forces=torch.arange(graph.num_crystals) % 2 == 0,
    )


@pytest.mark.parametrize("relax_cell", [True, False])
def test_only_the_first_pass_sees_the_forces(graph: CrystalGraph, known: KnownForces, relax_cell: bool):
    """They are those of the unrelaxed crystals."""
    model = make_model(config=replace(CONFIG, reads_forces=True))
    first = relax(model, graph, known=known, relax_cell=relax_cell)
    there = neighbor_graph(graph.numbers, first.positions, first.cell, graph.batch, settings=CONFIG.graph)
    second = relax(model, there, relax_cell=relax_cell)
    both = relax(model, graph, known=known, relax_cell=relax_cell, recycles=2)
    # each pass leaves a rotation of its own
    torch.testing.assert_close(both.cell @ both.cell.mT, second.cell @ second.cell.mT, rtol=0, atol=1e-9)
    fractional, expected = (torch.linalg.solve(r.cell.mT[graph.batch], r.positions) for r in (both, second))
    torch.testing.assert_close(fractional, expected, rtol=0, atol=1e-10)
    blind = relax(model, graph, relax_cell=relax_cell)
    moved = (first.positions - blind.positions).norm(dim=1)
    assert moved[known.has_forces[graph.batch]].max() > 1e-3
    assert moved[~known.has_forces[graph.batch]].max() < 1e-10


# Distances and their scales


def members_of(graph: CrystalGraph, count: int = 1, **scales: float) -> Relaxation:
    """Random relaxations of ``graph`` with the scales that are given, otherwise none."""
    generator = torch.Generator().manual_seed(2)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    strain = 0.05 * normal(count, graph.num_crystals, 3, 3)
    crystals = torch.zeros(count, graph.num_crystals, dtype=torch.float64)
    return Relaxation(
        displacements=0.1 * normal(count, graph.num_atoms, 3),
        strain=(strain + strain.mT) / 2,
        displacement_scales=torch.full((count, graph.num_atoms), scales.get("displacement", 0.0), dtype=torch.float64),
        volume_scales=crystals + scales.get("volume", 0.0),
        shape_scales=crystals + scales.get("shape", 0.0),
    )


@pytest.mark.parametrize("recycles", [1, 2])
def test_implied_distances_are_bonds_of_the_relaxed_crystal(graph: CrystalGraph, monkeypatch, recycles: int):
    seen = []

    def spy(members: Relaxation, on: CrystalGraph):
        seen.append(implied_distances(members, on).distances)
        return implied_distances(members, on)

    monkeypatch.setattr("deeprelax_ase.prediction.inference.implied_distances", spy)
    relaxed = relax(make_model(1), graph, recycles=recycles)
    (distances,) = seen
    bonds = torch.linalg.vector_norm(edge_vectors(relaxed.graph, relaxed.positions, relaxed.cell), dim=1)
    torch.testing.assert_close(distances[0], bonds, rtol=0, atol=1e-10)


def test_every_scale_lengthens_those_of_distances(graph: CrystalGraph):
    none = implied_distances(members_of(graph), graph)
    assert not none.distance_scales.any()
    scales: dict[str, float] = {}
    before = none.distance_scales
    for name in ("displacement", "volume", "shape"):
        scales[name] = 0.01
        after = implied_distances(members_of(graph, **scales), graph).distance_scales
        assert (after > before + 1e-5).all(), name
        before = after


def test_scales_of_distances(graph: CrystalGraph):
    """Against errors drawn at random: a displacement's component, a strain's on the bond."""
    displaced = implied_distances(members_of(graph, displacement=0.03), graph).distance_scales
    torch.testing.assert_close(displaced, torch.full_like(displaced, 0.03 * (2 / 3) ** 0.5), rtol=1e-12, atol=0)
    swollen = implied_distances(members_of(graph, volume=0.03), graph)
    torch.testing.assert_close(swollen.distance_scales, 0.01 * swollen.distances, rtol=1e-12, atol=0)
    generator = torch.Generator().manual_seed(5)
    strain = torch.randn(200_000, 3, 3, generator=generator, dtype=torch.float64)
    strain = (strain + strain.mT) / 2
    strain = strain - torch.diag_embed((torch.diagonal(strain, dim1=1, dim2=2).mean(dim=1))[:, None].expand(-1, 3))
    strain = strain / torch.linalg.matrix_norm(strain)[:, None, None]
    sheared = implied_distances(members_of(graph, shape=0.03), graph)
    on_the_bond = strain[:, 0, 0].square().mean().sqrt()
    expected = 0.03 * on_the_bond * sheared.distances
    torch.testing.assert_close(sheared.distance_scales, expected, rtol=0.01, atol=0)


# Signs of error


def everywhere(graph: CrystalGraph) -> SiteSymmetry:
    """No symmetry at all."""
    return SiteSymmetry(torch.ones(len(graph.batch), dtype=torch.float64), torch.bincount(graph.batch))


def test_signs_of_error(graph: CrystalGraph):
    members = members_of(graph, 3, displacement=0.02, volume=0.03, shape=0.04)
    features = error_features(members, graph.batch, everywhere(graph))
    for name, value in {"displacement_scale": 0.02, "volume_scale": 0.03, "shape_scale": 0.04}.items():
        torch.testing.assert_close(getattr(features, name), torch.full((len(CRYSTALS),), value, dtype=torch.float64))
    moves, strain = members.displacements, members.strain
    for g in range(len(CRYSTALS)):
        own = moves[:, graph.batch == g]
        scatter = (own - own.mean(dim=0)).norm(dim=2).square().mean().sqrt()
        assert features.displacement_spread[g] == pytest.approx(float(scatter))
        assert features.last_displacement[g] == pytest.approx(float(own.mean(dim=0).norm(dim=1).square().mean().sqrt()))
        off = torch.linalg.matrix_norm(strain[:, g] - strain[:, g].mean(dim=0))
        assert features.strain_spread[g] == pytest.approx(float(off.square().mean().sqrt()))
        assert features.last_strain[g] == pytest.approx(float(torch.linalg.matrix_norm(strain[:, g].mean(dim=0))))


def test_errors_count_less_where_symmetry_leaves_less_motion(graph: CrystalGraph):
    freedom = torch.rand(len(graph.batch), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    freedom[graph.batch == 1] = 0.0
    features = error_features(
        members_of(graph, displacement=0.02), graph.batch, everywhere(graph)._replace(freedom=freedom)
    )
    for g in range(len(CRYSTALS)):
        assert features.displacement_scale[g] == pytest.approx(0.02 * float(freedom[graph.batch == g].sqrt().mean()))


def test_freedom_reaches_the_signs_of_error(model: Model, graph: CrystalGraph):
    free = everywhere(graph)
    sites = (None, free, free._replace(freedom=free.freedom / 4))
    plain, same, quarter = (relax(model, graph, sites=each).features for each in sites)
    for f in fields(ErrorFeatures):
        factor = 0.5 if f.name == "displacement_scale" else 1.0
        torch.testing.assert_close(getattr(same, f.name), getattr(plain, f.name), rtol=0, atol=0)
        expected = (factor * getattr(plain, f.name)).to(getattr(quarter, f.name))
        torch.testing.assert_close(getattr(quarter, f.name), expected, rtol=1e-12, atol=0)


def test_one_member_has_no_spread(graph: CrystalGraph):
    features = relax(make_model(1), graph).features
    assert not features.displacement_spread.any()
    assert not features.strain_spread.any()


def test_signs_do_not_turn(model: Model):
    turn = rotation(9)
    for name in DISTORTED:
        crystal = CRYSTALS[name]
        turned = crystal.with_geometry(crystal.positions @ turn, crystal.cell @ turn)
        still, after = (predictor(model, recycles=2).predict(c).features for c in (crystal, turned))
        assert [getattr(after, f.name) for f in fields(ErrorFeatures)] == pytest.approx(
            [getattr(still, f.name) for f in fields(ErrorFeatures)], abs=1e-10
        )
