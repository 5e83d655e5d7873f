"""The inference function: the end-to-end way with a small network of random weights, both ways with shipped ones."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from ase.build import mx2

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import ModelError
from deeprelax_ase.geometry import EDGSettings
from deeprelax_ase.graph import CrystalGraph, build_graph, neighbor_graph
from deeprelax_ase.models.model import Model
from deeprelax_ase.nn.records import KnownForces
from deeprelax_ase.prediction.inference import BatchRelaxation, InferenceSettings
from deeprelax_ase.prediction.inference import relax as infer
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.prediction.symmetry import BatchSymmetry
from deeprelax_ase.uncertainty.calibration import FEATURES, ErrorFeatures
from deeprelax_ase.uncertainty.kinds import BULK, DEFECT, OXIDE
from tests.crystals import BY_DISTANCES, CRYSTALS, DISTORTED, END_TO_END, rotation
from tests.prediction.small_networks import CONFIG, make_model, predictor

pytestmark = pytest.mark.shapes


@pytest.fixture(scope="module")
def model() -> Model:
    return make_model()


@pytest.fixture(scope="module")
def graph() -> CrystalGraph:
    return build_graph(list(CRYSTALS.values()), settings=CONFIG.graph)


def relax(model: Model, graph: CrystalGraph, *, recycles: int = 1, **options) -> BatchRelaxation:
    return infer(model, graph, InferenceSettings.of(model.card, recycles=recycles), dtype=torch.float64, **options)


def test_the_network_below_does_relax(model: Model, graph: CrystalGraph):
    relaxed = relax(model, graph)
    assert 0.005 < (torch.linalg.det(relaxed.cell) / torch.linalg.det(graph.cell) - 1).abs().max() < 0.5
    for name in DISTORTED:
        assert 0.002 < np.abs(predictor(model).predict(CRYSTALS[name]).displacements).max() < 1, name


# Recycles


@pytest.mark.parametrize("relax_cell", [True, False])
def test_two_recycles_are_two_predictions(model: Model, relax_cell: bool):
    once, twice = predictor(model), predictor(model, recycles=2)
    for name in DISTORTED:
        first = once.predict(CRYSTALS[name], relax_cell=relax_cell)
        second = once.predict(first.relaxed, relax_cell=relax_cell)
        together = twice.predict(CRYSTALS[name], relax_cell=relax_cell)
        # each recycle leaves a rotation of its own; a crystal does not know of it
        metric = second.relaxed.cell @ second.relaxed.cell.T
        np.testing.assert_allclose(together.relaxed.cell @ together.relaxed.cell.T, metric, rtol=0, atol=1e-9)
        np.testing.assert_allclose(
            together.relaxed.fractional_positions, second.relaxed.fractional_positions, rtol=0, atol=1e-10
        )
        last = {name for name in FEATURES if not name.startswith("first")}
        told, again, start = (vars(prediction.features) for prediction in (together, second, first))
        assert {n: told[n] for n in last} == pytest.approx({n: again[n] for n in last}, abs=1e-9)
        for name in ("first_displacement_scale", "first_volume_scale"):
            assert told[name] == pytest.approx(start[name], abs=1e-9)
        assert together.uncertainty.total == pytest.approx(second.uncertainty.total, abs=1e-9)
        assert np.abs(second.relaxed.positions - first.relaxed.positions).max() > 1e-3


def test_uncertainty_is_on_the_edges_of_the_last_recycle(model: Model, graph: CrystalGraph):
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
def test_only_the_first_recycle_sees_the_forces(graph: CrystalGraph, known: KnownForces, relax_cell: bool):
    """They are those of the unrelaxed crystals."""
    model = make_model(config=replace(CONFIG, reads_forces=True))
    first = relax(model, graph, known=known, relax_cell=relax_cell)
    there = neighbor_graph(graph.numbers, first.positions, first.cell, graph.batch, settings=CONFIG.graph)
    second = relax(model, there, relax_cell=relax_cell)
    both = relax(model, graph, known=known, relax_cell=relax_cell, recycles=2)
    # each recycle leaves a rotation of its own
    torch.testing.assert_close(both.cell @ both.cell.mT, second.cell @ second.cell.mT, rtol=0, atol=1e-9)
    fractional, expected = (torch.linalg.solve(r.cell.mT[graph.batch], r.positions) for r in (both, second))
    torch.testing.assert_close(fractional, expected, rtol=0, atol=1e-10)
    blind = relax(model, graph, relax_cell=relax_cell)
    moved = (first.positions - blind.positions).norm(dim=1)
    assert moved[known.has_forces[graph.batch]].max() > 1e-3
    assert moved[~known.has_forces[graph.batch]].max() < 1e-10


def test_kinds_of_crystals_reach_the_error_features(model: Model, graph: CrystalGraph):
    oxides = [OXIDE if 8 in crystal.numbers else BULK for crystal in CRYSTALS.values()]
    assert relax(model, graph).features.kinds().tolist() == oxides
    assert set(relax(model, graph, relax_cell=False).features.kinds().tolist()) == {DEFECT}


def test_one_member_has_no_spread(graph: CrystalGraph):
    features = relax(make_model(1), graph).features
    assert not features.displacement_spread.any()
    assert not features.strain_spread.any()


def test_error_features_do_not_turn(model: Model):
    turn = rotation(9)
    for name in DISTORTED:
        crystal = CRYSTALS[name]
        turned = crystal.with_geometry(crystal.positions @ turn, crystal.cell @ turn)
        still, after = (predictor(model, recycles=2).predict(c).features for c in (crystal, turned))
        assert [getattr(after, f.name) for f in fields(ErrorFeatures)] == pytest.approx(
            [getattr(still, f.name) for f in fields(ErrorFeatures)], abs=1e-10
        )


# Options


def test_recycles_of_a_network_that_looks_once_are_refused(shipped):
    model = shipped("DeepRelax-PBE-v0")
    assert InferenceSettings.of(model.card) == InferenceSettings.of(model.card, recycles=1)
    for refused in (2, 3):
        with pytest.raises(ModelError, match=rf"DeepRelax-PBE-v0 .* once: leave recycles={refused} out"):
            Predictor(model, device="cpu", recycles=refused)


def test_a_solver_where_there_is_nothing_to_solve_is_refused(model: Model):
    with pytest.raises(ModelError, match=r"small predicts positions, without a geometry solver: leave solver= out"):
        predictor(model, solver=EDGSettings())


@pytest.mark.parametrize("recycles", [0, -1])
def test_no_recycles_are_refused(model: Model, recycles: int):
    with pytest.raises(ValueError, match=f"recycles must be between 1 and 64, got {recycles}"):
        predictor(model, recycles=recycles)


# The same by every way


@pytest.mark.parametrize("relax_cell", [True, False])
@pytest.mark.parametrize("name", [END_TO_END, BY_DISTANCES])
def test_it_is_what_the_predictor_does(shipped, name: str, relax_cell: bool):
    model, crystals = shipped(name), [CRYSTALS[each] for each in DISTORTED]
    graph = build_graph(crystals, settings=model.config.graph, dtype=torch.float32)
    found = infer(model, graph, relax_cell=relax_cell)
    predictor = Predictor(model, device="cpu", leave_within_error=False)
    positions = found.positions.split([len(crystal) for crystal in crystals])
    for k, expected in enumerate(predictor.predict_many(crystals, relax_cell=relax_cell)):
        np.testing.assert_allclose(found.cell[k], expected.relaxed.cell, rtol=0, atol=1e-5)
        np.testing.assert_allclose(positions[k], expected.relaxed.positions, rtol=0, atol=1e-5)


def test_symmetry_is_projected_onto(model: Model):
    crystals = [CRYSTALS["perovskite"], CRYSTALS["triclinic"]]
    graph = build_graph(crystals, settings=CONFIG.graph)
    noise = graph.positions + 0.01 * torch.randn(graph.positions.shape, dtype=torch.float64)
    symmetry = BatchSymmetry.of(crystals)
    free_cells = torch.zeros(2, dtype=torch.bool)
    positions, cell = symmetry.project(noise, graph.cell * 1.01, fixed_cell=free_cells)
    first = graph.batch == 0  # each of its sites is fixed
    np.testing.assert_allclose(positions[first], 1.01 * graph.positions[first], rtol=0, atol=1e-9)
    torch.testing.assert_close(positions[~first], noise[~first], rtol=0, atol=1e-12)
    _, cell = symmetry.project(noise, graph.cell * 1.01, fixed_cell=~free_cells)
    assert torch.equal(cell, graph.cell)


def test_layers_keep_their_vacuum(model: Model):
    """Whether the cell is relaxed or not, and after any number of recycles."""
    layer = CRYSTALS["triclinic"]
    cell = np.array(layer.cell)
    cell[2] *= 5
    layer = layer.with_geometry(layer.positions, cell)
    graph = build_graph([layer], settings=CONFIG.graph)
    for recycles in (1, 3):
        after = relax(model, graph, recycles=recycles).cell[0].numpy()
        heights = [np.linalg.det(c) / np.linalg.norm(np.cross(c[0], c[1])) for c in (cell, after)]
        assert heights[1] == pytest.approx(heights[0], abs=1e-9)
        assert np.abs(after - cell).max() > 1e-3


# -- cells that may not be strained in all directions


@pytest.fixture(scope="module")
def reader() -> Model:
    """Reads in how many directions cells may be strained."""
    return make_model(config=replace(CONFIG, reads_cell_freedom=True))


@pytest.mark.parametrize("recycles", [1, 2])
def test_networks_are_told_that_cells_are_fixed(reader: Model, graph: CrystalGraph, recycles: int):
    told = relax(reader, graph, relax_cell=False, recycles=recycles)
    untold = Model(reader.card, deepcopy(reader.networks))
    for network in untold.networks:
        network.freedoms.weight.copy_(network.freedoms.weight[3].expand(4, -1))  # as if all directions were free
    assert torch.equal(told.cell, graph.cell)
    assert (relax(untold, graph, relax_cell=False, recycles=recycles).positions - told.positions).abs().max() > 1e-3
    free = [relax(model, graph, recycles=recycles).positions for model in (untold, reader)]
    assert torch.equal(*free)


@pytest.mark.parametrize("reads", [True, False])
def test_layers_are_strained_in_their_plane(reader: Model, model: Model, reads: bool):
    atoms = mx2("MoS2", vacuum=8.0)
    layer = build_graph([Crystal(atoms.numbers, atoms.positions, atoms.cell.array)], settings=CONFIG.graph)
    relaxed = relax(reader if reads else model, layer)
    assert (relaxed.cell[0, 2] - layer.cell[0, 2]).abs().max() < 1e-12
    assert (relaxed.cell[0, :2] - layer.cell[0, :2]).abs().max() > 1e-3
    # A network that is not told strains across the plane, and the prediction alone is projected.
    assert bool(relaxed.members.strain[:, 0, 2].abs().max() > 1e-12) != reads
