"""M3GNet as MatGL 2 evaluates it, in plain torch: many crystals at once, on CPU or CUDA.

The network is that of Chen and Ong, Nature Computational Science 2, 718 (2022), as MatGL (BSD-3-Clause) implements it
for DGL. Its weights, those of M3GNet-MP-2021.2.8-PES, are read from MatGL's folder. DGL has no wheel for CUDA on PyPI.

MatGL calls the centre of an edge its source; here, as everywhere in this package, the centre i is the destination and
the neighbour j the source. MatGL sums messages at the neighbour.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from deeprelax_ase.calculators.identity import digest_of
from deeprelax_ase.calculators.m3gnet_basis import angular_basis, radial_basis, radial_constants, smooth_cutoff
from deeprelax_ase.calculators.m3gnet_three_body import ThreeBodyEdges, three_body_places, three_body_sums
from deeprelax_ase.graph.shapes import (
    Batch,
    CellOffsets,
    Cells,
    EdgeIndex,
    EdgeVectors,
    Ints,
    Matrices,
    Numbers,
    PerCrystal,
    Positions,
)

#: Å. Neighbours within the first pass messages, those within the second make angles.
CUTOFF, THREE_BODY_CUTOFF = 5.0, 4.0

_BLOCKS = 3


class EnergiesForcesStresses(NamedTuple):
    """Energies, forces and stresses of a batch by a potential.

    Attributes:
        energies: (G,) eV, of whole crystals.
        forces: (N, 3) eV/Å.
        stresses: (G, 3, 3) eV/Å³, in ASE's sign: the derivative of the energy by the strain, by volume.
    """

    energies: PerCrystal
    forces: Positions
    stresses: Matrices


class M3GNet(nn.Module):
    """Energies, forces and stresses of a batch of crystals; what it holds are frozen buffers, in float32 as stored.

    ``to`` moves and converts it. In float64 it agrees with MatGL in float64.

    Args:
        state: MatGL's tensors by MatGL's names, see :func:`~deeprelax_ase.calculators.m3gnet_weights.load_m3gnet`.
        atomic_numbers: (n,) int64, of the elements that it knows, in the order of its embedding.

    Attributes:
        weights_digest: digest of ``state``, see :func:`~deeprelax_ase.calculators.weights_digest`.
    """

    types: Tensor
    embedding: Tensor
    references: Tensor
    roots: Tensor
    norms: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, state: dict[str, Tensor], atomic_numbers: Ints) -> None:
        super().__init__()
        self.weights_digest = digest_of(state)
        unknown = len(atomic_numbers)
        # Elements that it does not know become NaN, and their crystal with them: one crystal is lost, never the batch.
        types = torch.full((256,), unknown)
        types[atomic_numbers] = torch.arange(unknown)
        self.register_buffer("types", types)
        embedding = state["model.embedding.layer_node_embedding.weight"]
        self.register_buffer("embedding", torch.cat([embedding, torch.full_like(embedding[:1], torch.nan)]))
        references = state["element_refs.property_offset"]
        self.register_buffer("references", torch.cat([references, torch.full_like(references[:1], torch.nan)]))
        roots, norms = radial_constants(CUTOFF)
        self.register_buffer("roots", roots)
        self.register_buffer("norms", norms)
        self.register_buffer("mean", state["data_mean"])
        self.register_buffer("std", state["data_std"])
        self.edge_embedding = _linear(state, "model.embedding.layer_edge_embedding.layers.0")
        self.blocks = nn.ModuleList(_Block(state, number) for number in range(_BLOCKS))
        self.readout = _Gated(state, "model.final_layer.gated", parts=1, activate_last=False)

    def forward(
        self,
        numbers: Numbers,
        positions: Positions,
        cells: Cells,
        batch: Batch,
        edge_index: EdgeIndex,
        cell_offsets: CellOffsets,
    ) -> EnergiesForcesStresses:
        """Evaluate a batch; nothing waits for the device, and nothing is checked.

        Geometry is computed in the precision of ``positions`` and results come in it; the network computes in its own.

        Args:
            numbers: (N,) int64, atomic numbers below 256. A crystal with an element that the network does not know has
                energy and stress NaN, and so have forces near it.
            positions: (N, 3) Å, not wrapped.
            cells: (G, 3, 3) Å, rows are lattice vectors.
            batch: (N,) int64, crystal of each atom, ascending.
            edge_index: (2, E) int64, sources j and destinations i, ascending in i: all pairs within :data:`CUTOFF` over
                all cells, in the order of :func:`~deeprelax_ase.calculators.m3gnet_edges.m3gnet_edges`. More distant
                pairs change nothing, so that a list may serve while atoms move by less than half of what it exceeds
                the cutoff by.
            cell_offsets: (E, 3) int64, cell offset k of atom j.
        """
        source, destination = edge_index
        crystal = batch.index_select(0, destination)
        shifts = (cell_offsets.to(positions.dtype)[:, :, None] * cells.index_select(0, crystal)).sum(dim=1)
        vectors = positions.index_select(0, source) - positions.index_select(0, destination) + shifts
        vectors = vectors.detach().requires_grad_()
        with torch.enable_grad():
            energies = self._energies(numbers, batch, edge_index, vectors, len(cells))
            (gradient,) = torch.autograd.grad(energies.sum(), vectors)
        vectors = vectors.detach()
        forces = torch.zeros_like(positions).index_add(0, destination, gradient)
        forces = forces.index_add(0, source, gradient, alpha=-1)
        virials = torch.zeros_like(cells).index_add(0, crystal, vectors[:, :, None] * gradient[:, None, :])
        volumes = (torch.linalg.cross(cells[:, 0], cells[:, 1]) * cells[:, 2]).sum(dim=1).abs()
        return EnergiesForcesStresses(energies.detach(), forces, virials / volumes[:, None, None])

    def _energies(
        self, numbers: Numbers, batch: Batch, edge_index: EdgeIndex, vectors: EdgeVectors, crystals: int
    ) -> PerCrystal:
        source, destination = edge_index
        precision = vectors.dtype
        vectors = vectors.to(self.embedding.dtype)
        distances = torch.linalg.vector_norm(vectors, dim=1)
        radial = radial_basis(distances, CUTOFF, self.roots, self.norms)
        near = distances <= THREE_BODY_CUTOFF
        places, targets = three_body_places(distances.detach() <= CUTOFF + 1e-6, near, destination, batch, crystals)
        weights = torch.where(near, smooth_cutoff(distances, THREE_BODY_CUTOFF).index_select(0, places), 0.0)
        angular = angular_basis(vectors / distances[:, None])
        ends = source.index_select(0, places)
        edges = ThreeBodyEdges(destination, ends, targets, radial * weights[:, None], angular, weights)
        types = self.types[numbers]
        atoms = self.embedding.index_select(0, types)
        bonds = silu(self.edge_embedding(radial))
        for block in self.blocks:
            atoms, bonds = block(atoms, bonds, edge_index, radial, edges)
        atomic = self.readout(atoms).squeeze(1).to(precision) * self.std + self.references.index_select(0, types)
        return atomic.new_zeros(crystals).index_add(0, batch, atomic) + self.mean


class _Linear(nn.Module):
    """A frozen linear layer."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("weight", weight.contiguous())
        self.register_buffer("bias", bias)

    def forward(self, inputs: Tensor) -> Tensor:
        return linear(inputs, self.weight, self.bias)


def _linear(state: dict[str, Tensor], name: str) -> _Linear:
    return _Linear(state[f"{name}.weight"], state.get(f"{name}.bias"))


class _Gated(nn.Module):
    """MatGL's gated perceptron: a network times the sigmoid of another of the same layers.

    The first layer of both is one; it takes its input in ``parts`` of equal width, so that what belongs to atoms is
    multiplied once an atom, not once an edge.
    """

    def __init__(self, state: dict[str, Tensor], name: str, *, parts: int, activate_last: bool = True) -> None:
        super().__init__()
        prefix = f"{name}.layers."
        layers = sorted({int(key[len(prefix) :].split(".")[0]) for key in state if key.startswith(prefix)})
        both = [_linear(state, f"{name}.{branch}.{layers[0]}") for branch in ("layers", "gates")]
        *of_atoms, last = torch.cat([layer.weight for layer in both]).chunk(parts, dim=1)
        bias = [layer.bias for layer in both if layer.bias is not None]
        self.of_atoms = nn.ModuleList(_Linear(weight) for weight in of_atoms)
        self.first = _Linear(last, torch.cat(bias) if bias else None)
        self.values = nn.ModuleList(_linear(state, f"{name}.layers.{layer}") for layer in layers[1:])
        self.gates = nn.ModuleList(_linear(state, f"{name}.gates.{layer}") for layer in layers[1:])
        self.activate_last = activate_last

    def forward(self, inputs: Tensor, atoms: Tensor | None = None, ends: tuple[Tensor, ...] = ()) -> Tensor:
        """Apply to ``atoms`` (N, F) at each of the ``ends`` (n,), followed by ``inputs`` (n, F) as the last part."""
        hidden = self.first(inputs)
        for layer, end in zip(self.of_atoms, ends, strict=True):
            hidden = hidden + layer(atoms).index_select(0, end)
        values, gates = hidden.chunk(2, dim=1)
        for value_layer, gate_layer in zip(self.values, self.gates, strict=True):
            values, gates = value_layer(silu(values)), gate_layer(silu(gates))
        return (silu(values) if self.activate_last else values) * torch.sigmoid(gates)


class _Block(nn.Module):
    """Three-body update of the bonds, then a graph convolution of bonds and atoms: eqs. 2 to 5 of the M3GNet paper."""

    def __init__(self, state: dict[str, Tensor], number: int) -> None:
        super().__init__()
        three_body, convolution = f"model.three_body_interactions.{number}", f"model.graph_layers.{number}.conv"
        self.end_atoms = _linear(state, f"{three_body}.update_network_atom.layers.0")
        self.angles = _Gated(state, f"{three_body}.update_network_bond", parts=1)
        self.bond_update = _Gated(state, f"{convolution}.edge_update_func", parts=3)
        self.bond_weight = _linear(state, f"{convolution}.edge_weight_func")
        self.atom_update = _Gated(state, f"{convolution}.node_update_func", parts=3)
        self.atom_weight = _linear(state, f"{convolution}.node_weight_func")

    def forward(
        self, atoms: Tensor, bonds: Tensor, edge_index: EdgeIndex, radial: Tensor, edges: ThreeBodyEdges
    ) -> tuple[Tensor, Tensor]:
        source, destination = edge_index
        ends = (destination, source)
        bonds = bonds + self.angles(three_body_sums(edges, torch.sigmoid(self.end_atoms(atoms))))
        bonds = bonds + self.bond_update(bonds, atoms, ends) * self.bond_weight(radial)
        messages = self.atom_update(bonds, atoms, ends) * self.atom_weight(radial)
        return atoms.index_add(0, source, messages), bonds
