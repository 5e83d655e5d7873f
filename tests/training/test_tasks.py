from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.data.batches import pair_graph
from deeprelax_ase.graph import edge_vectors
from deeprelax_ase.nn import ABLATIONS, DeepRelax, DeepRelaxConfig, DeepRelaxE3Config
from deeprelax_ase.training import TrainingSettings
from deeprelax_ase.training.e3_task import DeepRelaxE3Task
from deeprelax_ase.training.graph_task import DeepRelaxTask, labelled, truth_of
from deeprelax_ase.training.tasks import task_of
from tests.training.losses import loss_of

PairsOf = Callable[..., RelaxationPairs]
pytestmark = pytest.mark.shapes

CONFIG = DeepRelaxConfig(channels=16, num_layers=2, num_basis=12, encoding_channels=8)
E3 = DeepRelaxE3Config(channels=8, num_blocks=2, layers_per_block=1, num_basis=8)
SETTINGS = TrainingSettings(volume_weight=2.0, shape_weight=5.0, lattice_weight=7.0)
both = pytest.mark.parametrize("config", [CONFIG, E3], ids=["paper's", "end to end"])


def test_graph_and_truth_of_pairs(pairs_of: PairsOf) -> None:
    pairs = pairs_of(5)
    graph = pair_graph(pairs, CONFIG.graph)
    truth = truth_of(labelled(pairs, graph), CONFIG)
    assert torch.equal(graph.cell, pairs.cell_initial)
    relaxed = torch.einsum("nk,nkx->nx", pairs.fractional_relaxed, pairs.cell_relaxed[pairs.batch])
    lengths = edge_vectors(graph, relaxed, pairs.cell_relaxed).norm(dim=1)
    torch.testing.assert_close(truth.distances, lengths, rtol=0, atol=1e-12)
    # Anchors: the unrelaxed atoms in the relaxed cell, or where they were.
    source, destination = graph.edge_index[:, graph.in_cell]
    carried = torch.einsum("nk,nkx->nx", pairs.fractional_initial, pairs.cell_relaxed[pairs.batch])
    expected = (relaxed[source] - carried[destination]).norm(dim=1)
    torch.testing.assert_close(truth.displacements, expected, rtol=0, atol=1e-12)
    printed = truth_of(labelled(pairs, graph), ABLATIONS["DeepRelax"])
    expected = (relaxed[source] - graph.positions[destination]).norm(dim=1)
    torch.testing.assert_close(printed.displacements, expected, rtol=0, atol=1e-12)


def test_untrained_network_is_right_about_relaxed_crystals(pairs_of: PairsOf) -> None:
    pairs = pairs_of(5)
    at_rest = replace(pairs, cell_initial=pairs.cell_relaxed, fractional_initial=pairs.fractional_relaxed)
    config = replace(CONFIG, local_uncertainty=False)
    assert max(loss_of(DeepRelax(config).double(), at_rest).values()) < 1e-12
    assert min(loss_of(DeepRelax(config).double(), pairs).values()) > 1e-2


def test_the_configuration_chooses_the_task(pairs_of: PairsOf) -> None:
    assert isinstance(task_of(pairs_of(2), CONFIG, SETTINGS), DeepRelaxTask)
    assert isinstance(task_of(pairs_of(2), E3, SETTINGS), DeepRelaxE3Task)


@both
def test_validation_errors_are_those_of_the_loss_without_likelihood(pairs_of: PairsOf, config) -> None:
    pairs = pairs_of(6)
    task = task_of(pairs, config, SETTINGS)
    found = {name: value.item() for name, value in task.validate(task.network.double(), pairs).items()}
    if config is E3:
        expected = found["displacement"] + 2.0 * found["volume"] + 5.0 * found["shape"]
        # it moves nothing yet: its errors are how far the crystals relax, by 5 % in every length
        assert found["volume"] == pytest.approx(-3 * torch.log(torch.tensor(0.95)).item(), rel=1e-6)
    else:
        graph = pair_graph(pairs, config.graph)
        truth = truth_of(labelled(pairs, graph), config)
        predicted = task.network(graph, anchor_cell=truth.cell)  # displacements from where they are learnt from
        expected = sum(
            weight * (getattr(predicted, name) - getattr(truth, name)).abs().mean().item()
            for name, weight in (("distances", 1.0), ("displacements", 1.0), ("cell", 7.0))
        )
    assert found["error"] == pytest.approx(expected, rel=1e-6)
    assert found["error"] > 0.1


@both
def test_validation_does_not_touch_training(pairs_of: PairsOf, config) -> None:
    pairs, everything = pairs_of(6, dtype=torch.float32), torch.arange(6)

    def gradients(*, validated: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        task = task_of(pairs, config, SETTINGS)
        task.gradients(everything, everything)
        if validated:
            before = [p.grad.clone() for p in task.network.parameters() if p.grad is not None]
            task.validate(task.network, pairs)
            after = [p.grad for p in task.network.parameters() if p.grad is not None]
            assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        task.gradients(everything, everything)  # from the next random numbers and predictions
        return [p.grad for p in task.network.parameters() if p.grad is not None]

    pair = zip(gradients(validated=False), gradients(validated=True), strict=True)
    assert all(torch.equal(one, other) for one, other in pair)


@both
def test_the_state_of_a_task_is_all_that_the_next_step_needs(pairs_of: PairsOf, config) -> None:
    pairs, everything = pairs_of(6, dtype=torch.float32), torch.arange(6)
    first, second = task_of(pairs, config, SETTINGS), task_of(pairs, config, replace(SETTINGS, seed=9))
    for _ in range(2):
        first.gradients(everything, everything)
    second.network.load_state_dict(first.network.state_dict())
    second.load_state_dict(first.state_dict())
    losses, again = first.gradients(everything, everything), second.gradients(everything, everything)
    assert {name: loss.item() for name, loss in losses.items()} == {name: loss.item() for name, loss in again.items()}
