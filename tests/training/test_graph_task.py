from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.graph.crystal_graph import CrystalGraph
from deeprelax_ase.nn import ABLATIONS, DeepRelaxConfig
from deeprelax_ase.training import TrainingSettings
from deeprelax_ase.training.batches import epochs
from deeprelax_ase.training.graph_task import DeepRelaxTask, labelled
from deeprelax_ase.training.padding import LabelledGraph, Sizes, pad_graph
from deeprelax_ase.training.prefetch import Room, likely_sizes
from tests.training.runs import STILL

PairsOf = Callable[..., RelaxationPairs]
pytestmark = pytest.mark.shapes

SMALL = {"channels": 16, "num_layers": 2, "num_basis": 12, "encoding_channels": 8}
CONFIGS = {
    "ours": DeepRelaxConfig(**SMALL),
    "as printed": replace(ABLATIONS["DeepRelax"], **SMALL),
    "without uncertainty": replace(ABLATIONS["Vanilla"], **SMALL),
}


def task_on(pairs: RelaxationPairs, config: DeepRelaxConfig) -> DeepRelaxTask:
    torch.manual_seed(0)
    task = DeepRelaxTask(pairs, config, TrainingSettings(augmentation=STILL))
    for parameter in task.network.double().parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return task


def learnt(task: DeepRelaxTask, batch: LabelledGraph) -> tuple[list[Tensor], list[Tensor]]:
    """Losses and gradients of a step as it is recorded, from a flat list of tensors."""
    task.network.zero_grad(set_to_none=True)
    losses = task.graph_step(batch.tensors())
    return losses, [p.grad.clone() for p in task.network.parameters() if p.grad is not None]


def batch_of(pairs: RelaxationPairs, task: DeepRelaxTask) -> LabelledGraph:
    return labelled(*task.augmented(torch.arange(len(pairs))))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_gradients_of_padded_batches_are_those_of_the_batches(pairs_of: PairsOf, config: DeepRelaxConfig) -> None:
    pairs = pairs_of(6)
    task = task_on(pairs, config)
    everything = torch.arange(len(pairs))
    expected = task.gradients(everything, everything)
    gradients = [p.grad.clone() for p in task.network.parameters() if p.grad is not None]
    batch = batch_of(pairs, task)
    losses, found = learnt(task, pad_graph(batch, Sizes.around([batch.sizes])))
    for value, loss in zip(losses, expected.values(), strict=True):
        torch.testing.assert_close(value, loss.detach(), rtol=1e-12, atol=0)
    for padded, plain in zip(found, gradients, strict=True):
        torch.testing.assert_close(padded, plain, rtol=0, atol=1e-11 * float(plain.abs().max().clamp(min=1)))
    assert max(float(gradient.abs().max()) for gradient in gradients) > 1e-2


def test_padded_batches_begin_with_the_batch_and_have_the_sizes_asked_for(pairs_of: PairsOf) -> None:
    pairs = pairs_of(5)
    batch = batch_of(pairs, task_on(pairs, CONFIGS["ours"]))
    more = Sizes(600, 1234, 3, 77)
    sizes = Sizes(*(here + added for here, added in zip(batch.sizes, more, strict=True)))
    padded = pad_graph(batch, sizes)
    assert padded.sizes == sizes
    for before, after in zip(batch.tensors(), padded.tensors(), strict=True):
        begins = after[:, : before.shape[1]] if before.shape[0] == 2 else after[: len(before)]  # edge_index is (2, E)
        assert torch.equal(begins, before)
        assert after.dtype == before.dtype
    same = LabelledGraph.of_tensors(padded.tensors())
    assert isinstance(same.graph, CrystalGraph)
    assert all(one is other for one, other in zip(same.tensors(), padded.tensors(), strict=True))


def test_dummies_join_no_crystal_and_spread_their_edges(pairs_of: PairsOf) -> None:
    pairs = pairs_of(5)
    batch = batch_of(pairs, task_on(pairs, CONFIGS["ours"]))
    atoms, edges, crystals, in_cell = batch.sizes
    padded = pad_graph(batch, Sizes.around([batch.sizes]))
    source, destination = padded.graph.edge_index[:, edges:]
    assert torch.equal(source, destination)
    assert source.min() >= atoms
    assert torch.bincount(source)[atoms:].max() <= -(-len(source) // (padded.graph.num_atoms - atoms))
    assert (padded.graph.batch[atoms:] == padded.graph.num_crystals - 1).all()
    assert padded.graph.num_crystals > crystals
    assert not padded.graph.numbers[atoms:].any()
    assert (padded.pairs[in_cell:] >= edges).all()


def test_room_grows_where_a_batch_does_not_fit_and_stays_otherwise(pairs_of: PairsOf) -> None:
    pairs, settings = pairs_of(600), TrainingSettings(atoms_per_batch=60)
    config = CONFIGS["as printed"]
    room = Room(likely_sizes(pairs, config, settings, "cpu"))
    task = DeepRelaxTask(pairs, config, settings)
    first = room.around(Sizes(1, 1, 1, 1))
    for crystals, _ in zip(epochs(pairs.counts, 60, 9), range(20), strict=False):
        assert room.around(labelled(*task.augmented(crystals)).sizes) == first
    larger = room.around(first)
    assert larger.hold(first)
    assert room.around(Sizes(1, 1, 1, 1)) == larger
