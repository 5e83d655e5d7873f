from __future__ import annotations

from dataclasses import fields, replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.nn import DeepRelaxE3
from deeprelax_ase.training import AugmentationSettings
from deeprelax_ase.training.batches import epochs
from deeprelax_ase.training.e3_loss import relaxation_loss
from deeprelax_ase.training.e3_task import DeepRelaxE3Task, flat_tensors
from deeprelax_ase.training.padding import Sizes
from deeprelax_ase.training.prefetch import likely_sizes
from deeprelax_ase.training.recycle_buffer import hide_forces
from tests.training.e3_runs import CONFIG, QUICK, READS, assert_equal, differ, gradients, task_on, trained
from tests.training.runs import STILL, PairsOf, records


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
    hidden = gradients(task_on(pairs, hidden_starts=1.0, forces_weight=0.1, forces_tempering=0.0))
    assert_equal(hidden, gradients(task_on(unknown)))
    rattled = {"augmentation": replace(STILL, rattled=1.0, strained=1.0)}
    moved = gradients(task_on(pairs, hidden_starts=1.0, **rattled))
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
    last, every = (gradients(task_on(pairs_of(8), CONFIG, block_weights=weights)) for weights in ((0, 1), ()))
    earlier = {name for name in last if name.startswith("blocks.0.refinement.")}
    assert earlier
    for name in earlier:  # no gradient comes back through the geometry
        assert not last[name].any(), name
        assert every[name].any(), name
    assert last["blocks.0.filters.0.weight"].any()  # through the features it does


@pytest.mark.parametrize("block_weights", [(), (0.0, 0.5), (0.2, 0.6)])
def test_the_loss_is_that_of_the_blocks_as_they_weigh(pairs_of: PairsOf, block_weights: tuple[float, ...]) -> None:
    task, everything = task_on(pairs_of(8), CONFIG, block_weights=block_weights), torch.arange(8)
    batch = task.prepare(everything)
    given, truth = batch.given, batch.truth
    weights = {name: getattr(task.settings, name) for name in ("volume_weight", "shape_weight", "tempering")}
    first, last = (relaxation_loss([block], truth, **weights)["loss"].item() for block in task.network.refine(given))
    weights = [weight / sum(block_weights) for weight in block_weights] or [0.5, 0.5]
    expected = weights[0] * first + weights[1] * last
    assert task.gradients(everything, everything)["loss"].item() == pytest.approx(expected, abs=1e-10)
    assert abs(first - last) > 1e-2


def test_each_block_has_its_weight_or_none_has(pairs_of: PairsOf) -> None:
    with pytest.raises(ValueError, match="block_weights names 3 weights for 2 blocks: give one for each"):
        task_on(pairs_of(4), CONFIG, block_weights=(1.0, 1.0, 1.0))


def test_kinds_labels_and_sizes_weigh_crystals(pairs_of: PairsOf) -> None:
    """As if those of weight zero were not there."""
    pairs = replace(pairs_of(8), kind=torch.arange(8) % 4, dft=torch.arange(8) == 5)
    without = gradients(task_on(pairs.take(torch.tensor([0, 2, 4, 6, 7])), CONFIG))
    weighed = gradients(task_on(pairs, CONFIG, kind_weights={1: 0.0, 3: 0.0}))
    assert_equal(weighed, gradients(task_on(pairs.take(torch.tensor([0, 2, 4, 6])), CONFIG)))
    assert differ(weighed, without)
    no_dft = gradients(task_on(pairs, CONFIG, dft_weight=0.0))
    assert_equal(no_dft, gradients(task_on(pairs.take(torch.tensor([0, 1, 2, 3, 4, 6, 7])), CONFIG)))
    assert differ(gradients(task_on(pairs, CONFIG, size_power=1.0)), gradients(task_on(pairs, CONFIG)))


def test_room_is_made_for_the_batches_of_an_epoch(pairs_of: PairsOf) -> None:
    """A step that is recorded anew takes long."""
    pairs, settings = pairs_of(600), replace(QUICK, atoms_per_batch=60)
    room = Sizes.around(likely_sizes(pairs, CONFIG, settings, torch.device("cpu")))
    again = Sizes.around(likely_sizes(pairs, CONFIG, settings, torch.device("cpu")))
    assert room == again
    task = DeepRelaxE3Task(pairs, CONFIG, settings)
    held = [room.hold(Sizes.of(task.prepare(crystals).given)) for crystals in islice(epochs(pairs.counts, 60, 9), 30)]
    assert all(held)


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
    changes = {"max_steps": 40, "learning_rate": 1e-2, "atoms_per_batch": 100, "log_every": 1, "hidden_starts": 0.0}
    settings = replace(QUICK, augmentation=augmentation, **changes)
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
