"""Division of a network's parameters among optimizers."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from deeprelax_ase.training.settings import TrainingSettings

if TYPE_CHECKING:
    from deeprelax_ase.nn import DeepRelaxE3


def make_optimizers(network: nn.Module, settings: TrainingSettings, *, fused: bool) -> dict[str, Optimizer]:
    """By name, the optimizers of the parameters of ``network`` that are not frozen.

    Muon makes the momentum of a matrix nearly orthogonal before each step (Jordan et al., 2024). Its steps have the
    root mean square of AdamW's (Liu et al., arXiv:2502.16982), so that both share a learning rate.

    Args:
        network: in training.
        settings: which ones, and with which weight decay.
        fused: whether AdamW is one kernel, on CUDA.

    Raises:
        RuntimeError: Muon is asked for, which this version of torch lacks.
        ValueError: Muon is asked for, and the network has no matrices for it.
    """
    rate, decay = 0.0 if settings.schedule == "cosine" else settings.learning_rate, settings.weight_decay
    matrices: list[nn.Parameter] = []
    rest = [p for p in network.parameters() if p.requires_grad]
    if settings.optimizer == "muon":
        if not hasattr(torch.optim, "Muon"):
            needed = f"optimizer='muon' needs torch 2.9 or later, this is {torch.__version__}"
            raise RuntimeError(f"{needed}: update torch, or train with optimizer='adamw'")
        matrices, rest = muon_parameters(network)
        if not matrices:
            raise ValueError(
                "optimizer='muon' finds no matrices to train: it is for the blocks of the end-to-end network, "
                "DeepRelaxE3. Train with optimizer='adamw', or freeze less of it"
            )
    optimizers: dict[str, Optimizer] = {}
    if rest:  # the betas as in section 4.8 of the paper
        optimizers["optimizer"] = AdamW(rest, lr=rate, weight_decay=decay, betas=(0.9, 0.98), fused=fused)
    if matrices:
        from deeprelax_ase.training.muon import BatchedMuon

        optimizers["muon"] = BatchedMuon(matrices, lr=rate, weight_decay=decay)
    return optimizers


def muon_parameters(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters for Muon, and the others: embeddings, biases, radial filters and what ends in a few numbers.

    Muon is for matrices between features, in the blocks of the end-to-end network.
    """
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    channels = cast("DeepRelaxE3", network).config.channels
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            inner = name.startswith("blocks.") and ".filters." not in name and parameter.ndim == 2
            square = not any(size % channels for size in parameter.shape)
            (matrices if inner and square else rest).append(parameter)
    return matrices, rest
