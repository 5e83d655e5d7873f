"""M3GNet as a potential of batches."""

from __future__ import annotations

from copy import deepcopy

import torch

from deeprelax_ase.calculators.batched import BatchedPotential
from deeprelax_ase.calculators.kept_edges import KeptEdges, within
from deeprelax_ase.calculators.m3gnet_edges import matgl_order
from deeprelax_ase.calculators.m3gnet_graphed import GraphedM3GNet
from deeprelax_ase.calculators.m3gnet_torch import CUTOFF, EnergiesForcesStresses, M3GNet
from deeprelax_ase.graph.shapes import Batch, Cells, Numbers, Positions
from deeprelax_ase.prediction.devices import device_of

#: Å, by which neighbours are listed further on a GPU, where a list takes as long as the network; on a CPU it does not.
_SKIN = 1.0

#: Edges up to which those beyond the cutoff cost nothing: kernels of so few take as long as their launch.
_FEW = 16384


class M3GNetPotential(BatchedPotential):
    """M3GNet in batches, on CPU or CUDA; geometry and sums in float64, the network in float32, as MatGL has it.

    On a GPU neighbours are kept while the same crystals move little, and small batches are launched as one kernel.

    Args:
        network: with its weights; in float64, if it is to compute so.
        device: where it computes.

    Raises:
        DeviceError: the device is not to be had.
    """

    name = "m3gnet"

    def __init__(self, network: M3GNet, *, device: str | torch.device = "auto") -> None:
        self.device = device_of(device)
        self.elements = frozenset((network.types != network.types[0]).nonzero().squeeze(1).tolist())
        on_gpu = self.device.type == "cuda"
        self.network = network if self.device.type == "cpu" else deepcopy(network).to(self.device)
        self._edges = KeptEdges(CUTOFF, _SKIN if on_gpu else 0.0)
        self._graphed = GraphedM3GNet(self.network) if on_gpu else None

    def may_stay(self, atoms: int) -> float:
        """Tell the share that may stay, see :class:`~deeprelax_ase.calculators.batched.BatchedPotential`."""
        return self._edges.may_stay(atoms)

    def compute(self, numbers: Numbers, positions: Positions, cells: Cells, batch: Batch) -> EnergiesForcesStresses:
        """Compute a batch, see :class:`~deeprelax_ase.calculators.batched.BatchedPotential`."""
        edge_index, offsets = self._edges(positions, cells, batch)
        if self._graphed is not None:
            if len(offsets) > _FEW:
                edge_index, offsets = within(CUTOFF, positions, cells, batch, edge_index, offsets)
            size = self._graphed.size(len(numbers), len(cells), len(offsets))
            if size is not None:
                return self._graphed(size, numbers, positions, cells, batch, edge_index, offsets)
        order = matgl_order(positions, cells, batch, edge_index, offsets)
        return self.network(numbers, positions, cells, batch, edge_index[:, order], offsets[order])
