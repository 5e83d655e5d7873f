"""Training on the graphs of augmented batches: the paper's network, and what it shares with others like it."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.data.batches import pair_graph
from deeprelax_ase.graph.crystal_graph import CrystalGraph, affine_positions, rows_times_matrices
from deeprelax_ase.nn import DeepRelax, DeepRelaxConfig
from deeprelax_ase.nn.cuda_graph import GraphedStep
from deeprelax_ase.training.augment import augment
from deeprelax_ase.training.graphs import kept_graphs, kept_planes
from deeprelax_ase.training.loss import RelaxedGeometry, deeprelax_loss, relaxed_geometry
from deeprelax_ase.training.padding import LabelledGraph, pad_graph
from deeprelax_ase.training.prefetch import Prefetch, Room, likely_sizes
from deeprelax_ase.training.settings import TrainingSettings


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
        batch, graph = self.augmented(crystals)
        self.network.zero_grad(set_to_none=True)
        losses = self.losses(self.network, batch, graph, learning=True)
        losses["loss"].backward()
        return losses

    def augmented(self, crystals: Tensor) -> tuple[RelaxationPairs, CrystalGraph]:
        """An augmented batch of the pairs ``crystals`` (n,), and its graph."""
        batch = self.pairs.take(crystals).to(self.device)
        if self.graphs is None:
            planes = None if self.planes is None else self.planes[crystals].to(self.device)
            batch = augment(batch, self.settings.augmentation, self.generator, planes=planes)
        return batch, pair_graph(batch, self.config.graph) if self.graphs is None else self.graphs.take(crystals, batch)

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
    """The paper's network and loss, eqs. (11)-(14).

    On CUDA, batches are padded to one size and a step is one CUDA graph; the next batch is prepared meanwhile.
    """

    def __init__(
        self,
        pairs: RelaxationPairs,
        config: DeepRelaxConfig,
        settings: TrainingSettings,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(DeepRelax(config), pairs, config, settings, device)
        on_cuda = self.device.type == "cuda"
        self._prefetch = Prefetch(self.padded, self.generator, self.device) if on_cuda else None
        self._graphed = GraphedStep(self.graph_step, self.network)
        self._room: Room | None = None

    def compile(self) -> None:
        """Have backbone and heads compiled: for the one size of padded batches, or for all."""
        cast("DeepRelax", self.network).compile_parts(dynamic=self._prefetch is None)

    def gradients(self, crystals: Tensor, upcoming: Tensor) -> dict[str, Tensor]:
        """Compute the gradients of eq. (14) of an augmented batch."""
        if self._prefetch is None:
            return super().gradients(crystals, upcoming)
        losses = self._graphed(self._prefetch.take(crystals).tensors())
        self._prefetch.prepare(upcoming)
        return dict(zip(("loss", "distance", "displacement", "lattice"), losses, strict=True))

    def padded(self, crystals: Tensor) -> LabelledGraph:
        """An augmented batch of the pairs ``crystals`` (n,), padded."""
        batch = labelled(*self.augmented(crystals))
        if self._room is None:
            self._room = Room(likely_sizes(self.pairs, self.config, self.settings, self.device))
        return pad_graph(batch, self._room.around(batch.sizes))

    def graph_step(self, tensors: list[Tensor]) -> list[Tensor]:
        """Losses of a batch, with the network's gradients set, from tensors to tensors as a CUDA graph records it."""
        losses = self._losses(self.network, LabelledGraph.of_tensors(tensors), learning=True)
        losses["loss"].backward()
        return [loss.detach() for loss in losses.values()]

    def state_dict(self) -> dict[str, Any]:
        """The state of the random numbers that the next batch starts from."""
        return super().state_dict() if self._prefetch is None else {"generator": self._prefetch.state()}

    def losses(
        self, network: nn.Module, pairs: RelaxationPairs, graph: CrystalGraph, *, learning: bool
    ) -> dict[str, Tensor]:
        """Eq. (14) and its parts; ``error`` is its sum with absolute errors in place of likelihoods."""
        return self._losses(network, labelled(pairs, graph), learning=learning)

    def _losses(self, network: nn.Module, batch: LabelledGraph, *, learning: bool) -> dict[str, Tensor]:
        truth, lower = truth_of(batch, self.config), self.settings.bfloat16 and batch.graph.cell.is_cuda
        with torch.autocast("cuda", torch.bfloat16, enabled=lower, cache_enabled=False):
            quantities = network(batch.graph, anchor_cell=truth.cell, pairs=batch.pairs)
        weight, uncertainty = self.settings.lattice_weight, self.config.local_uncertainty
        losses = deeprelax_loss(quantities, truth, lattice_weight=weight, uncertainty=uncertainty)
        if learning:
            return losses
        return {**losses, "error": deeprelax_loss(quantities, truth, lattice_weight=weight, uncertainty=False)["loss"]}


def labelled(pairs: RelaxationPairs, graph: CrystalGraph) -> LabelledGraph:
    """The ``graph`` of ``pairs`` with their relaxed crystals."""
    return LabelledGraph(graph, graph.in_cell.nonzero().squeeze(1), pairs.fractional_relaxed, pairs.cell_relaxed)


def truth_of(batch: LabelledGraph, config: DeepRelaxConfig) -> RelaxedGeometry:
    """The true quantities of ``batch``, with the anchors that ``config`` measures displacements from."""
    graph, cell = batch.graph, batch.cell_relaxed
    positions = rows_times_matrices(batch.fractional_relaxed, cell[graph.batch])
    anchors = affine_positions(graph, cell) if config.distance_baseline == "carried" else graph.positions
    return relaxed_geometry(graph, positions, cell, anchors, batch.pairs)
