from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from deeprelax_ase.data import LEVELS, RelaxationPairs
from deeprelax_ase.evaluation.metrics import prediction_errors
from deeprelax_ase.nn import DeepRelaxE3Config
from deeprelax_ase.training import AugmentationSettings, TrainingSettings, train
from deeprelax_ase.training.e3_task import DeepRelaxE3Task, flat_tensors
from deeprelax_ase.training.padding import Sizes, pad
from tests.training.e3_runs import (
    CONFIG,
    MEASURES,
    QUICK,
    assert_equal,
    differ,
    gradients,
    predictions,
    task_on,
    trained,
)
from tests.training.runs import STILL, PairsOf, records

# -- the task


def test_gradients_are_those_of_the_batch_and_not_added_up(pairs_of: PairsOf) -> None:
    chosen = torch.tensor([3, 0, 5])
    settings = replace(QUICK, augmentation=STILL, recycled=0.0)
    torch.manual_seed(0)
    task = DeepRelaxE3Task(pairs_of(8, dtype=torch.float32), CONFIG, settings)
    first = task.gradients(chosen, chosen)
    gradients = [p.grad.clone() for p in task.network.parameters() if p.grad is not None]
    second = task.gradients(chosen, torch.tensor([1]))
    assert set(first) == {"loss", *MEASURES}
    assert first == second
    again = [p.grad for p in task.network.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(gradients, again, strict=True))
    assert any(gradient.any() for gradient in gradients)
    # An untrained network moves nothing: its errors are how far the crystals relax.
    assert first["volume"].item() == pytest.approx(-3 * np.log(0.95), rel=1e-4)


def test_predictions_are_recycled(pairs_of: PairsOf) -> None:
    pairs, chosen = pairs_of(8), torch.tensor([3, 0, 5])
    settings = replace(QUICK, augmentation=STILL, recycled=1.0)
    torch.manual_seed(0)
    task = DeepRelaxE3Task(pairs, CONFIG, settings)
    task.network.double()
    for block in task.network.blocks:
        torch.nn.init.normal_(block.refinement.gates[-1].weight, std=0.05)
    task.gradients(chosen, chosen)
    predicted = predictions(task.network, pairs.take(chosen))
    torch.testing.assert_close(task.recycle_buffer.cell[chosen], predicted.cell, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        task.recycle_buffer.fractional[pairs.atoms_of(chosen)], predicted.fractional, rtol=0, atol=1e-12
    )
    task.gradients(chosen, chosen)  # from there on
    twice = predictions(task.network, pairs.take(chosen), recycles=2)
    recycled = task.recycle_buffer.cell[chosen]  # which may be turned
    torch.testing.assert_close(recycled @ recycled.mT, twice.cell @ twice.cell.mT, rtol=0, atol=1e-11)
    assert (twice.cell - predicted.cell).abs().max() > 1e-4


def test_a_level_that_the_network_does_not_know_is_refused(pairs_of: PairsOf) -> None:
    pairs = pairs_of(4)
    pairs.level[2] = LEVELS.index("M3GNet")
    with pytest.raises(ValueError, match=r"relaxed to \['M3GNet'\].*\('PBE',\) lack"):
        DeepRelaxE3Task(pairs, CONFIG, QUICK)


def test_levels_are_counted_as_the_network_does(pairs_of: PairsOf) -> None:
    pairs = pairs_of(4)
    pairs.level[1:] = torch.tensor([LEVELS.index("M3GNet"), LEVELS.index("PBE"), LEVELS.index("M3GNet")])
    task = DeepRelaxE3Task(pairs, replace(CONFIG, levels=("M3GNet", "OAM", "PBE")), QUICK)
    assert task.level.tolist() == [2, 0, 2, 0]


# -- runs


@pytest.mark.parametrize("tempering", [pytest.param(0.0, marks=pytest.mark.slow), 0.5])
def test_training_lowers_the_loss_and_relaxes_crystals(pairs_of: PairsOf, tmp_path: Path, tempering: float) -> None:
    pairs = pairs_of(12, dtype=torch.float32)
    settings = replace(
        QUICK, max_steps=70, atoms_per_batch=100, learning_rate=1e-2, average_decay=0.9, augmentation=STILL, log_every=1
    )
    network = trained(pairs, CONFIG, replace(settings, recycled=0.0, tempering=tempering), tmp_path)
    first, *_, last = records(tmp_path)
    for name in ("displacement", "volume", *(() if tempering else ("loss",))):  # tempered, it is no likelihood
        assert last[name] < (0.3 * first[name] if name != "loss" else first[name] - 5), name
    relaxed = predictions(network, pairs)
    before = prediction_errors(pairs, pairs.fractional_initial, pairs.cell_initial)
    after = prediction_errors(pairs, relaxed.fractional.to(pairs.cell_relaxed), relaxed.cell.to(pairs.cell_relaxed))
    assert after["relative_volume"].max() < 0.1 * before["relative_volume"].min()
    assert after["coordinates"].mean() < 0.5 * before["coordinates"].mean()


def test_a_seed_fixes_the_run(pairs_of: PairsOf, tmp_path: Path) -> None:
    pairs = pairs_of(12, dtype=torch.float32)
    one, two, other = (
        trained(pairs, CONFIG, replace(QUICK, seed=seed), tmp_path / name).state_dict()
        for name, seed in (("one", 3), ("two", 3), ("other", 4))
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_an_interrupted_run_ends_as_an_uninterrupted_one(pairs_of: PairsOf, tmp_path: Path) -> None:
    pairs = pairs_of(12, dtype=torch.float32)
    expected = trained(pairs, CONFIG, QUICK, tmp_path / "whole").state_dict()
    for _ in range(5):  # into the second epoch, where predictions are recycled
        assert train(pairs, CONFIG, QUICK, tmp_path / "pieces", deadline=time.monotonic()) is None
    actual = trained(pairs, CONFIG, QUICK, tmp_path / "pieces").state_dict()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    whole, refs = records(tmp_path / "whole"), records(tmp_path / "pieces")
    assert [line["loss"] for line in whole] == [line["loss"] for line in refs]
    checkpoint = torch.load(tmp_path / "pieces" / "checkpoint.ckpt", weights_only=True)
    (state,) = checkpoint["tasks"]  # of the one process
    assert set(state) == {"fractional", "cell", "generator"}


def test_recycling_makes_a_difference_once_there_are_predictions(pairs_of: PairsOf, tmp_path: Path) -> None:
    pairs = pairs_of(12, dtype=torch.float32)
    settings = replace(QUICK, log_every=1, augmentation=STILL, atoms_per_batch=100)
    for share in (0.0, 1.0):
        trained(pairs, CONFIG, replace(settings, recycled=share), tmp_path / str(share))
    without, recycled = (records(tmp_path / str(share)) for share in (0.0, 1.0))
    assert without[0]["loss"] == recycled[0]["loss"]
    assert abs(without[-1]["volume"] - recycled[-1]["volume"]) > 1e-3


def test_log_and_settings_tell_the_run(pairs_of: PairsOf, tmp_path: Path) -> None:
    train(pairs_of(12, dtype=torch.float32), CONFIG, QUICK, tmp_path)
    lines = records(tmp_path)
    assert [line["step"] for line in lines] == [2, 4, 6]
    for line in lines:
        assert set(line["gradient_norm"]) == {"total", "elements", "levels", "blocks"}
        assert {"loss", *MEASURES} < set(line)
    summary = json.loads((tmp_path / "settings.json").read_text())
    assert DeepRelaxE3Config.from_dict(summary["config"]) == CONFIG
    augmentation = AugmentationSettings(**summary["training"].pop("augmentation"))
    assert TrainingSettings(**summary["training"], augmentation=augmentation) == QUICK


# -- cells that may not be strained in all directions

FREEDOM = replace(CONFIG, reads_cell_freedom=True)


def half_fixed(pairs: RelaxationPairs) -> RelaxationPairs:
    """Every other cell fixed, where it is."""
    fixed_cell = torch.arange(len(pairs)) % 2 == 0
    cell = torch.where(fixed_cell[:, None, None], pairs.cell_initial, pairs.cell_relaxed)
    return replace(pairs, fixed_cell=fixed_cell, cell_relaxed=cell)


def test_fixed_cells_are_learnt_from_at_their_atoms_alone(pairs_of: PairsOf) -> None:
    pairs = half_fixed(pairs_of(8))
    task = task_on(pairs, FREEDOM)
    both = task.gradients(torch.arange(8), torch.arange(8))
    assert torch.equal(task.recycle_buffer.cell[pairs.fixed_cell], pairs.cell_initial[pairs.fixed_cell])
    assert changed(task.recycle_buffer.cell, pairs.cell_initial) == (~pairs.fixed_cell).tolist()
    free = task.gradients(torch.arange(1, 8, 2), torch.arange(8))
    torch.testing.assert_close(both["volume"], free["volume"])  # the errors of the strains that there are
    torch.testing.assert_close(both["shape"], free["shape"])
    assert gradients(task)["freedoms.weight"].any(dim=1).tolist() == [True, False, False, True]
    validated = task.validate(task.network, pairs)
    torch.testing.assert_close(validated["volume"], both["volume"])


def changed(a: Tensor, b: Tensor) -> list[bool]:
    return ((a - b).abs().amax(dim=(1, 2)) > 1e-6).tolist()


def test_a_network_that_does_not_read_fixed_cells_learns_as_before(pairs_of: PairsOf) -> None:
    pairs = half_fixed(pairs_of(8))
    free = replace(pairs, fixed_cell=torch.zeros(8, dtype=torch.bool))
    assert_equal(gradients(task_on(pairs, CONFIG)), gradients(task_on(free, CONFIG)))
    assert differ(gradients(task_on(pairs, FREEDOM)), gradients(task_on(free, FREEDOM)))


@pytest.mark.parametrize("through", [False, True])
def test_the_last_blocks_loss_reaches_the_moves_of_the_first_if_asked(pairs_of: PairsOf, through: bool) -> None:
    of = gradients(task_on(pairs_of(4), CONFIG, block_weights=(0.0, 1.0), gradients_through_blocks=through))
    assert of["blocks.1.refinement.gates.2.weight"].any()
    assert of["blocks.0.refinement.gates.2.weight"].any() == through


@pytest.mark.parametrize("through", [False, True])
def test_a_step_of_padded_fixed_cells_is_the_same(pairs_of: PairsOf, through: bool) -> None:
    pairs = half_fixed(pairs_of(8))
    task = task_on(pairs, FREEDOM, gradients_through_blocks=through)
    batch = task.prepare(torch.arange(8))
    losses, displacements, strain = task.learn(batch.given, batch.truth)
    weights = task.network.blocks[0].refinement.gates[-1].weight
    gradient = weights.grad
    padded = pad(batch.given, batch.truth, Sizes.around([Sizes.of(batch.given)]))
    *again, moved, strained = task.graph_step(flat_tensors(*padded))
    torch.testing.assert_close(torch.stack(again), torch.stack(list(losses.values())))
    torch.testing.assert_close(moved[: len(displacements)], displacements)
    torch.testing.assert_close(strained[: len(strain)], strain)
    assert not strained[len(strain) :].any()
    torch.testing.assert_close(weights.grad, gradient)


def test_training_with_fixed_cells_relaxes_the_atoms(pairs_of: PairsOf, tmp_path: Path) -> None:
    pairs = half_fixed(pairs_of(12, dtype=torch.float32))
    augmentation = replace(STILL, in_relaxed_cell=0.2)
    settings = replace(QUICK, max_steps=40, atoms_per_batch=100, learning_rate=1e-2, log_every=1)
    network = trained(pairs, FREEDOM, replace(settings, average_decay=0.9, augmentation=augmentation), tmp_path)
    relaxed = predictions(network, pairs)
    assert torch.equal(relaxed.cell[pairs.fixed_cell].to(pairs.cell_initial), pairs.cell_initial[pairs.fixed_cell])
    first, *_, last = records(tmp_path)
    for name in ("displacement", "volume"):
        assert last[name] < 0.7 * first[name], name
