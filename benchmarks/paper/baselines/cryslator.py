"""The two-network scheme of Cryslator (Kim et al., reference [15] of the paper): the cell first, then the positions."""

from __future__ import annotations

from torch import Tensor, nn

from baselines.painn import Backbone, VectorHead
from deeprelax_ase.graph.crystal_graph import CrystalGraph, affine_positions
from deeprelax_ase.nn.heads import LatticeHead


class Cryslator(nn.Module):
    """One network predicts the cell of the unrelaxed crystal, another the positions in that cell.

    The second one learns in the true cells and is used in the predicted ones, so that the two are trained apart, though
    in the same steps. On PaiNN's blocks, where the published code (github.com/kaist-amsg/Cryslator) is not equivariant:
    there, an encoder trained on formation energies makes features of the unrelaxed crystal, convolutions trained beside
    a discriminator translate them to those of the relaxed one, and from these one graph network predicts the change of
    the cell and another that of the fractional coordinates. Kept are the two networks and the frame of the cell.
    """

    def __init__(self, channels: int, num_layers: int, num_basis: int, cutoff: float, max_neighbors: int) -> None:
        super().__init__()
        shape = (channels, num_layers, num_basis, cutoff, max_neighbors)
        self.of_cell, self.of_positions = Backbone(*shape), Backbone(*shape)
        self.lattice = LatticeHead(channels, residual=True)
        self.coordinates = VectorHead(channels)

    def forward(self, graph: CrystalGraph, true_cell: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Displacements (N, 3) from where the cell carries the atoms, and cell (G, 3, 3), in Å."""
        x, _ = self.of_cell(graph, graph.positions, graph.cell)
        cell = self.lattice(x, graph.cell, graph.batch)
        given = cell.detach() if true_cell is None else true_cell
        carried = affine_positions(graph, given)
        x, v = self.of_positions(graph, carried, given)
        return self.coordinates(x, v).to(carried.dtype), cell
