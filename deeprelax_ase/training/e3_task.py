"""Training the end-to-end network: the next batch is prepared while the last one is learnt from."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from deeprelax_ase.data import LEVELS, RelaxationPairs
from deeprelax_ase.data.batches import pair_graph
from deeprelax_ase.nn import DeepRelaxE3, DeepRelaxE3Config
from deeprelax_ase.nn.cuda_graph import GraphedStep
from deeprelax_ase.nn.deeprelax_e3 import NetworkInput, network_input
from deeprelax_ase.nn.edge_lists import EdgeLists
from deeprelax_ase.nn.records import KnownForces
from deeprelax_ase.training.augment import augment
from deeprelax_ase.training.e3_loss import (
    TrueRelaxation,
    crystal_weights,
    energy_loss,
    relaxation_loss,
    true_relaxation,
)
from deeprelax_ase.training.elastic_loss import elastic_loss
from deeprelax_ase.training.force_targets import StartForces, start_forces_loss
from deeprelax_ase.training.graphs import kept_graphs, pair_strain_projectors
from deeprelax_ase.training.heads import WithHeads, element_energies, with_told_energies
from deeprelax_ase.training.padding import Sizes, pad
from deeprelax_ase.training.prefetch import Prefetch, Room, likely_sizes
from deeprelax_ase.training.recycle_buffer import RecycleBuffer
from deeprelax_ase.training.settings import TrainingSettings


class Prepared(NamedTuple):
    """A batch ready to learn from.

    Attributes:
        crystals, atoms: indices of its pairs and of their atoms, where the recycle buffer lies.
        start: the pairs.
        given: the same as the network reads them.
        truth: what it is to predict.
    """

    crystals: Tensor
    atoms: Tensor
    start: RelaxationPairs
    given: NetworkInput
    truth: TrueRelaxation


class DeepRelaxE3Task:
    """The end-to-end network, fed with its own predictions for a share of the crystals.

    On CUDA, batches are padded to one size and a step is one CUDA graph; the next batch is prepared on a stream of its
    own meanwhile, and sees the predictions of the step before the present one.

    Raises:
        ValueError: the pairs hold a level of theory that the network does not know, augmentation is to choose other
            cells, there are weights of other blocks, or energies are to be learnt that no pair tells.
    """

    def __init__(
        self,
        pairs: RelaxationPairs,
        config: DeepRelaxE3Config,
        settings: TrainingSettings,
        device: torch.device | str | None = None,
    ) -> None:
        if (
            settings.augmentation.augments_cells
        ):  # and the recycle buffer keeps predictions in the cell and order of the pairs
            raise ValueError(
                "sheared, permuted and supercell describe the same crystal in another way, to which the end-to-end "
                "network is indifferent: leave these shares of the augmentation at 0"
            )
        if len(settings.block_weights) not in (0, config.num_blocks):
            given = f"block_weights names {len(settings.block_weights)} weights"
            raise ValueError(f"{given} for {config.num_blocks} blocks: give one for each, or none for equal ones")
        self.settings, self.config = settings, config
        reads = config.reads_forces or not settings.force_targets
        self._hidden = {name: getattr(settings, name) if reads else 1.0 for name in ("hidden", "hidden_starts")}
        self.device = pairs.counts.device if device is None else torch.device(device)
        self.generator = torch.Generator(self.device).manual_seed(settings.seed)
        pairs = with_told_energies(pairs) if settings.energy_weight else pairs
        self.network = _network(pairs, config, settings).to(self.device)
        self.network.gradients_through_blocks = settings.gradients_through_blocks
        self.recycle_buffer = RecycleBuffer(pairs)
        self.level = known_levels(pairs, config)
        self.graphs = None if settings.recycled else kept_graphs(pairs, config.graph, settings, self.device)
        self._prefetch = Prefetch(self.prepare, self.generator, self.device) if self.device.type == "cuda" else None
        self._graphed = GraphedStep(self.graph_step, self.network)
        self._room: Room | None = None

    def compile(self) -> None:
        """Have the network compiled, for the one size of its batches."""
        self.network.compile_parts(dynamic=False)

    def gradients(self, crystals: Tensor, upcoming: Tensor) -> dict[str, Tensor]:
        """Compute the gradients of the Laplace loss of all blocks."""
        if self._prefetch is None:
            batch = self.prepare(crystals)
            losses, displacements, strain = self.learn(batch.given, batch.truth)
        else:
            batch = self._prefetch.take(crystals)
            losses, displacements, strain = self._learn_graphed(batch)
            self._prefetch.prepare(upcoming)
        # Nothing here may wait for the step: the optimizer's kernels would be launched one by one after it.
        self.recycle_buffer.store(batch.crystals, batch.start, displacements, strain, atoms=batch.atoms)
        return losses

    @torch.no_grad()
    def validate(self, network: nn.Module, pairs: RelaxationPairs) -> dict[str, Tensor]:
        """The loss and its parts, and the absolute errors weighted as in the loss, in Å."""
        known = KnownForces(pairs.forces, pairs.virial, pairs.has_forces)
        graph, level = pair_graph(pairs, self.config.graph), known_levels(pairs, self.config)
        given = network_input(graph, level, known, strain_projectors=self._strain_projectors(pairs))
        settings = self.settings
        pairs = with_told_energies(pairs) if settings.energy_weight else pairs
        losses, _, _ = self._losses(network, given, true_relaxation(pairs, given))
        of_cell = settings.volume_weight * losses["volume"] + settings.shape_weight * losses["shape"]
        others = sum(weight * losses[name] for name, weight in self._other_weights.items())
        return {**losses, "error": losses["displacement"] + of_cell + others}

    def state_dict(self) -> dict[str, Any]:
        """The predictions to recycle, and the state of the random numbers that the next batch starts from."""
        state = self.generator.get_state() if self._prefetch is None else self._prefetch.state()
        return {**self.recycle_buffer.state_dict(), "generator": state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.generator.set_state(state["generator"].cpu())
        self.recycle_buffer.load_state_dict(state)

    @property
    def _other_weights(self) -> dict[str, float]:
        """Of the losses that stand beside the Laplace loss of the relaxation, as far as there are any."""
        weights = {"elastic": self.settings.elastic_weight, "energy": self.settings.energy_weight}
        return {name: weight for name, weight in weights.items() if weight}

    def _strain_projectors(self, pairs: RelaxationPairs) -> Tensor | None:
        """Return the strain projectors of ``pairs``, for a network that reads them; None for all directions."""
        return pair_strain_projectors(pairs) if self.config.reads_cell_freedom else None

    def prepare(self, crystals: Tensor) -> Prepared:
        """An augmented batch of the pairs ``crystals`` (n,), some of them as last predicted; padded on CUDA."""
        settings, unrelaxed = self.settings, None
        crystals = crystals.to(self.recycle_buffer.cell.device)
        start = self.recycle_buffer.mix(crystals, settings.recycled, self.generator, **self._hidden)
        start = start.to(self.device)
        if settings.force_targets:
            unrelaxed = self.recycle_buffer.pairs.take(crystals).to(self.device)
        start = augment(start, settings.augmentation, self.generator)
        graph = pair_graph(start, self.config.graph) if self.graphs is None else self.graphs.take(crystals, start)
        known = KnownForces(start.forces, start.virial, start.has_forces)
        level = self.level[crystals.to(self.level.device)].to(self.device)
        given = network_input(graph, level, known, strain_projectors=self._strain_projectors(start))
        truth = true_relaxation(start, given, weights=crystal_weights(start, settings), unrelaxed=unrelaxed)
        if self._prefetch is not None:
            given, truth = pad(given, truth, self._room_for(given))
        return Prepared(crystals, self.recycle_buffer.pairs.atoms_of(crystals), start, given, truth)

    def _room_for(self, given: NetworkInput) -> Sizes:
        """Sizes of the padded batch."""
        if self._room is None:
            self._room = Room(likely_sizes(self.recycle_buffer.pairs, self.config, self.settings, self.device))
        return self._room.around(Sizes.of(given))

    def _learn_graphed(self, batch: Prepared) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        *values, displacements, strain = self._graphed(flat_tensors(batch.given, batch.truth))
        names = ("loss", "displacement", "volume", "shape", *self._other_weights)
        losses, start = dict(zip(names, values, strict=True)), batch.start
        return losses, displacements[: len(start.numbers)], strain[: len(start)]

    def graph_step(self, tensors: list[Tensor]) -> list[Tensor]:
        """:meth:`learn` from :func:`flat_tensors` to tensors, as a CUDA graph records it."""
        numbers, level, projectors, batch, counts, vectors, *rest = tensors
        known, edges = KnownForces(*rest[:3]), EdgeLists(*rest[3:8])
        displacements, strain, atoms, crystals, same_batch, energy, energies, *start = rest[8:]
        of_start = StartForces(*start)
        truth = TrueRelaxation(displacements, strain, atoms, crystals, same_batch, energy, energies, of_start)
        given = NetworkInput(numbers, level, projectors, batch, counts, vectors, known, edges)
        losses, moved, strained = self.learn(given, truth)
        return [*losses.values(), moved, strained]

    def learn(self, given: NetworkInput, truth: TrueRelaxation) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Losses, with the network's gradients set, and the last block's displacements and strain."""
        if self._prefetch is None:
            self.network.zero_grad(set_to_none=True)
        losses, displacements, strain = self._losses(self.network, given, truth, learning=True)
        losses["loss"].backward()
        return {name: loss.detach() for name, loss in losses.items()}, displacements.detach(), strain.detach()

    def _losses(
        self, network: nn.Module, given: NetworkInput, truth: TrueRelaxation, *, learning: bool = False
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        settings = self.settings
        sharper = settings.forces_tempering - settings.tempering
        lower = settings.bfloat16 and given.vectors.is_cuda
        with torch.autocast("cuda", torch.bfloat16, enabled=lower, cache_enabled=False):
            if isinstance(network, WithHeads):
                relaxations, read, energies = network.refine_and_read(given)
            else:
                relaxations, read, energies = cast("DeepRelaxE3", network).refine(given), None, None
        tempering = settings.tempering + sharper * given.known.has_forces
        losses = relaxation_loss(
            relaxations,
            truth,
            volume_weight=settings.volume_weight,
            shape_weight=settings.shape_weight,
            tempering=tempering,
            block_weights=settings.block_weights,
        )
        if settings.elastic_weight:
            losses["elastic"] = elastic_loss(relaxations[-1], truth, given)
            losses["loss"] = losses["loss"] + settings.elastic_weight * losses["elastic"]
        if energies is not None:
            likelihood, losses["energy"] = energy_loss(energies, truth, tempering=tempering)
            losses["loss"] = losses["loss"] + settings.energy_weight * likelihood
        if read is not None and learning:
            losses["loss"] = losses["loss"] + settings.force_targets * start_forces_loss(read, truth.start)
        return losses, relaxations[-1].displacements, relaxations[-1].strain


def _network(pairs: RelaxationPairs, config: DeepRelaxE3Config, settings: TrainingSettings) -> DeepRelaxE3:
    """The network to train, with the heads that ``settings`` ask for."""
    if not (settings.force_targets or settings.energy_weight):
        return DeepRelaxE3(config)
    network = WithHeads(config, forces=bool(settings.force_targets), energy=bool(settings.energy_weight))
    if network.energy is not None:
        network.energy.elements.copy_(element_energies(pairs, config.num_elements))
    return network


def flat_tensors(given: NetworkInput, truth: TrueRelaxation) -> list[Tensor]:
    """All tensors of a batch, in the order in which :meth:`DeepRelaxE3Task.graph_step` takes them."""
    return [*given[:-2], *given.known, *given.edges, *truth[:-1], *truth.start]


def known_levels(pairs: RelaxationPairs, config: DeepRelaxE3Config) -> Tensor:
    """(G,) the level of each pair as the network counts them."""
    names = [LEVELS[index] for index in pairs.level.unique().tolist()]
    if missing := [name for name in names if name not in config.levels]:
        raise ValueError(f"the pairs are relaxed to {missing}, which the network's levels {config.levels} lack")
    place = [config.levels.index(name) if name in config.levels else -1 for name in LEVELS]
    return torch.tensor(place, device=pairs.level.device)[pairs.level]
