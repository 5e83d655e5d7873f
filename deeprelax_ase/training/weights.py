"""Changes of a network's weights in training besides the optimizer's step: initial ones, freezing, averages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from deeprelax_ase.training.heads import ENERGY


def load_initial(network: nn.Module, initial: str | Path | dict[str, Tensor]) -> None:
    """Weights of an earlier run, of a network of the same shape.

    It need not have read forces or cell freedom, nor have had forces or energies as targets; a head for energies that
    nothing is to be taught is left out.

    Args:
        network: its weights are set.
        initial: a safetensors file, or the weights themselves.

    Raises:
        ValueError: the shape is another.
    """
    weights = initial if isinstance(initial, dict) else load_file(initial)
    name = "the initial state" if isinstance(initial, dict) else initial
    state = network.state_dict()
    own = {key: state[key] for key in state if key.startswith(("forces.", "freedoms.", "force_targets.", ENERGY))}
    weights = {key: weight for key, weight in weights.items() if key in state or not key.startswith(ENERGY)}
    elements = f"{ENERGY}elements"
    if elements in weights and elements in state:  # a head's may end at the heaviest element that it has met
        given = weights[elements]
        weights[elements] = torch.cat([given, state[elements][len(given) :].to(given)])
    try:
        network.load_state_dict({**own, **weights}, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{name} holds the weights of another network: {error}") from error


def mix_initial(network: nn.Module, initial: dict[str, Tensor], share: float) -> None:
    """Make the weights of ``network`` a mean of its own and, by that ``share``, of the ``initial`` ones that it has.

    Between both ends little of what the first ones knew is lost, and most of what was learnt since is kept (Wortsman et
    al., CVPR 2022).
    """
    for name, tensor in network.state_dict().items():
        if name in initial and initial[name].shape == tensor.shape:  # energies of the elements may be more, and stay
            tensor.lerp_(initial[name].to(tensor), share)


def freeze(network: nn.Module, prefixes: Sequence[str]) -> int:
    """Leave parameters as they are whose names begin with one of ``prefixes``; returns how many numbers that spares.

    Raises:
        ValueError: no parameter is called like that, or none is left to train.
    """
    parameters = dict(network.named_parameters())
    for prefix in prefixes:
        if not any(_under(name, prefix) for name in parameters):
            parts = sorted({name.split(".")[0] for name in parameters})
            raise ValueError(f"No parameter begins with {prefix!r}; the network's parts are {parts}")
    frozen = [p for name, p in parameters.items() if any(_under(name, prefix) for prefix in prefixes)]
    if len(frozen) == len(parameters):
        raise ValueError(f"{list(prefixes)} would freeze the whole network: nothing is left to train")
    for parameter in frozen:
        parameter.requires_grad_(False)
    return sum(p.numel() for p in frozen)


def _under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix.rstrip(".") + ".")


class Weights:
    """The parameters of a network in training and of its moving average, listed once.

    A walk through the modules takes 0.1 ms of the host, for which small networks wait, and a step would need six.

    Args:
        network: in training.
        average: of the same shape.
    """

    def __init__(self, network: nn.Module, average: nn.Module) -> None:
        self.all: list[Tensor] = list(network.parameters())
        self.averages: list[Tensor] = list(average.parameters())
        self.parts = {name: list(part.parameters()) for name, part in network.named_children()}

    def clip_gradients(self, limit: float) -> Tensor:
        """Scale the gradient to a norm of at most ``limit``; returns the norm before that."""
        with torch.no_grad():
            return nn.utils.clip_grad_norm_(self.all, limit)

    @torch.no_grad()
    def gradient_norms(self) -> dict[str, Tensor]:
        """The norm of the gradient of each top-level part that has one.

        A clipped total hides a part that runs away: these norms are logged so that it is seen.
        """
        gradients = {name: [p.grad for p in part if p.grad is not None] for name, part in self.parts.items()}
        return {name: nn.utils.get_total_norm(some) for name, some in gradients.items() if some}

    @torch.no_grad()
    def update_average(self, decay: float, step: int) -> None:
        """Exponential moving average that starts short, so that the initial weights do not linger in short runs.

        Torch's ``AveragedModel`` gives the same weights if it is handed this line, as its own moving average has no
        short start. But it copies its count of steps to the device at each one, and a GPU has to come to rest for that:
        here nothing waits, and the next batch is prepared meanwhile.
        """
        weight = 1 - min((1 + step) / (10 + step), decay) if step else 1.0
        torch._foreach_lerp_(self.averages, self.all, weight)
