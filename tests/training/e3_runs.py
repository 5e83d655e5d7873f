"""Short runs of small end-to-end networks."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor

from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.evaluation.pair_predictions import PairPredictions, predict_pairs
from deeprelax_ase.models.model import model_of
from deeprelax_ase.nn import DeepRelaxE3, DeepRelaxE3Config
from deeprelax_ase.training import TrainingSettings, train
from deeprelax_ase.training.e3_task import DeepRelaxE3Task
from tests.training.runs import STILL

SMALL = {"channels": 8, "num_blocks": 2, "layers_per_block": 1, "num_basis": 8, "max_neighbors": 14}
CONFIG = DeepRelaxE3Config(**SMALL)
#: Twelve pairs have 36 atoms: three batches an epoch.
QUICK = TrainingSettings(max_steps=7, atoms_per_batch=15, log_every=2, learning_rate=5e-3, recycled=0.5, clip=10.0)
MEASURES = ("displacement", "volume", "shape")


def trained(*arguments, **options) -> DeepRelaxE3:
    network = train(*arguments, **options)
    assert isinstance(network, DeepRelaxE3)
    return network


def predictions(network: torch.nn.Module, pairs: RelaxationPairs, *, recycles: int = 1) -> PairPredictions:
    return predict_pairs(model_of([deepcopy(network)], "in training", level="PBE"), pairs, recycles=recycles)


READS = replace(CONFIG, reads_forces=True)


def task_on(pairs: RelaxationPairs, config: DeepRelaxE3Config = READS, **changes) -> DeepRelaxE3Task:
    """A task on starts that stay as they are, whose network is not as untrained as it would be."""
    settings = replace(
        QUICK, **{"augmentation": STILL, "recycled": 0.0, "hidden": 0.0, "hidden_starts": 0.0, **changes}
    )
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
