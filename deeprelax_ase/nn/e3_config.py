"""Shape of the end-to-end network in one frozen record."""

from __future__ import annotations

from dataclasses import dataclass

from deeprelax_ase.graph.settings import GraphSettings
from deeprelax_ase.nn.config import NetworkConfig

_LEAST = {"channels": 1, "num_blocks": 1, "layers_per_block": 1, "num_basis": 2, "num_elements": 1}


@dataclass(frozen=True)
class DeepRelaxE3Config(NetworkConfig):
    """Shape and switches of the :class:`~deeprelax_ase.nn.DeepRelaxE3` network.

    Attributes:
        channels: F, scalar, vector and tensor features per atom.
        num_blocks: refinements of the geometry; each block sees the geometry that the one before it predicted.
        layers_per_block: message and update phases of each block.
        num_basis: Gaussian radial basis functions up to the cutoff.
        num_elements: size of the element embedding; atomic numbers must be at most this.
        cutoff: Å, how far neighbours reach.
        max_neighbors: nearest neighbours of each atom that become edges, ties included.
        tensor_messages: whether rank-2 features travel between atoms; if not, they only form within one, from products
            of its vectors.
        reads_cell_freedom: whether the network is told in how many directions each cell may be strained: atoms relax
            otherwise in a fixed cell. If so, layers are strained in their plane alone, in every block.
        reads_forces: whether forces and stress in the unrelaxed crystal are read, where they are known.
        levels: levels of theory that the network relaxes to, in the order of its embedding of them.
    """

    channels: int = 128
    num_blocks: int = 3
    layers_per_block: int = 2
    num_basis: int = 48
    num_elements: int = 100
    cutoff: float = 6.0
    max_neighbors: int = 30
    tensor_messages: bool = True
    reads_cell_freedom: bool = False
    reads_forces: bool = False
    levels: tuple[str, ...] = ("PBE",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(self.levels))
        self.check_counts(_LEAST)
        if not self.levels:
            raise ValueError("levels must name at least one level of theory, such as ('PBE',)")
        _ = self.graph  # checks the rest

    @property
    def graph(self) -> GraphSettings:
        """The graph that the network expects: it does not tell the own cell from the others."""
        return GraphSettings(cutoff=self.cutoff, max_neighbors=self.max_neighbors, max_in_cell=0)
