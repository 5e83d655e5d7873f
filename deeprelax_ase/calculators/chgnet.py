"""CHGNet: its ASE calculator, in its own precision and threads, and as a potential of batches."""

from __future__ import annotations

from typing import Any

import torch
from ase import Atoms
from chgnet.model.dynamics import CHGNetCalculator
from chgnet.model.model import BatchedGraph
from torch import Tensor

from deeprelax_ase.calculators.batched import BatchedPotential
from deeprelax_ase.calculators.kept_edges import KeptEdges, within
from deeprelax_ase.calculators.m3gnet_torch import EnergiesForcesStresses
from deeprelax_ase.calculators.scope import torch_settings
from deeprelax_ase.graph.crystal_graph import rows_times_matrices
from deeprelax_ase.graph.edges import expand, row_starts
from deeprelax_ase.graph.shapes import Batch, CellOffsets, Cells, EdgeIndex, Numbers, Positions


class ScopedCHGNetCalculator(CHGNetCalculator):
    """CHGNet in eV, eV/Å and eV/Å³, in float32 whatever torch's default type is.

    Args:
        threads: how many threads a calculation takes; None for as many as torch is set to.
        **kwargs: options of ``CHGNetCalculator``.
    """

    def __init__(self, *, threads: int | None = None, **kwargs: Any) -> None:
        self.threads = threads
        with torch_settings(torch.float32):
            super().__init__(**kwargs)

    def _get_name(self) -> str:
        """Return the name for ASE."""
        return "chgnet"

    def calculate(self, atoms: Atoms | None = None, *args: Any, **kwargs: Any) -> None:
        """Compute energy, forces, stress and magnetic moments, as ASE asks for them."""
        atoms = getattr(self, "atoms", None) if atoms is None else atoms
        if atoms is None:
            raise ValueError("CHGNet is asked about no atoms: give them, or attach the calculator to them")
        inside = atoms.copy()
        inside.wrap()  # CHGNet's search for neighbours goes through all cells up to the furthest atom
        with torch_settings(torch.float32, self.threads):
            super().calculate(inside, *args, **kwargs)
        self.atoms = atoms.copy()
        if "stress" in self.results:  # CHGNet divides by a volume that is negative where the cell is left-handed
            self.results["stress"] = self.results["stress"] * atoms.cell.handedness


#: Å, by which neighbours are listed further on a GPU, so that a list serves again.
_SKIN = 1.0

#: Images along an axis on either side that tell edges apart; within 6 Å there are far fewer.
_IMAGES = 2**9


class CHGNetPotential(BatchedPotential):
    """CHGNet in batches, on the device where its network lies; geometry in float64, the network in float32.

    Its graphs are those of ``CrystalGraphConverter``: directed edges to all atoms within a cutoff, one bond for both
    directions of an edge, and an angle for each two short edges of an atom.

    Args:
        model: as ``CHGNet.load`` gives it, or a ``CHGNetCalculator`` holds it.
    """

    name = "chgnet"
    #: What the embedding of its atoms has.
    elements = frozenset(range(1, 95))

    def __init__(self, model: Any) -> None:
        self.model, self.device = model.eval(), next(model.parameters()).device
        self._cutoff, self._near = model.graph_converter.atom_graph_cutoff, model.graph_converter.bond_graph_cutoff
        self._edges = KeptEdges(self._cutoff, _SKIN if self.device.type == "cuda" else 0.0)

    def may_stay(self, atoms: int) -> float:
        """Tell the share that may stay, see :class:`~deeprelax_ase.calculators.batched.BatchedPotential`."""
        return self._edges.may_stay(atoms)

    def compute(self, numbers: Numbers, positions: Positions, cells: Cells, batch: Batch) -> EnergiesForcesStresses:
        """Compute a batch, see :class:`~deeprelax_ase.calculators.batched.BatchedPotential`.

        Raises:
            ValueError: an atom has no neighbour, of which CHGNet knows nothing.
        """
        edge_index, offsets = within(self._cutoff, positions, cells, batch, *self._edges(positions, cells, batch))
        if len(edge_index[1].unique()) < len(numbers):
            raise ValueError(f"an atom has no other within {self._cutoff:g} Å, where CHGNet says nothing")
        positions, strain = positions.detach().requires_grad_(), torch.zeros_like(cells).requires_grad_()
        atoms = torch.bincount(batch, minlength=len(cells))
        with torch_settings(torch.float32), torch.enable_grad():
            graph = self._graph(numbers, positions, cells, batch, edge_index, offsets, strain)
            energies = self.model._compute(graph)["e"] + self._reference(numbers, batch, atoms)
            energies = energies * atoms if self.model.is_intensive else energies
            forces, virials = torch.autograd.grad(energies.sum(), (positions, strain))
        return EnergiesForcesStresses(
            energies.detach(), -forces, virials / torch.linalg.det(cells).abs()[:, None, None]
        )

    def _reference(self, numbers: Numbers, batch: Batch, atoms: Tensor) -> Tensor | int:
        """Energies (G,) of the elements, eV, or eV/atom as the network's are."""
        model = self.model.composition_model
        if model is None:
            return 0
        composition = torch.zeros(len(atoms), model.max_num_elements, device=self.device)
        composition = composition.index_put((batch, numbers - 1), composition.new_ones(()), accumulate=True)
        return model._get_energy(composition / atoms[:, None] if model.is_intensive else composition)

    def _graph(
        self,
        numbers: Numbers,
        positions: Positions,
        cells: Cells,
        batch: Batch,
        edge_index: EdgeIndex,
        offsets: CellOffsets,
        strain: Tensor,
    ) -> Any:
        source, destination = edge_index
        shifts = rows_times_matrices(offsets.to(cells), cells[batch[destination]])
        vectors = positions[destination] - positions[source] - shifts
        vectors = vectors + rows_times_matrices(vectors, strain[batch[destination]])
        lengths = torch.linalg.vector_norm(vectors, dim=1)
        bonds, bond_of = _undirected(edge_index, _of_wrapped(positions.detach(), cells, batch, edge_index, offsets))
        first, second = _angles(destination, lengths.detach() < self._near, len(numbers))
        lengths, directions = lengths[bonds].float(), (vectors / lengths[:, None]).float()
        encoder = self.model.bond_basis_expansion
        return BatchedGraph(
            atomic_numbers=numbers,
            bond_bases_ag=encoder.rbf_expansion_ag(lengths),
            bond_bases_bg=encoder.rbf_expansion_bg(lengths),
            angle_bases=self.model.angle_basis_expansion(directions[first], directions[second]),
            batched_atom_graph=edge_index.flip(0).T,
            batched_bond_graph=torch.stack([destination[first], bond_of[first], bond_of[second]], dim=1),
            atom_owners=batch,
            directed2undirected=bond_of,
            atom_positions=[positions],
            strains=[strain],
            volumes=torch.linalg.det(cells).abs(),
        )


@torch.no_grad()
def _of_wrapped(
    positions: Positions, cells: Cells, batch: Batch, edge_index: EdgeIndex, offsets: CellOffsets
) -> CellOffsets:
    """Offsets (E, 3) between atoms that are wrapped into the cell, which are small wherever the atoms lie."""
    whole = rows_times_matrices(positions, torch.linalg.inv(cells)[batch]).floor().long()
    return offsets + whole[edge_index[0]] - whole[edge_index[1]]


@torch.no_grad()
def _undirected(edge_index: EdgeIndex, offsets: CellOffsets) -> tuple[Tensor, Tensor]:
    """Of each bond one of its two edges (U,), and of each edge (E,) its bond."""
    source, destination = edge_index
    a, b, c = offsets.unbind(dim=1)
    image = (a * 2 * _IMAGES + b) * 2 * _IMAGES + c
    backwards = (source > destination) | ((source == destination) & (image < 0))
    ends = torch.where(backwards, destination, source), torch.where(backwards, source, destination)
    # Atoms of a crystal stand together, so that their distance in the batch is that in the crystal.
    within_crystal = ends[1] - ends[0]
    key = (ends[0] * (within_crystal.amax() + 1) + within_crystal) * (2 * _IMAGES) ** 3
    keys, bond_of = (key + torch.where(backwards, -image, image)).unique(return_inverse=True)
    edges = torch.arange(len(bond_of), device=bond_of.device)
    return edges.new_empty(len(keys)).scatter(0, bond_of, edges), bond_of


@torch.no_grad()
def _angles(destination: Tensor, short: Tensor, atoms: int) -> tuple[Tensor, Tensor]:
    """All ordered pairs (A,) of different short edges of the same atom; ``destination`` ascends."""
    edges = short.nonzero().squeeze(1)
    starts = row_starts(destination[edges], atoms)
    counts = starts.diff()[destination[edges]]
    first, slot = expand(counts - 1)
    second = starts[destination[edges]][first] + slot
    second = second + (second >= first)  # step over the edge itself
    return edges[first], edges[second]
