"""Training on several devices: each learns from batches of its own, and the gradients are averaged."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn


class AveragedGradients(DDPStrategy):
    """A process for each device, as under Lightning's DDP, without its wrapper around the network.

    That wrapper averages gradients in hooks of the backward pass, which do not run when a step is replayed as a CUDA
    graph. :func:`average_gradients` takes its place.
    """

    def configure_ddp(self) -> None:
        """Start all processes from the same weights."""
        for tensor in self.model.state_dict().values():
            torch.distributed.broadcast(tensor, src=0)


def world_size() -> int:
    """How many processes train together."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def average_gradients(network: nn.Module) -> None:
    """Replace the gradients of ``network`` by their mean over all processes, in one message."""
    if (size := world_size()) == 1:
        return
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    torch.distributed.all_reduce(flat)
    flat /= size
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def gathered(state: Any) -> list[Any]:
    """The ``state`` of every process, in order; of tensors, copies on the CPU."""
    own = _on_cpu(state)
    if (size := world_size()) == 1:
        return [own]
    states: list[Any] = [None] * size
    torch.distributed.all_gather_object(states, own)
    return states


def agreed(value: float, device: torch.device) -> float:
    """The ``value`` of the first process, in all of them."""
    if world_size() == 1:
        return value
    shared = torch.tensor(value, dtype=torch.float64, device=device)
    torch.distributed.broadcast(shared, src=0)
    return shared.item()


def _on_cpu(state: Any) -> Any:
    if isinstance(state, Tensor):
        return state.cpu()
    if isinstance(state, dict):
        return {key: _on_cpu(value) for key, value in state.items()}
    return state
