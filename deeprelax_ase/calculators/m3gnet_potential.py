"""M3GNet as a potential of batches."""

from __future__ import annotations

from copy import deepcopy

import torch

from deeprelax_ase.calculators.batched import BatchedPotential
from deeprelax_ase.calculators.m3gnet_edges import m3gnet_edges
from deeprelax_ase.calculators.m3gnet_torch import EnergiesForcesStresses, M3GNet
from deeprelax_ase.graph.shapes import Batch, Cells, Numbers, Positions
from deeprelax_ase.prediction.devices import device_of


class M3GNetPotential(BatchedPotential):
    """M3GNet in batches, on CPU or CUDA; geometry and sums in float64, the network in float32, as MatGL has it.

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
        self.network = network if self.device.type == "cpu" else deepcopy(network).to(self.device)

    def compute(self, numbers: Numbers, positions: Positions, cells: Cells, batch: Batch) -> EnergiesForcesStresses:
        """Compute a batch, see :class:`~deeprelax_ase.calculators.batched.BatchedPotential`."""
        return self.network(numbers, positions, cells, batch, *m3gnet_edges(positions, cells, batch))
