from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deeprelax_ase.data.batches import pair_graph
from deeprelax_ase.data.forces import NEAR_MINIMUM
from deeprelax_ase.nn import DeepRelaxE3
from deeprelax_ase.nn.deeprelax_e3 import network_input
from deeprelax_ase.training import train
from deeprelax_ase.training.augment import augment
from deeprelax_ase.training.e3_loss import true_relaxation
from deeprelax_ase.training.force_targets import StartForces, start_forces, start_forces_loss
from deeprelax_ase.training.heads import WithHeads
from tests.training.e3_runs import CONFIG, QUICK, READS, gradients, predictions, task_on, trained
from tests.training.runs import PairsOf, records

TARGETS = replace(QUICK, force_targets=0.1)


FAR, UNSTRAINED = torch.ones(24, 3), torch.zeros(8, 3, 3)
FREE = torch.ones(8, dtype=torch.bool)


def counted(weights: torch.Tensor) -> list[int]:
    return weights.nonzero().squeeze(1).tolist()


def test_forces_count_where_they_are_known_and_the_start_is_theirs(pairs_of: PairsOf, has_forces) -> None:
    pairs = has_forces(pairs_of(8))  # of every other one
    moved, cell = pairs.fractional_initial.clone(), pairs.cell_initial.clone()
    moved[pairs.batch == 2] += 1e-6
    cell[4] *= 1.001
    told = torch.arange(8) == 6
    start = replace(pairs, fractional_initial=moved, cell_initial=cell, has_forces=told)
    assert counted(start_forces(pairs, start, FAR, UNSTRAINED, FREE).crystals) == [0]
    unmoved = replace(pairs, has_forces=torch.zeros(8, dtype=torch.bool))
    found = start_forces(pairs, unmoved, FAR, UNSTRAINED, torch.arange(8) != 2)
    assert counted(found.crystals) == [0, 4, 6]
    assert torch.equal(found.atoms > 0, pairs.has_forces[pairs.batch])
    torch.testing.assert_close(found.virial[4] * pairs.counts[4], -pairs.virial[4])
    assert torch.equal(found.forces, pairs.forces)
    near = replace(pairs, kind=torch.where(torch.arange(8) == 4, NEAR_MINIMUM, 7))  # another potential's
    assert counted(start_forces(near, unmoved, FAR, UNSTRAINED, FREE).crystals) == [0, 2, 6]


def test_the_energy_counts_where_it_is_known_and_the_start_is_its_own(pairs_of: PairsOf, has_forces) -> None:
    pairs = replace(has_forces(pairs_of(8)), energy_gain=torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]))
    cell = pairs.cell_initial.clone()
    cell[4] *= 1.001
    start = replace(pairs, cell_initial=cell, has_forces=torch.arange(8) == 6)
    found = start_forces(pairs, start, FAR, UNSTRAINED, FREE)
    assert counted(found.gains) == [1, 2, 3, 5, 7]  # the first is not known, the fifth moved, the seventh is told
    torch.testing.assert_close(found.gain * found.gains, pairs.energy_gain * found.gains)


def test_at_minima_that_augmentation_leads_to_nothing_pulls(pairs_of: PairsOf, has_forces) -> None:
    pairs = replace(has_forces(pairs_of(8), every=1), energy_gain=torch.ones(8))
    on_minima = torch.arange(8) < 4
    settings = replace(QUICK.augmentation, interpolated=0.0, relaxed=1.0, strained=0.0, rattled=0.0, rewrapped=0.0)
    unread = replace(pairs, has_forces=torch.zeros(8, dtype=torch.bool))
    relaxed = augment(unread, settings, torch.Generator().manual_seed(0))
    fractional = torch.where(on_minima[pairs.batch, None], relaxed.fractional_initial, pairs.fractional_initial)
    cell = torch.where(on_minima[:, None, None], relaxed.cell_initial, pairs.cell_initial)
    start = replace(unread, fractional_initial=fractional, cell_initial=cell)
    given = network_input(pair_graph(start, CONFIG.graph), 0)
    found = true_relaxation(start, given, unrelaxed=pairs).start
    assert found.atoms.all()
    assert found.crystals.all()
    assert found.gains.all()
    assert not found.forces[on_minima[pairs.batch]].any()
    assert not found.virial[on_minima].any()
    assert found.gain.tolist() == [0.0] * 4 + [1.0] * 4
    assert torch.equal(found.forces[~on_minima[pairs.batch]], pairs.forces[~on_minima[pairs.batch]])
    rattled = replace(start, fractional_initial=start.fractional_initial + 1e-3 * torch.randn(24, 3))
    assert not true_relaxation(rattled, given, unrelaxed=pairs).start.atoms.any()


def test_the_loss_is_the_likelihood_of_what_counts_and_the_error_of_the_energy() -> None:
    truth = StartForces(
        forces=torch.zeros(3, 3),
        virial=torch.zeros(2, 3, 3),
        atoms=torch.tensor([1.0, 1.0, 0.0]),
        crystals=torch.tensor([0.0, 1.0]),
        gain=torch.tensor([0.5, 9.0]),
        gains=torch.tensor([1.0, 0.0]),
    )
    read = StartForces(
        forces=torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 1.0], [9.0, 9.0, 9.0]]),
        virial=torch.stack([torch.ones(3, 3), torch.eye(3)]),
        atoms=torch.tensor([5.0, 2.0, 1.0]),
        crystals=torch.full((2,), 3.0),
        gain=torch.tensor([0.7, 1.0]),
        gains=torch.ones(2),
    )
    expected = (3 * math.log(5) + 1 + 3 * math.log(2) + 0.5) / 2 + 6 * math.log(3) + math.sqrt(3) / 3 + 5 * 0.2
    assert start_forces_loss(read, truth).item() == pytest.approx(expected)
    assert start_forces_loss(read, truth.counting_for_nothing()).item() == 0


def test_they_teach_the_head_and_the_first_block(pairs_of: PairsOf, has_forces) -> None:
    pairs = has_forces(pairs_of(8))
    unknown = replace(pairs, has_forces=torch.zeros_like(pairs.has_forces))
    taught, untaught = (gradients(task_on(given, CONFIG, force_targets=0.1)) for given in (pairs, unknown))
    heads = {name for name in taught if name.startswith("force_targets.")}
    assert heads
    assert any(taught[name].any() for name in heads)
    assert not any(untaught[name].any() for name in heads)
    assert not torch.equal(taught["blocks.0.filters.0.weight"], untaught["blocks.0.filters.0.weight"])
    assert torch.equal(taught["blocks.1.filters.0.weight"], untaught["blocks.1.filters.0.weight"])


def test_what_is_read_is_no_target(pairs_of: PairsOf, has_forces) -> None:
    pairs = has_forces(pairs_of(8))
    for hidden, taught in ((0.0, False), (1.0, True)):
        found = gradients(task_on(pairs, READS, force_targets=0.1, hidden_starts=hidden))
        assert any(found[name].any() for name in found if name.startswith("force_targets.")) == taught


def test_a_network_learns_forces_and_energy(pairs_of: PairsOf, has_forces) -> None:
    pairs, everything = has_forces(pairs_of(4), every=1), torch.arange(4)
    pairs = replace(pairs, energy_gain=torch.tensor([3.0, 3.3, 3.1, 3.5]).double())
    task = task_on(pairs, CONFIG, force_targets=1.0)
    optimizer = torch.optim.Adam(task.network.parameters(), lr=1e-2)

    def loss() -> float:
        batch = task.prepare(everything)
        read = task.network.refine_and_read(batch.given)[1]
        off.append((read.gain - pairs.energy_gain).abs().mean().item())
        return start_forces_loss(read, batch.truth.start).item()

    off: list[float] = []
    before = loss()
    for _ in range(40):
        task.gradients(everything, everything)
        optimizer.step()
    assert loss() < before - 2
    assert off[-1] < 0.5 * off[0]


def test_the_head_stays_behind(pairs_of: PairsOf, has_forces, tmp_path: Path) -> None:
    pairs = has_forces(pairs_of(12, dtype=torch.float32), every=1)
    network = trained(pairs, CONFIG, TARGETS, tmp_path / "targets")
    assert type(network) is DeepRelaxE3
    assert records(tmp_path / "targets")[0]["gradient_norm"]["force_targets"] > 0
    assert predictions(network, pairs).cell.isfinite().all()
    again = trained(pairs, CONFIG, TARGETS, tmp_path / "next", initial=network.state_dict())
    assert type(again) is DeepRelaxE3


def test_an_interrupted_run_ends_as_an_uninterrupted_one(pairs_of: PairsOf, has_forces, tmp_path: Path) -> None:
    pairs = has_forces(pairs_of(12, dtype=torch.float32))
    expected = trained(pairs, CONFIG, TARGETS, tmp_path / "whole").state_dict()
    for _ in range(4):
        assert train(pairs, CONFIG, TARGETS, tmp_path / "pieces", deadline=time.monotonic()) is None
    actual = trained(pairs, CONFIG, TARGETS, tmp_path / "pieces").state_dict()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_the_head_changes_no_relaxation(pairs_of: PairsOf) -> None:
    torch.manual_seed(0)
    network = WithHeads(CONFIG, forces=True).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    given = task_on(pairs_of(4), CONFIG).prepare(torch.arange(4)).given
    relaxations, read, _ = network.refine_and_read(given)
    assert read.forces.shape == (len(given.numbers), 3)
    torch.testing.assert_close(read.virial, read.virial.mT)
    for with_head, without in zip(relaxations, network.refine(given), strict=True):
        assert torch.equal(with_head.displacements, without.displacements)
        assert torch.equal(with_head.strain, without.strain)
