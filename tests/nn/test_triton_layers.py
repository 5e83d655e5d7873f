"""The kernels of the end-to-end network's layers agree with plain torch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deeprelax_ase.nn.e3_layers import Sources, Update, linear

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def moved(layer: nn.Module, *given: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What a layer makes on CUDA without gradients, by its kernels, and in float64 in plain torch."""
    with torch.no_grad():
        found = layer.cuda()(*(tensor.cuda() for tensor in given))
        exact = layer.double()(*(tensor.double().cuda() for tensor in given))
    return [tensor.double() for tensor in found], list(exact)


def features(atoms: int, channels: int) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    shapes = (atoms, channels), (atoms, 8, channels), (atoms, 9, channels)
    return [3 * torch.randn(shape, generator=random) for shape in shapes]


@needs_cuda
@pytest.mark.parametrize(("atoms", "channels"), [(1, 24), (300, 16), (77, 256)])
def test_layers_agree_with_plain_torch(atoms: int, channels: int) -> None:
    """Fewer channels than a block has, and no multiple of one; atoms that fill no block."""
    x, h, messages = features(atoms, channels)
    torch.manual_seed(0)
    for layer, given in ((Sources(channels, tensors=True), (x, h)), (Update(channels, 30.0), (x, h, messages))):
        nn.init.normal_(layer.norm.weight)
        nn.init.normal_(layer.norm.bias)
        for found, exact in zip(*moved(layer, *given), strict=True):
            torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-5)


@needs_cuda
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 48, 1280), (1000, 256, 512), (333, 40, 24)])
def test_linear_maps_are_as_exact_as_float32s(rows: int, inputs: int, outputs: int) -> None:
    torch.manual_seed(0)
    layer, given = nn.Linear(inputs, outputs).cuda(), torch.randn(rows, inputs, device="cuda")
    with torch.no_grad():
        found, exact = linear(layer, given), layer.double()(given.double())
    error = (found - exact).norm() / exact.norm()
    assert error < 1e-6


@needs_cuda
def test_gradients_through_the_geometry_agree_with_plain_torch(e3_network, graph_of, sample_crystals) -> None:
    """By kernels in single precision, and on a CPU in double."""
    graph = graph_of(list(sample_crystals.values()), e3_network().config)
    found = []
    for dtype, device in ((torch.float64, "cpu"), (torch.float32, "cuda")):
        network = e3_network().to(device, dtype)
        network.gradients_through_blocks = True
        last = network(graph.to(device=device, dtype=dtype))[-1]
        (last.displacements.square().sum() + last.strain.square().sum()).backward()
        found.append({name: p.grad.cpu().double() for name, p in network.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, expected in found[0].items():
        assert (found[1][name] - expected).norm() <= 1e-3 * expected.norm() + 1e-6, name
