"""Ensembles, whatever size the shipped models have."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import torch
from torch import nn

from deeprelax_ase.models.model import Model

#: Noise on the weights of a further member, over their own spread.
_NOISE = 0.03


def ensemble_of(model: Model, members: int = 2) -> Model:
    """The ``model`` with so many members at least: further ones are the first with a little noise on its weights.

    Such a model is not calibrated: the members' scatter is no feature that the card knows.
    """
    networks = [*model.networks]
    if len(networks) >= members:
        return model
    generator = torch.Generator().manual_seed(1)
    while len(networks) < members:
        network = deepcopy(networks[0])
        with torch.no_grad():
            for parameter in network.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter += _NOISE * parameter.std(correction=0) * noise
        networks.append(network)
    return replace(
        model, card=replace(model.card, members=len(networks), calibration={}), networks=nn.ModuleList(networks)
    )
