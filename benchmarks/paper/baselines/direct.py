"""Training and use of networks that predict coordinates and cell directly."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from baselines.cryslator import Cryslator
from baselines.egnn import EGNN
from baselines.painn import PaiNN
from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.data.batches import Batches, pair_graph
from deeprelax_ase.graph.crystal_graph import CrystalGraph, affine_positions, rows_times_matrices
from deeprelax_ase.graph.settings import GraphSettings
from deeprelax_ase.training.graph_task import GraphTask
from deeprelax_ase.training.settings import TrainingSettings

NETWORKS = {"PaiNN": PaiNN, "EGNN": EGNN, "Cryslator": Cryslator}


@dataclass(frozen=True)
class DirectConfig:
    """Shape of a direct network.

    Attributes:
        kind: name of the network, see :data:`NETWORKS`.
        channels: features per atom.
        num_layers: message passing layers.
        num_basis: Gaussian radial basis functions up to the cutoff.
        cutoff, max_neighbors: see :class:`~deeprelax_ase.graph.GraphSettings`.
        frame: what displacements are measured from: where the cell carries the atoms (``cell``), or where they are
            (``cartesian``), as in the paper. How far an atom goes along with the cell depends on its periodic image and
            on the origin, which a periodic network does not see: in the second frame there is little to learn.
    """

    kind: str
    channels: int = 128
    num_layers: int = 4
    num_basis: int = 64
    cutoff: float = 6.0
    max_neighbors: int = 30
    frame: Literal["cell", "cartesian"] = "cell"

    @property
    def graph(self) -> GraphSettings:
        """The graph that the network expects."""
        return GraphSettings(cutoff=self.cutoff, max_neighbors=self.max_neighbors, max_in_cell=0)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary, for records."""
        return asdict(self)

    def make(self) -> nn.Module:
        """The network."""
        return NETWORKS[self.kind](self.channels, self.num_layers, self.num_basis, self.cutoff, self.max_neighbors)


class DirectTask(GraphTask):
    """Absolute errors of Cartesian coordinates and of the lattice."""

    def __init__(
        self,
        pairs: RelaxationPairs,
        config: DirectConfig,
        settings: TrainingSettings,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(config.make(), pairs, config, settings, device)

    def compile(self) -> None:
        """The whole network."""
        self.network.compile(dynamic=True)

    def losses(
        self, network: nn.Module, pairs: RelaxationPairs, graph: CrystalGraph, *, learning: bool
    ) -> dict[str, Tensor]:
        """Mean absolute errors and their weighted sum; learning, coordinates are measured in the true cell."""
        truth = rows_times_matrices(pairs.fractional_relaxed, pairs.cell_relaxed[graph.batch])
        true_cell = pairs.cell_relaxed if learning else None
        with torch.autocast("cuda", torch.bfloat16, enabled=self.settings.bfloat16 and graph.cell.is_cuda):
            displacements, cell = network(graph, true_cell)
            positions = displaced(graph, displacements, cell, true_cell, self.config)
        coordinates, lattice = (positions - truth).abs().mean(), (cell - pairs.cell_relaxed).abs().mean()
        loss = coordinates + self.settings.lattice_weight * lattice
        return {"loss": loss, "coordinates": coordinates, "lattice": lattice, **({} if learning else {"error": loss})}


def displaced(
    graph: CrystalGraph, displacements: Tensor, cell: Tensor, true_cell: Tensor | None, config: DirectConfig
) -> Tensor:
    """Positions (N, 3) in Å, ``displacements`` (N, 3) away from what they are measured from.

    In training the true cell carries the atoms, so that the network learns what they do beyond, free of the error of a
    cell still being learnt.
    """
    if config.frame == "cartesian":
        return graph.positions + displacements
    return affine_positions(graph, cell.detach() if true_cell is None else true_cell) + displacements


@torch.no_grad()
def relax_direct(
    network: nn.Module, config: DirectConfig, pairs: RelaxationPairs, *, atoms_per_batch: int = 20000
) -> tuple[Tensor, Tensor]:
    """Fractional coordinates (N, 3) and cells (G, 3, 3) in Å that ``network`` predicts for ``pairs``."""
    network, parts = network.to(pairs.counts.device), []
    for chunk in Batches(pairs.counts, atoms_per_batch):
        batch = pairs.take(chunk)
        graph = pair_graph(batch, config.graph)
        displacements, cell = network(graph)
        positions = displaced(graph, displacements, cell, None, config)
        parts.append((rows_times_matrices(positions, torch.linalg.inv(cell)[graph.batch]), cell))
    fractional, cells = zip(*parts, strict=True)
    return torch.cat(fractional), torch.cat(cells)
