"""Every switch of each network in one frozen record; the paper's variants are rows of it, not copies of the code."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, get_args

from deeprelax_ase.graph.settings import GraphSettings

DistanceBaseline = Literal["none", "carried"]
LatticeHeadKind = Literal["absolute", "residual", "strain"]

#: Smallest sensible values; the spacing of the Gaussians needs two of them, displacements need in-cell pairs.
_LEAST = {
    "channels": 1,
    "num_layers": 1,
    "num_basis": 2,
    "num_elements": 1,
    "max_in_cell": 1,
    "encoding_channels": 2,
    "offset_range": 0,
}

#: Channels, layers, elements at the most: a network of more is a slip of the pen, or made to fill the memory.
MOST = 4096


@dataclass(frozen=True)
class NetworkConfig:
    """Base of the configurations of all networks: checks of counts, and conversion to a dictionary and back."""

    def check_counts(self, least: dict[str, int]) -> None:
        """Refuse fields that are no whole numbers of at least ``least``, or more than :data:`MOST`."""
        for name, smallest in least.items():
            if (count := getattr(self, name)) != int(count) or count < smallest:
                raise ValueError(f"{name} must be a whole number of at least {smallest}, got {count}")
            if count > MOST:
                raise ValueError(f"{name} must be at most {MOST}, got {count}")

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary, for model cards and checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: a key is unknown, so the file is of another version.
        """
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(
                f"Unknown network settings {sorted(unknown)}: the file is of another deeprelax_ase version. Install "
                "the version that wrote it, or export the model again."
            )
        return cls(**values)


@dataclass(frozen=True)
class DeepRelaxConfig(NetworkConfig):
    """Shape and switches of the :class:`~deeprelax_ase.nn.DeepRelax` network.

    Attributes:
        channels: F, scalar and vector features per atom.
        num_layers: message and update phases.
        num_basis: Gaussian radial basis functions.
        basis_stop: Å, centre of the last Gaussian; in-cell pairs may be longer than the cutoff.
        num_elements: size of the element embedding; atomic numbers must be at most this.
        cutoff, max_neighbors, max_in_cell: see :class:`~deeprelax_ase.graph.GraphSettings`.
        cell_offset_encoding: PCOE, eqs. (2)-(3): on in the paper's DeepRelax and DeepRelaxP.
        encoding_channels: length of the encoding vector.
        offset_range: r of the set C = {-r, ..., r} that the offset index counts in; 2 in the paper.
        local_uncertainty: eq. (9) and the Laplace loss: on in the paper's DeepRelax and DeepRelaxU.
        distance_baseline: what eq. (8) adds to the head's output. ``none``: nothing, as printed. ``carried``: the
            distance that the pair has when the predicted cell carries the atoms along, so that an atom at rest in
            fractional coordinates needs no output at all.
        directional_heads: the distance heads also see the vector features projected on the bond (ours).
        lattice_head: ``absolute``: eq. (10) as printed; ``residual``: the same added to the unrelaxed cell, as the
            paper's own code does; ``strain``: a symmetric logarithmic strain summed over bonds, which rotates with the
            crystal (ours).
    """

    channels: int = 128
    num_layers: int = 4
    num_basis: int = 64
    basis_stop: float = 12.0
    num_elements: int = 100
    cutoff: float = 6.0
    max_neighbors: int = 30
    max_in_cell: int = 20
    cell_offset_encoding: bool = False
    encoding_channels: int = 64
    offset_range: int = 2
    local_uncertainty: bool = True
    distance_baseline: DistanceBaseline = "carried"
    directional_heads: bool = True
    lattice_head: LatticeHeadKind = "strain"

    def __post_init__(self) -> None:
        for name, kind in (("distance_baseline", DistanceBaseline), ("lattice_head", LatticeHeadKind)):
            if (value := getattr(self, name)) not in get_args(kind):
                raise ValueError(f"Unknown {name}={value!r}, must be one of {get_args(kind)}")
        self.check_counts(_LEAST)
        if not self.basis_stop > 0:
            raise ValueError(f"basis_stop must be a positive number of Å, got {self.basis_stop}")
        _ = self.graph  # checks the rest
        if self.encoding_channels % 2:
            raise ValueError(f"encoding_channels must be even (pairs of sine and cosine), got {self.encoding_channels}")

    @property
    def graph(self) -> GraphSettings:
        """The graph that the network expects."""
        return GraphSettings(cutoff=self.cutoff, max_neighbors=self.max_neighbors, max_in_cell=self.max_in_cell)


_PRINTED: dict[str, Any] = {
    "distance_baseline": "none",
    "directional_heads": False,
    "lattice_head": "residual",
    "num_basis": 128,
    "basis_stop": 30.0,
}

#: The paper's ablations (table 4) as configurations: heads as in the paper, with and without its two contributions.
ABLATIONS: dict[str, DeepRelaxConfig] = {
    "Vanilla": DeepRelaxConfig(cell_offset_encoding=False, local_uncertainty=False, **_PRINTED),
    "DeepRelaxP": DeepRelaxConfig(cell_offset_encoding=True, local_uncertainty=False, **_PRINTED),
    "DeepRelaxU": DeepRelaxConfig(cell_offset_encoding=False, local_uncertainty=True, **_PRINTED),
    "DeepRelax": DeepRelaxConfig(cell_offset_encoding=True, local_uncertainty=True, **_PRINTED),
}


_LEAST_E3 = {"channels": 1, "num_blocks": 1, "layers_per_block": 1, "num_basis": 2, "num_elements": 1}


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
        self.check_counts(_LEAST_E3)
        if not self.levels:
            raise ValueError("levels must name at least one level of theory, such as ('PBE',)")
        _ = self.graph  # checks the rest

    @property
    def graph(self) -> GraphSettings:
        """The graph that the network expects: it does not tell the own cell from the others."""
        return GraphSettings(cutoff=self.cutoff, max_neighbors=self.max_neighbors, max_in_cell=0)
