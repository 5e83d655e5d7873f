"""Tasks: networks as training sees them, with their creation, the parts to compile, and their losses."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.nn import DeepRelaxConfig, DeepRelaxE3Config
from deeprelax_ase.training.e3_task import DeepRelaxE3Task
from deeprelax_ase.training.graph_task import DeepRelaxTask
from deeprelax_ase.training.settings import TrainingSettings


class Task(Protocol):
    """A network in training on some pairs."""

    @property
    def network(self) -> nn.Module:
        """The network in training."""

    def compile(self) -> None:
        """Have the costly parts of the network compiled."""

    def gradients(self, crystals: Tensor, upcoming: Tensor) -> dict[str, Tensor]:
        """Set the network's gradients from an augmented batch of the pairs with the indices ``crystals`` (n,).

        Args:
            crystals: of this step.
            upcoming: of the next one, which may be prepared meanwhile.

        Returns:
            ``loss`` and its parts.
        """

    def validate(self, network: nn.Module, pairs: RelaxationPairs) -> dict[str, Tensor]:
        """Errors of ``network``, one like that in training, for ``pairs`` as they are, without gradients.

        Returns:
            ``loss`` and its parts, and ``error``: absolute errors alone, by which runs are compared.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a checkpoint must hold besides the network."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""


def task_of(
    pairs: RelaxationPairs,
    config: DeepRelaxConfig | DeepRelaxE3Config,
    settings: TrainingSettings,
    device: torch.device | str | None = None,
) -> Task:
    """The task of training the network that ``config`` describes, on ``device``: where the pairs lie by default."""
    if isinstance(config, DeepRelaxE3Config):
        return DeepRelaxE3Task(pairs, config, settings, device)
    return DeepRelaxTask(pairs, config, settings, device)
