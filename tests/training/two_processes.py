"""What each of two processes does in test_devices.py, where they train together: a script of its own."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import torch

from deeprelax_ase.training import train
from deeprelax_ase.training.devices import average_gradients, gathered, launched_fabric, share_weights
from tests.pairs import make_pairs
from tests.training.runs import E3, QUICK


def train_together(out: Path, rank: int) -> None:
    """Twice: at one go, and in two calls, of which a deadline ends the first."""
    pairs = make_pairs(12, dtype=torch.float32)
    # A clock that several processes share is looked at every twenty steps.
    settings = replace(QUICK, max_steps=24, log_every=4, seed=2, recycled=0.5, validate_every=5.0, energy_weight=1.0)
    options = {"devices": 2, "device": "cpu", "validation": pairs}
    told: list[dict] = []
    whole = train(pairs, E3, settings, out / "whole", observe=told.append, **options)
    assert train(pairs, E3, settings, out / "pieces", deadline=0, **options) is None
    refs = train(pairs, E3, settings, out / "pieces", **options)
    torch.save({"whole": whole.state_dict(), "pieces": refs.state_dict()}, out / f"{rank}.pt")
    assert bool(told) == (rank == 0)  # one of them speaks for both


def share(out: Path, rank: int) -> None:
    """What the functions of devices.py give."""
    fabric = launched_fabric(torch.device("cpu"), 2, out=out)
    assert fabric.world_size == 2
    network = torch.nn.Linear(3, 2).double()
    network.bias.requires_grad_(False)
    torch.nn.init.constant_(network.weight, rank + 1.0)
    generator = torch.Generator().manual_seed(0)
    own = torch.randn(2, 2, 3, generator=generator, dtype=torch.float64)
    network.weight.grad = own[rank].clone()
    average_gradients(fabric, network)
    torch.testing.assert_close(network.weight.grad, own.mean(dim=0), rtol=0, atol=1e-15)
    assert network.bias.grad is None
    share_weights(fabric, network)  # which are of each process alone
    first = gathered(fabric, network.state_dict())
    assert all(torch.equal(first[0][name], first[1][name]) for name in first[0])
    states = gathered(fabric, {"own": own[rank]})
    assert all(torch.equal(state["own"], own[k]) for k, state in enumerate(states))


if __name__ == "__main__":
    torch.set_num_threads(1)
    process = int(os.environ["LOCAL_RANK"])
    train_together(Path(sys.argv[1]), process)
    share(Path(sys.argv[1]), process)  # in the processes that the training has brought together
