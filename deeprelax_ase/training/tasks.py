"""Tasks: networks as training sees them, with their creation, the parts to compile, and their losses."""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.data.batches import pair_graph
from deeprelax_ase.graph.record import CrystalGraph, affine_positions, rows_times_matrices
from deeprelax_ase.nn import DeepRelax, DeepRelaxConfig, DeepRelaxE3Config
from deeprelax_ase.training.augment import augment
from deeprelax_ase.training.e3_task import DeepRelaxE3Task
from deeprelax_ase.training.graphs import kept_graphs, kept_planes
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


class GraphTask:
    """Base of tasks that learn from the graphs of augmented batches; a subclass defines the losses."""

    def __init__(
        self,
        network: nn.Module,
        pairs: RelaxationPairs,
        config: Any,
        settings: TrainingSettings,
        device: torch.device | str | None,
    ) -> None:
        self.pairs, self.config, self.settings = pairs, config, settings
        self.device = pairs.counts.device if device is None else torch.device(device)
        self.generator = torch.Generator(self.device).manual_seed(settings.seed)
        self.network = network.to(self.device)
        self.graphs = kept_graphs(pairs, config.graph, settings, self.device)
        self.planes = kept_planes(pairs, settings)

    def losses(
        self, network: nn.Module, pairs: RelaxationPairs, graph: CrystalGraph, *, learning: bool
    ) -> dict[str, Tensor]:
        """``loss`` and its parts of ``network`` for ``pairs``, and ``error`` if it is not ``learning``."""
        raise NotImplementedError

    def gradients(self, crystals: Tensor, upcoming: Tensor) -> dict[str, Tensor]:
        """Compute the gradients of the losses of an augmented batch."""
        batch = self.pairs.take(crystals).to(self.device)
        if self.graphs is None:
            planes = None if self.planes is None else self.planes[crystals].to(self.device)
            batch = augment(batch, self.settings.augmentation, self.generator, planes=planes)
        graph = pair_graph(batch, self.config.graph) if self.graphs is None else self.graphs.take(crystals, batch)
        self.network.zero_grad(set_to_none=True)
        losses = self.losses(self.network, batch, graph, learning=True)
        losses["loss"].backward()
        return losses

    @torch.no_grad()
    def validate(self, network: nn.Module, pairs: RelaxationPairs) -> dict[str, Tensor]:
        """The losses of ``pairs`` as they are, and their absolute errors together."""
        return self.losses(network, pairs, pair_graph(pairs, self.config.graph), learning=False)

    def state_dict(self) -> dict[str, Any]:
        """The state of the random numbers."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.generator.set_state(state["generator"].cpu())


class DeepRelaxTask(GraphTask):
    """The paper's network and loss, eqs. (11)-(14)."""

    def __init__(
        self,
        pairs: RelaxationPairs,
        config: DeepRelaxConfig,
        settings: TrainingSettings,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(DeepRelax(config), pairs, config, settings, device)

    def compile(self) -> None:
        """Have backbone and heads compiled."""
        cast("DeepRelax", self.network).compile_parts(dynamic=True)

    def losses(
        self, network: nn.Module, pairs: RelaxationPairs, graph: CrystalGraph, *, learning: bool
    ) -> dict[str, Tensor]:
        """Eq. (14) and its parts; ``error`` is its sum with absolute errors in place of likelihoods."""
        truth = pair_truth(pairs, graph, self.config)
        with torch.autocast("cuda", torch.bfloat16, enabled=self.settings.bfloat16 and graph.cell.is_cuda):
            quantities = network(graph, anchor_cell=truth.cell)
        weight, uncertainty = self.settings.lattice_weight, self.config.local_uncertainty
        losses = deeprelax_loss(quantities, truth, lattice_weight=weight, uncertainty=uncertainty)
        if learning:
            return losses
        return {**losses, "error": deeprelax_loss(quantities, truth, lattice_weight=weight, uncertainty=False)["loss"]}


def pair_truth(pairs: RelaxationPairs, graph: CrystalGraph, config: DeepRelaxConfig) -> RelaxedGeometry:
    """The true quantities of ``pairs`` on ``graph``, with the anchors that ``config`` measures displacements from."""
    positions = rows_times_matrices(pairs.fractional_relaxed, pairs.cell_relaxed[graph.batch])
    carried = config.distance_baseline == "carried"
    anchors = affine_positions(graph, pairs.cell_relaxed) if carried else graph.positions
    return relaxed_geometry(graph, positions, pairs.cell_relaxed, anchors)
