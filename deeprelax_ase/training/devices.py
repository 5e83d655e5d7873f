"""Training on several devices: each learns from batches of its own, and the gradients are averaged.

Fabric starts the processes and carries the messages. Its wrapper around the network is left out: that averages
gradients in hooks of the backward pass, which do not run when a step is replayed as a CUDA graph.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from deeprelax_ase.data import RelaxationPairs

if TYPE_CHECKING:
    from lightning.fabric import Fabric

logger = logging.getLogger(__name__)

#: Loggers by name: the columns of ``metrics.csv``, TensorBoard's event files, a run of Weights & Biases.
LOGGERS = ("csv", "tensorboard", "wandb")


def launched_fabric(device: torch.device, devices: int, *, loggers: Sequence[str] = (), out: Path) -> Fabric:
    """Lightning's Fabric on so many ``devices`` of a kind, its processes started; ``loggers`` write to ``out``."""
    from lightning.fabric import Fabric  # takes seconds, which the help of the command line does without

    one_gpu = device.type == "cuda" and devices == 1
    fabric = Fabric(
        accelerator=device.type,
        devices=[device.index or 0] if one_gpu else devices,
        strategy="ddp" if devices > 1 else "auto",
        loggers=[_logger(name, out) for name in loggers],
    )
    fabric.launch()
    return fabric


def _logger(name: str, out: Path) -> Any:
    from lightning.fabric.loggers import CSVLogger, TensorBoardLogger

    if name == "csv":  # each call has a file of its own
        return CSVLogger(out, name="csv", flush_logs_every_n_steps=1)
    if name == "tensorboard":
        return TensorBoardLogger(out, name="tensorboard", version="")
    from lightning.pytorch.loggers import WandbLogger

    return WandbLogger(project="deeprelax", name=out.name, save_dir=out, id=out.name, resume="allow")


@contextmanager
def finalized(loggers: Sequence[Any]) -> Iterator[None]:
    """Have the ``loggers`` write what they hold back, however the run ends."""
    try:
        yield
    finally:
        for log in loggers:
            log.finalize("success")


def average_gradients(fabric: Fabric, network: nn.Module) -> None:
    """Replace the gradients of ``network`` by their mean over all processes, in one message.

    Not by ``fabric.all_reduce``: that lets all processes wait for each other, and for their GPUs, at every step.
    """
    if fabric.world_size == 1:
        return
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    torch.distributed.all_reduce(flat)
    flat /= fabric.world_size
    means = flat.split([g.numel() for g in gradients])
    torch._foreach_copy_(gradients, [mean.view_as(g) for g, mean in zip(gradients, means, strict=True)])


@torch.no_grad()
def share_weights(fabric: Fabric, network: nn.Module) -> None:
    """Give every process the ``network`` of the first one, from which rounding may let the others drift."""
    if fabric.world_size > 1:
        for parameter in network.parameters():
            torch.distributed.broadcast(parameter.data, src=0)


def gathered(fabric: Fabric, state: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """The ``state`` of every process, in order, as copies on the CPU."""
    own = {name: tensor.cpu() for name, tensor in state.items()}
    if fabric.world_size == 1:
        return [own]
    states: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(states, own)
    return states


def first_process() -> bool:
    """Whether this is the process that writes and talks, where several train together."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def resident(pairs: RelaxationPairs, device: torch.device, choice: str) -> RelaxationPairs:
    """The ``pairs`` on the ``device``, or where they were if they are to be moved batch by batch.

    Args:
        pairs: of the whole run.
        device: that trains.
        choice: see :attr:`~deeprelax_ase.training.settings.TrainingSettings.resident`.
    """
    if choice == "never":
        return pairs
    if choice == "auto" and device.type == "cuda":
        size = sum(tensor.numel() * tensor.element_size() for tensor in vars(pairs).values())
        if 2 * size > torch.cuda.mem_get_info(device)[0]:
            logger.info("the pairs take %.1f GB: they are moved to %s batch by batch", size / 1e9, device)
            return pairs
    return pairs.to(device)


@contextmanager
def tensor_float_32(allowed: bool) -> Iterator[None]:
    """Matrix products on CUDA in TF32, or not."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
