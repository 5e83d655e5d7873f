"""What training needs to know of a network: how it is made, what is compiled, and what its loss is."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from deeprelax_ase.data import Pairs
from deeprelax_ase.graph.record import CrystalGraph, carried_positions, rows_times_matrices
from deeprelax_ase.nn import DeepRelax, DeepRelaxConfig, DeepRelaxE3Config
from deeprelax_ase.training.augment import augment
from deeprelax_ase.training.e3_task import DeepRelaxE3Task
from deeprelax_ase.training.graphs import kept_graphs, pair_graph
from deeprelax_ase.training.loss import RelaxedGeometry, deeprelax_loss, relaxed_geometry
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

    def validate(self, network: nn.Module, pairs: Pairs) -> dict[str, Tensor]:
        """Errors of ``network``, one like that in training, for ``pairs`` as they are, without gradients.

        Returns:
            ``loss`` and its parts, and ``error``: absolute errors alone, by which runs are compared.
        """

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold besides the network."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""


def task_of(
    pairs: Pairs,
    config: DeepRelaxConfig | DeepRelaxE3Config,
    settings: TrainingSettings,
    device: torch.device | str | None = None,
) -> Task:
    """The task of training the network that ``config`` describes, on ``device``: where the pairs lie by default."""
    if isinstance(config, DeepRelaxE3Config):
        return DeepRelaxE3Task(pairs, config, settings, device)
    return DeepRelaxTask(pairs, config, settings, device)


class DeepRelaxTask:
    """The paper's network and loss."""

    def __init__(
        self,
        pairs: Pairs,
        config: DeepRelaxConfig,
        settings: TrainingSettings,
        device: torch.device | str | None = None,
    ) -> None:
        self.pairs, self.config, self.settings = pairs, config, settings
        self.device = pairs.counts.device if device is None else torch.device(device)
        self.generator = torch.Generator(self.device).manual_seed(settings.seed)
        self.network = DeepRelax(config).to(self.device)
        self.graphs = kept_graphs(pairs, config.graph, settings, self.device)

    def compile(self) -> None:
        """Backbone and heads."""
        network = self.network
        for part in (network.backbone, network.distance_head, network.displacement_head, network.lattice_head):
            part.compile(dynamic=True)

    def gradients(self, crystals: Tensor, upcoming: Tensor) -> dict[str, Tensor]:
        """Those of eqs. (11)-(14)."""
        batch = self.pairs.take(crystals).to(self.device)
        if self.graphs is None:
            batch = augment(batch, self.settings.augmentation, self.generator)
        graph = pair_graph(batch, self.config.graph) if self.graphs is None else self.graphs.take(crystals, batch)
        self.network.zero_grad(set_to_none=True)
        losses = self._losses(self.network, batch, graph)
        losses["loss"].backward()
        return losses

    @torch.no_grad()
    def validate(self, network: nn.Module, pairs: Pairs) -> dict[str, Tensor]:
        """The loss and its parts, and the mean absolute errors of distances, displacements and lattice together."""
        graph = pair_graph(pairs, self.config.graph)
        plain = self._losses(network, pairs, graph, uncertainty=False)
        return {**self._losses(network, pairs, graph), "error": plain["loss"]}

    def _losses(
        self, network: nn.Module, pairs: Pairs, graph: CrystalGraph, *, uncertainty: bool | None = None
    ) -> dict[str, Tensor]:
        truth = pair_truth(pairs, graph, self.config)
        with torch.autocast("cuda", torch.bfloat16, enabled=self.settings.bfloat16 and graph.cell.is_cuda):
            quantities = network(graph, anchor_cell=truth.cell)
        return deeprelax_loss(
            quantities,
            truth,
            lattice_weight=self.settings.lattice_weight,
            uncertainty=self.config.local_uncertainty if uncertainty is None else uncertainty,
        )

    def state_dict(self) -> dict[str, Any]:
        """The state of the random numbers."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.generator.set_state(state["generator"].cpu())


def pair_truth(pairs: Pairs, graph: CrystalGraph, config: DeepRelaxConfig) -> RelaxedGeometry:
    """The true quantities of ``pairs`` on ``graph``, with the anchors that ``config`` measures displacements from."""
    positions = rows_times_matrices(pairs.scaled_relaxed, pairs.cell_relaxed[graph.batch])
    carried = config.distance_baseline == "carried"
    anchors = carried_positions(graph, pairs.cell_relaxed) if carried else graph.positions
    return relaxed_geometry(graph, positions, pairs.cell_relaxed, anchors)
