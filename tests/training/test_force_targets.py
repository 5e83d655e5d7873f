from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deeprelax_ase.nn import DeepRelaxE3
from deeprelax_ase.training import train
from deeprelax_ase.training.force_targets import StartForces, WithForceTargets, start_forces, start_forces_loss
from tests.training.e3_runs import CONFIG, QUICK, READS, gradients, predictions, task_on, trained
from tests.training.runs import PairsOf, records

TARGETS = replace(QUICK, force_targets=0.1)


def test_forces_count_where_they_are_known_and_the_start_is_theirs(pairs_of: PairsOf, has_forces) -> None:
    pairs = has_forces(pairs_of(8))  # of every other one
    moved, cell = pairs.fractional_initial.clone(), pairs.cell_initial.clone()
    moved[pairs.batch == 2] += 1e-6
    cell[4] *= 1.001
    told = torch.arange(8) == 6
    start = replace(pairs, fractional_initial=moved, cell_initial=cell, has_forces=told)
    free = torch.ones(8, dtype=torch.bool)
    assert start_forces(pairs, start, free).crystals.nonzero().squeeze(1).tolist() == [0]
    unmoved = replace(pairs, has_forces=torch.zeros(8, dtype=torch.bool))
    found = start_forces(pairs, unmoved, torch.arange(8) != 2)
    assert found.crystals.nonzero().squeeze(1).tolist() == [0, 4, 6]
    assert torch.equal(found.atoms > 0, pairs.has_forces[pairs.batch])
    torch.testing.assert_close(found.virial[4] * pairs.counts[4], -pairs.virial[4])
    assert torch.equal(found.forces, pairs.forces)


def test_the_loss_is_the_likelihood_of_what_counts() -> None:
    truth = StartForces(
        torch.zeros(3, 3), torch.zeros(2, 3, 3), torch.tensor([1.0, 1.0, 0.0]), torch.tensor([0.0, 1.0])
    )
    forces = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 1.0], [9.0, 9.0, 9.0]])
    read = StartForces(
        forces, torch.stack([torch.ones(3, 3), torch.eye(3)]), torch.tensor([5.0, 2.0, 1.0]), torch.full((2,), 3.0)
    )
    expected = (3 * math.log(5) + 1 + 3 * math.log(2) + 0.5) / 2 + 6 * math.log(3) + math.sqrt(3) / 3
    assert start_forces_loss(read, truth).item() == pytest.approx(expected)
    nothing = truth._replace(atoms=torch.zeros(3), crystals=torch.zeros(2))
    assert start_forces_loss(read, nothing).item() == 0


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
        found = gradients(task_on(pairs, READS, force_targets=0.1, hidden=hidden))
        assert any(found[name].any() for name in found if name.startswith("force_targets.")) == taught


def test_a_network_learns_the_forces(pairs_of: PairsOf, has_forces) -> None:
    pairs, everything = has_forces(pairs_of(4), every=1), torch.arange(4)
    task = task_on(pairs, CONFIG, force_targets=1.0)
    optimizer = torch.optim.Adam(task.network.parameters(), lr=1e-2)

    def loss() -> float:
        batch = task.prepare(everything)
        return start_forces_loss(task.network.refine_and_read(batch.given)[1], batch.truth.start).item()

    before = loss()
    for _ in range(60):
        task.gradients(everything, everything)
        optimizer.step()
    assert loss() < before - 2


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
    network = WithForceTargets(CONFIG).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    given = task_on(pairs_of(4), CONFIG).prepare(torch.arange(4)).given
    relaxations, read = network.refine_and_read(given)
    assert read.forces.shape == (len(given.numbers), 3)
    torch.testing.assert_close(read.virial, read.virial.mT)
    for with_head, without in zip(relaxations, network.refine(given), strict=True):
        assert torch.equal(with_head.displacements, without.displacements)
        assert torch.equal(with_head.strain, without.strain)
