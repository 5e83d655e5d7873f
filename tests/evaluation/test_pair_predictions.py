"""Predictions of pairs in bulk: those of the predictor, without symmetry."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from deeprelax_ase import Crystal, Predictor
from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.data.pairs import crystals_of
from deeprelax_ase.errors import ModelError
from deeprelax_ase.evaluation.pair_predictions import predict_pairs
from deeprelax_ase.models.model import Model, model_of
from deeprelax_ase.nn import DeepRelaxE3, DeepRelaxE3Config


@pytest.fixture
def distorted(pairs_of) -> RelaxationPairs:
    """Three pairs that no symmetry holds in place."""
    return pairs_of(3, seed=5)


def test_bulk_predictions_are_the_predictors(model: Model, distorted: RelaxationPairs) -> None:
    bulk = predict_pairs(model, distorted)
    predictor = Predictor(model, device="cpu", keep_symmetry=False, leave_within_error=False)
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


def test_recycles_may_differ_from_the_cards(distorted: RelaxationPairs, shipped) -> None:
    model = shipped("DeepRelax-PBE")
    recycles = model.card.recycles
    assert torch.equal(predict_pairs(model, distorted).cell, predict_pairs(model, distorted, recycles=recycles).cell)
    assert (
        predict_pairs(model, distorted, recycles=recycles + 1).cell - predict_pairs(model, distorted).cell
    ).abs().max() > 1e-4


def test_options_that_the_model_has_no_use_for_are_refused(distorted: RelaxationPairs, shipped) -> None:
    with pytest.raises(ModelError, match="recycles=2"):
        predict_pairs(shipped("DeepRelax-PBE-v0"), distorted, recycles=2)


def test_nothing_to_do_is_refused(distorted: RelaxationPairs, model: Model) -> None:
    with pytest.raises(ValueError, match="no pairs"):
        predict_pairs(model, distorted.take(torch.arange(0)))


def test_layers_keep_their_vacuum(distorted: RelaxationPairs, shipped) -> None:
    """As with the predictor: how wide it is, no network can tell."""
    height = distorted.cell_initial.clone()
    height[:, 2] *= 5
    scale = distorted.fractional_initial.new_tensor([1, 1, 0.2])
    layers = replace(distorted, fractional_initial=distorted.fractional_initial * scale, cell_initial=height)
    relaxed = predict_pairs(shipped("DeepRelax-PBE"), layers)
    for before, after in zip(height, relaxed.cell, strict=True):
        volumes = [Crystal([1], [[0, 0, 0]], cell.numpy()).volume for cell in (before, after)]
        areas = [torch.linalg.vector_norm(torch.linalg.cross(cell[0], cell[1])).item() for cell in (before, after)]
        assert volumes[1] / areas[1] == pytest.approx(volumes[0] / areas[0], abs=1e-6)  # Å, the height
        assert areas[1] != pytest.approx(areas[0], abs=1e-3)


def reader(**switches: bool) -> Model:
    """A small random network, of one level of theory."""
    torch.manual_seed(3)
    network = DeepRelaxE3(DeepRelaxE3Config(channels=8, num_blocks=2, layers_per_block=1, num_basis=8, **switches))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model_of([network.double()], "small", level="PBE")


def test_fixed_cells_are_kept_by_networks_that_read_them(pairs_of) -> None:
    pairs = pairs_of(6, seed=5)
    pairs = replace(pairs, fixed_cell=torch.tensor([True, False, False, True, True, False]))
    model = reader(reads_cell_freedom=True)
    mixed = predict_pairs(model, pairs, atoms_per_batch=5)
    assert torch.equal(mixed.cell[pairs.fixed_cell], pairs.cell_initial[pairs.fixed_cell])
    assert (mixed.cell - pairs.cell_initial)[~pairs.fixed_cell].abs().amax(dim=(1, 2)).min() > 1e-4
    for k in range(6):  # each in its own place
        alone = predict_pairs(model, pairs.take(torch.tensor([k])))
        torch.testing.assert_close(mixed.fractional[pairs.batch == k], alone.fractional, rtol=0, atol=1e-9)
        torch.testing.assert_close(mixed.cell[k], alone.cell[0], rtol=0, atol=1e-9)
        torch.testing.assert_close(mixed.uncertainty[k], alone.uncertainty[0], rtol=1e-9, atol=0)


def test_networks_that_do_not_read_fixed_cells_relax_them(pairs_of) -> None:
    pairs = pairs_of(4, seed=5)
    fixed = replace(pairs, fixed_cell=torch.ones(4, dtype=torch.bool))
    assert torch.equal(predict_pairs(reader(), fixed).cell, predict_pairs(reader(), pairs).cell)
