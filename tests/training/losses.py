"""What a network's loss is, for tests that compare two of them."""

from __future__ import annotations

import torch

from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.data.batches import pair_graph
from deeprelax_ase.nn import DeepRelax
from deeprelax_ase.training.graph_task import labelled, truth_of
from deeprelax_ase.training.loss import deeprelax_loss


def loss_of(network: DeepRelax, pairs: RelaxationPairs) -> dict[str, float]:
    graph = pair_graph(pairs, network.config.graph)
    truth = truth_of(labelled(pairs, graph), network.config)
    with torch.no_grad():
        losses = deeprelax_loss(network(graph), truth, uncertainty=network.config.local_uncertainty)
    return {name: loss.item() for name, loss in losses.items()}
