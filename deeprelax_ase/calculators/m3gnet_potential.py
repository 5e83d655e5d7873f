"""M3GNet as a potential of batches; small ones on a GPU launch its thousand kernels as one."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor

from deeprelax_ase.calculators.batched import BatchedPotential
from deeprelax_ase.calculators.kept_edges import KeptEdges, within
from deeprelax_ase.calculators.m3gnet_edges import matgl_order
from deeprelax_ase.calculators.m3gnet_torch import CUTOFF, EnergiesForcesStresses, M3GNet
from deeprelax_ase.graph.shapes import Batch, CellOffsets, Cells, EdgeIndex, Numbers, Positions
from deeprelax_ase.nn.cuda_graph import GraphedStep
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


#: Edges of the recorded batches. The kernels of larger ones take longer than their launch.
_SIZES = tuple(2**k for k in range(12, 16)) + tuple(2**k * half // 2 for k in range(15, 18) for half in (3, 4))

#: Edges for which there is room for an atom, and for a crystal: fewer than they have in crystals.
_PER_ATOM, _PER_CRYSTAL = 24, 32

#: Edges for which there is a dummy atom and a dummy crystal at least: sums into few would wait for each other.
_PER_DUMMY = 64

#: Bytes that an edge takes, and share of a GPU's memory that recorded batches may.
_BYTES_PER_EDGE, _SHARE = 40_000, 0.125

#: Å, side of the cells of dummy crystals, whose edges are longer than the cutoff.
_EMPTY = 2 * CUTOFF


class GraphedM3GNet:
    """Evaluates small batches by recorded steps of a few sizes; dummy atoms, edges and crystals take up the slack.

    Args:
        network: on its device. Off a GPU nothing is recorded, and the filled batch is computed.
    """

    def __init__(self, network: M3GNet) -> None:
        self._network, self._steps = network, dict[int, GraphedStep]()
        self._device = network.embedding.device
        self._cuda = self._device.type == "cuda"
        self._pool = torch.cuda.graph_pool_handle() if self._cuda else None
        self._dummy = int((network.types != network.types[0]).nonzero()[0])
        most = torch.cuda.mem_get_info(self._device)[1] * _SHARE / _BYTES_PER_EDGE if self._cuda else _SIZES[-1]
        self._sizes = [size for size in _SIZES if size <= most]
        self._filled: tuple[tuple[Tensor, ...], list[Tensor]] | None = None

    def size(self, atoms: int, crystals: int, edges: int) -> int | None:
        """Edges of the recorded batch that takes so many atoms, crystals and edges; None where none does."""
        needed = max(atoms * _PER_ATOM, crystals * _PER_CRYSTAL, edges)
        return next((size for size in self._sizes if size >= needed), None)

    def __call__(
        self,
        size: int,
        numbers: Numbers,
        positions: Positions,
        cells: Cells,
        batch: Batch,
        edge_index: EdgeIndex,
        cell_offsets: CellOffsets,
    ) -> EnergiesForcesStresses:
        """Evaluate a batch that fits into ``size``; edges need not be in MatGL's order, only ascend in i.

        The results are overwritten by the next call. For the other arguments see :class:`M3GNet`.
        """
        atoms, crystals = size // _PER_ATOM + size // _PER_DUMMY, size // _PER_CRYSTAL + size // _PER_DUMMY
        given = (numbers, batch, edge_index, cell_offsets)
        if self._filled is None or any(a is not b for a, b in zip(self._filled[0], given, strict=True)):
            ends = _spread(size - edge_index.shape[1], len(numbers), atoms, numbers)
            filled = [
                _filled(numbers, atoms, self._dummy),
                torch.cat([batch, _spread(atoms - len(batch), len(cells), crystals, batch)]),
                torch.cat([edge_index, ends.expand(2, -1)], dim=1),
                _filled(cell_offsets, size, 1),
            ]
            self._filled = given, filled
        empty = torch.eye(3, dtype=cells.dtype, device=cells.device) * _EMPTY
        whole = [
            *self._filled[1],
            _filled(positions, atoms, 0),
            torch.cat([cells, empty.expand(crystals - len(cells), 3, 3)]),
        ]
        energies, forces, stresses = self._replayed(size, whole) if self._cuda else self._evaluate(whole)
        return EnergiesForcesStresses(energies[: len(cells)], forces[: len(numbers)], stresses[: len(cells)])

    def _replayed(self, size: int, inputs: list[Tensor]) -> list[Tensor]:
        if size not in self._steps:
            self._steps[size] = GraphedStep(self._evaluate, self._network, self._pool)
        with torch.cuda.device(self._device):
            return self._steps[size](inputs)

    def _evaluate(self, inputs: list[Tensor]) -> list[Tensor]:
        numbers, batch, edge_index, cell_offsets, positions, cells = inputs
        order = matgl_order(positions, cells, batch, edge_index, cell_offsets)
        return list(self._network(numbers, positions, cells, batch, edge_index[:, order], cell_offsets[order]))


def _spread(count: int, first: int, end: int, like: Tensor) -> Tensor:
    """So many integers (count,), ascending and evenly spread from ``first`` to below ``end``."""
    return first + torch.arange(count, device=like.device) * (end - first) // max(count, 1)


def _filled(values: Tensor, size: int, value: int) -> Tensor:
    """``values`` (n, ...), followed by as many of ``value`` as make up ``size``."""
    return torch.cat([values, values.new_full((size - len(values), *values.shape[1:]), value)])
