from __future__ import annotations

import json
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from deeprelax_ase.data import LEVELS, RelaxationPairs
from deeprelax_ase.evaluation.metrics import prediction_errors
from deeprelax_ase.evaluation.pairs import PairPredictions, predict_pairs
from deeprelax_ase.models.model import model_of
from deeprelax_ase.nn import DeepRelaxE3, DeepRelaxE3Config
from deeprelax_ase.training import AugmentationSettings, TrainingSettings, train
from deeprelax_ase.training.e3_loss import relaxation_loss
from deeprelax_ase.training.e3_task import DeepRelaxE3Task, flat_tensors, hide_forces
from deeprelax_ase.training.padding import Sizes, pad

PairsOf = Callable[..., RelaxationPairs]
SMALL = {"channels": 8, "num_blocks": 2, "layers_per_block": 1, "num_basis": 8, "max_neighbors": 14}
CONFIG = DeepRelaxE3Config(**SMALL)
STILL = AugmentationSettings(interpolated=0, relaxed=0, strained=0, rattled=0, rewrapped=0)
#: Twelve pairs have 36 atoms: three batches an epoch.
QUICK = TrainingSettings(max_steps=7, atoms_per_batch=15, log_every=2, learning_rate=5e-3, recycled=0.5, clip=10.0)
MEASURES = ("displacement", "volume", "shape")


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def trained(*arguments, **options) -> DeepRelaxE3:
    network = train(*arguments, **options)
    assert isinstance(network, DeepRelaxE3)
    return network


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


def predictions(network: torch.nn.Module, pairs: RelaxationPairs, *, recycles: int = 1) -> PairPredictions:
    return predict_pairs(model_of([deepcopy(network)], "in training", level="PBE"), pairs, recycles=recycles)


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


@pytest.mark.parametrize("tempering", [0.0, 0.5])
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


# -- known forces

READS = replace(CONFIG, reads_forces=True)


def task_on(pairs: RelaxationPairs, config: DeepRelaxE3Config = READS, **changes) -> DeepRelaxE3Task:
    """A task on starts that stay as they are, whose network is not as untrained as it would be."""
    settings = replace(QUICK, **{"augmentation": STILL, "recycled": 0.0, "hidden": 0.0, **changes})
    torch.manual_seed(0)
    task = DeepRelaxE3Task(pairs, config, settings)
    for parameter in task.network.double().parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return task


def gradients(task: DeepRelaxE3Task) -> dict[str, Tensor]:
    """Of all parameters, from one step on all pairs; zero where there are none."""
    everything = torch.arange(len(task.level))
    task.gradients(everything, everything)
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in task.network.named_parameters()
    }


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    for name, values in a.items():
        torch.testing.assert_close(b[name], values, rtol=0, atol=1e-12, msg=name)


def differ(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return any((a[name] - b[name]).abs().max() > 1e-6 for name in a)


def test_a_share_of_the_forces_is_hidden(pairs_of: PairsOf, has_forces) -> None:
    pairs = has_forces(pairs_of(4000))
    hidden = hide_forces(pairs, 0.3, torch.Generator().manual_seed(0))
    assert not (hidden.has_forces & ~pairs.has_forces).any()
    told = hidden.has_forces.sum() / pairs.has_forces.sum()
    assert told.item() == pytest.approx(0.7, abs=0.041)  # four standard deviations
    for f in fields(RelaxationPairs):
        if f.name != "has_forces":
            assert getattr(hidden, f.name) is getattr(pairs, f.name), f.name
    assert not hide_forces(pairs, 1.0, torch.Generator().manual_seed(0)).has_forces.any()
    assert torch.equal(hide_forces(pairs, 0.0, torch.Generator().manual_seed(0)).has_forces, pairs.has_forces)
    assert pairs.has_forces.sum() == 2000


def test_gradients_reach_the_reader_of_forces(pairs_of: PairsOf, has_forces) -> None:
    of_reader = {name for name, _ in DeepRelaxE3(READS).named_parameters() if name.startswith("forces.")}
    assert len(of_reader) == 6
    for pairs, told in ((has_forces(pairs_of(8)), True), (pairs_of(8), False)):
        found = gradients(task_on(pairs))
        for name in of_reader:
            assert found[name].isfinite().all(), name
            assert bool(found[name].any()) == told, name


def test_crystals_whose_forces_are_hidden_are_starts_like_any_others(pairs_of: PairsOf, has_forces) -> None:
    pairs = has_forces(pairs_of(8))
    unknown = replace(pairs, has_forces=torch.zeros_like(pairs.has_forces))
    hidden = gradients(task_on(pairs, hidden=1.0, forces_weight=0.1, forces_tempering=0.0))
    assert_equal(hidden, gradients(task_on(unknown)))
    rattled = {"augmentation": replace(STILL, rattled=1.0, strained=1.0)}
    moved = gradients(task_on(pairs, hidden=1.0, **rattled))
    assert differ(moved, hidden)
    assert_equal(moved, gradients(task_on(unknown, **rattled)))


def test_crystals_whose_forces_are_known_have_a_weight_and_a_tempering_of_their_own(
    pairs_of: PairsOf, has_forces
) -> None:
    pairs = has_forces(pairs_of(8), every=1)  # of all
    usual = gradients(task_on(pairs, tempering=0.5, forces_tempering=0.5, forces_weight=1.0))
    sharp = gradients(task_on(pairs, tempering=0.5, forces_tempering=0.0, forces_weight=1.0))
    assert differ(usual, sharp)
    assert_equal(gradients(task_on(pairs, tempering=0.0, forces_tempering=0.5, forces_weight=1.0)), usual)
    assert_equal(gradients(task_on(pairs, tempering=0.5, forces_tempering=0.0, forces_weight=0.2)), sharp)
    half = has_forces(pairs_of(8))
    weighed = {weight: gradients(task_on(half, forces_weight=weight)) for weight in (0.0, 1.0)}
    assert differ(weighed[0.0], weighed[1.0])
    without = gradients(task_on(half.take((~half.has_forces).nonzero().squeeze(1))))
    assert_equal(weighed[0.0], without)


def test_the_last_block_alone_may_be_held_to_the_truth(pairs_of: PairsOf) -> None:
    last, every = (gradients(task_on(pairs_of(8), CONFIG, all_blocks=blocks)) for blocks in (False, True))
    earlier = {name for name in last if name.startswith("blocks.0.refinement.")}
    assert earlier
    for name in earlier:  # no gradient comes back through the geometry
        assert not last[name].any(), name
        assert every[name].any(), name
    assert last["blocks.0.filters.0.weight"].any()  # through the features it does


@pytest.mark.parametrize("all_blocks", [True, False])
def test_the_loss_is_that_of_the_blocks_held_to_the_truth(pairs_of: PairsOf, all_blocks: bool) -> None:
    task, everything = task_on(pairs_of(8), CONFIG, all_blocks=all_blocks), torch.arange(8)
    _, given, truth = task.prepare(everything)
    weights = {name: getattr(task.settings, name) for name in ("volume_weight", "shape_weight", "tempering")}
    first, last = (relaxation_loss([block], truth, **weights)["loss"].item() for block in task.network.refine(given))
    expected = (first + last) / 2 if all_blocks else last
    assert task.gradients(everything, everything)["loss"].item() == pytest.approx(expected, abs=1e-10)
    assert abs(first - last) > 1e-2


def test_a_step_survives_being_taken_apart_into_tensors(pairs_of: PairsOf, has_forces) -> None:
    """As it is for a CUDA graph."""
    task = task_on(has_forces(pairs_of(6)))
    batch = task.prepare(torch.arange(6))
    losses, displacements, strain = task.learn(batch.given, batch.truth)
    tensors = flat_tensors(batch.given, batch.truth)
    assert all(isinstance(tensor, Tensor) for tensor in tensors)
    *again, moved, strained = task.graph_step(tensors)
    assert again == list(losses.values())
    assert torch.equal(moved, displacements)
    assert torch.equal(strained, strain)
    assert displacements.abs().max() > 1e-3


def test_a_network_learns_what_only_the_virial_tells(pairs_of: PairsOf, tmp_path: Path) -> None:
    """Equal starts, of which every other one swells and the others shrink."""
    pairs = pairs_of(1, dtype=torch.float32).take(torch.zeros(4, dtype=torch.int64))
    sign = torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None, None]
    pairs = replace(
        pairs,
        cell_relaxed=pairs.cell_initial * (1 + 0.05 * sign),
        virial=-2.0 * sign * torch.eye(3),
        has_forces=torch.ones(4, dtype=torch.bool),
    )
    augmentation = AugmentationSettings()  # it leaves them alone, as recycling does
    settings = replace(QUICK, max_steps=60, atoms_per_batch=100, log_every=1, augmentation=augmentation, hidden=0.0)
    for config, name in ((READS, "told"), (CONFIG, "untold")):
        trained(pairs, replace(config, num_blocks=1), settings, tmp_path / name)
    told, untold = (records(tmp_path / name) for name in ("told", "untold"))
    assert told[-1]["volume"] < 0.3 * told[0]["volume"]
    assert untold[-1]["volume"] > 0.9 * untold[0]["volume"]
    assert told[-1]["gradient_norm"]["forces"] > 0
    assert "forces" not in untold[-1]["gradient_norm"]


def test_a_network_that_reads_forces_starts_from_one_that_does_not(
    pairs_of: PairsOf, has_forces, tmp_path: Path
) -> None:
    pairs = has_forces(pairs_of(12, dtype=torch.float32))
    first = trained(pairs, CONFIG, QUICK, tmp_path / "first")
    save_file(first.state_dict(), tmp_path / "first.safetensors")
    settings = replace(QUICK, learning_rate=0.0, weight_decay=0.0)
    network = trained(pairs, READS, settings, tmp_path / "next", initial=tmp_path / "first.safetensors")
    for name, weight in network.state_dict().items():
        if name.startswith("forces."):
            assert bool(weight.any()) == name.startswith("forces.scalars.0"), name
        else:
            assert torch.equal(weight, first.state_dict()[name]), name
    learning = trained(pairs, READS, QUICK, tmp_path / "last", initial=tmp_path / "first.safetensors")
    assert learning.forces.vectors.weight.any()
    assert learning.forces.tensors.weight.any()


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


def test_a_step_of_padded_fixed_cells_is_the_same(pairs_of: PairsOf) -> None:
    pairs = half_fixed(pairs_of(8))
    task = task_on(pairs, FREEDOM)
    batch = task.prepare(torch.arange(8))
    losses, displacements, strain = task.learn(batch.given, batch.truth)
    padded = pad(batch.given, batch.truth, Sizes.around(batch.given))
    *again, moved, strained = task.graph_step(flat_tensors(*padded))
    torch.testing.assert_close(torch.stack(again), torch.stack(list(losses.values())))
    torch.testing.assert_close(moved[: len(displacements)], displacements)
    torch.testing.assert_close(strained[: len(strain)], strain)
    assert not strained[len(strain) :].any()


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
