from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from deeprelax_ase import Predictor
from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.data.pairs import crystals_of
from deeprelax_ase.models.registry import Model
from deeprelax_ase.nn import DeepRelaxE3, DeepRelaxE3Config
from deeprelax_ase.nn.heads import symmetric_exponential
from deeprelax_ase.training.evaluate import BulkRelaxation, predict_pairs, relax_pairs
from deeprelax_ase.training.graphs import pair_graph

CONFIG = DeepRelaxE3Config(
    channels=8, num_blocks=2, layers_per_block=1, num_basis=8, max_neighbors=8, levels=("OAM", "PBE")
)


def network(*, seed: int = 0, trained: bool = True, levels: tuple[str, ...] = CONFIG.levels) -> DeepRelaxE3:
    torch.manual_seed(seed)
    made = DeepRelaxE3(replace(CONFIG, levels=levels)).double()
    if trained:
        for block in made.blocks:
            torch.nn.init.normal_(block.refinement.gates[-1].weight, std=0.3)
    return made


def assert_same(actual: BulkRelaxation, expected: BulkRelaxation, atol: float) -> None:
    for f in fields(BulkRelaxation):
        torch.testing.assert_close(
            getattr(actual, f.name), getattr(expected, f.name), rtol=0, atol=atol, msg=lambda m, f=f: f"{f.name}: {m}"
        )


@pytest.fixture
def pairs(pairs_of) -> RelaxationPairs:
    return pairs_of(7)


def test_untrained_networks_return_the_unrelaxed_crystals(pairs: RelaxationPairs) -> None:
    found = relax_pairs([network(seed=k, trained=False) for k in (0, 1)], pairs, "PBE", recycles=2)
    assert torch.equal(found.fractional, pairs.fractional_initial)
    assert torch.equal(found.cell, pairs.cell_initial)
    assert not found.displacement_variance.any()
    assert not found.strain_variance.any()


def test_one_network_does_what_it_predicts(pairs: RelaxationPairs) -> None:
    net = network()
    found = relax_pairs([net], pairs, "PBE")
    with torch.no_grad():
        expected = net(pair_graph(pairs, CONFIG.graph), level=1)[-1]
    cell = pairs.cell_initial @ symmetric_exponential(expected.strain)
    torch.testing.assert_close(found.cell, cell, rtol=0, atol=1e-13)
    moves = ((found.fractional - pairs.fractional_initial)[:, None] @ cell[pairs.batch]).squeeze(1)
    torch.testing.assert_close(moves, expected.displacements, rtol=0, atol=1e-13)
    for name in ("displacement_scales", "volume_scales", "shape_scales"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert moves.abs().max() > 1e-4
    assert not found.displacement_variance.any()


def test_levels_go_by_their_names(pairs: RelaxationPairs) -> None:
    net = network()
    by_name = {level: relax_pairs([net], pairs, level).cell for level in CONFIG.levels}
    assert (by_name["PBE"] - by_name["OAM"]).abs().max() > 1e-4
    net.levels.weight.data = net.levels.weight.data.flip(0)
    renamed = DeepRelaxE3(replace(CONFIG, levels=("PBE", "OAM"))).double()
    renamed.load_state_dict(net.state_dict())
    assert torch.equal(relax_pairs([renamed], pairs, "PBE").cell, by_name["PBE"])
    with pytest.raises(ValueError, match=r"Unknown level='M3GNet', must be one of \('OAM', 'PBE'\)"):
        relax_pairs([net], pairs, "M3GNet")


def test_two_passes_are_one_pass_applied_twice(pairs: RelaxationPairs) -> None:
    networks = [network(seed=k) for k in (0, 1)]
    once = relax_pairs(networks, pairs, "PBE")
    again = relax_pairs(networks, replace(pairs, fractional_initial=once.fractional, cell_initial=once.cell), "PBE")
    assert_same(relax_pairs(networks, pairs, "PBE", recycles=2), again, atol=0)
    assert (again.cell - once.cell).abs().max() > 1e-4


def test_the_size_of_the_batches_does_not_matter(pairs: RelaxationPairs) -> None:
    net = network()
    assert_same(relax_pairs([net], pairs, "PBE", atoms_per_batch=5), relax_pairs([net], pairs, "PBE"), atol=1e-12)


def test_members_are_averaged_and_their_scatter_is_reported(pairs: RelaxationPairs) -> None:
    networks = [network(seed=k) for k in (0, 1, 2)]
    with torch.no_grad():
        members = [net(pair_graph(pairs, CONFIG.graph), level=1)[-1] for net in networks]
    found = relax_pairs(networks, pairs, "PBE")
    strain = torch.stack([m.strain for m in members])
    moves = torch.stack([m.displacements for m in members])
    expected = pairs.cell_initial @ symmetric_exponential(strain.mean(dim=0))
    torch.testing.assert_close(found.cell, expected, rtol=0, atol=1e-13)
    for variance, values in ((found.displacement_variance, moves), (found.strain_variance, strain)):
        spread = values.var(dim=0, unbiased=False).flatten(start_dim=1).sum(dim=1)
        torch.testing.assert_close(variance, spread, rtol=1e-10, atol=0)
        assert variance.min() > 0
    scales = torch.stack([m.volume_scales for m in members]).mean(dim=0)
    torch.testing.assert_close(found.volume_scales, scales, rtol=1e-14, atol=0)


@pytest.mark.parametrize(("size", "recycles"), [(0, 1), (7, 0)])
def test_nothing_to_do_is_refused(pairs: RelaxationPairs, size: int, recycles: int) -> None:
    with pytest.raises(ValueError, match=f"{size} pairs and {recycles} passes"):
        relax_pairs([network()], pairs.take(torch.arange(size)), "PBE", recycles=recycles)


# -- what the predictor does, in bulk


@pytest.fixture
def distorted(pairs_of) -> RelaxationPairs:
    """Three pairs that no symmetry holds in place."""
    return pairs_of(3, seed=5)


def test_bulk_predictions_are_the_predictors(model: Model, distorted: RelaxationPairs) -> None:
    bulk = predict_pairs(model, distorted)
    predictor = Predictor(model, device="cpu", graph_backend="torch", keep_symmetry=False, leave_within_error=False)
    expected = list(predictor.predict_many(crystals_of(distorted, "initial")))
    cells, batch = bulk.cell, distorted.batch
    positions = (bulk.fractional[:, None] @ cells[batch]).squeeze(1)
    for k, result in enumerate(expected):
        np.testing.assert_allclose(cells[k], result.relaxed.cell, rtol=0, atol=1e-4)
        np.testing.assert_allclose(positions[batch == k], result.relaxed.positions, rtol=0, atol=1e-4)
        assert bulk.uncertainty[k].sqrt().item() == pytest.approx(result.uncertainty.total, rel=1e-3)
    assert (bulk.cell - distorted.cell_initial).abs().max() > 0.01


def test_batches_of_bulk_predictions_do_not_matter(model: Model, distorted: RelaxationPairs) -> None:
    one = predict_pairs(model, distorted, atoms_per_batch=4)
    whole = predict_pairs(model, distorted)
    for name in ("fractional", "cell", "uncertainty"):
        torch.testing.assert_close(getattr(one, name), getattr(whole, name), rtol=1e-4, atol=1e-4)


def test_passes_may_differ_from_the_cards(distorted: RelaxationPairs, shipped) -> None:
    model = shipped("DeepRelax-PBE")
    recycles = model.card.recycles
    assert torch.equal(predict_pairs(model, distorted).cell, predict_pairs(model, distorted, recycles=recycles).cell)
    assert (
        predict_pairs(model, distorted, recycles=recycles + 1).cell - predict_pairs(model, distorted).cell
    ).abs().max() > 1e-4
