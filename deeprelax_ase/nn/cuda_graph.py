"""A step of fixed shapes as one CUDA graph: thousands of kernels, launched as one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

#: Runs before the recording, so that everything is compiled and allocated.
_WARM_UP = 3


class GraphedStep:
    """Records ``step`` at its first call, and where shapes are others than before; replays it otherwise.

    Args:
        step: takes tensors and computes tensors, and gradients of the parameters of ``network`` by ``backward()``.
        network: its gradients are set by each call, not added to.
        pool: of memory that graphs share which are never replayed at the same time; one of its own by default.
    """

    def __init__(self, step: Callable[[list[Tensor]], list[Tensor]], network: nn.Module, pool: Any = None) -> None:
        self.step, self.network, self._pool = step, network, pool
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._outputs: list[Tensor] = []

    def __call__(self, inputs: list[Tensor]) -> list[Tensor]:
        """The outputs for ``inputs``; overwritten by the next call."""
        if [held.shape for held in self._inputs] != [given.shape for given in inputs]:
            self._record(inputs)
        torch._foreach_copy_(self._inputs, inputs)
        assert self._graph is not None
        self._graph.replay()
        return self._outputs

    def _record(self, inputs: list[Tensor]) -> None:
        self._graph, self._outputs = None, []  # and the memory of another one
        self._inputs = [tensor.clone() for tensor in inputs]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                self.network.zero_grad(set_to_none=True)
                self.step(self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self.network.zero_grad(set_to_none=True)
        self._graph = torch.cuda.CUDAGraph()
        # The work of other threads, such as NCCL's that watches its messages, must not end the recording.
        with torch.cuda.graph(self._graph, pool=self._pool, capture_error_mode="thread_local"):
            self._outputs = self.step(self._inputs)
