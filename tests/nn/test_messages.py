from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from deeprelax_ase.nn.edge_lists import EdgeLists, edge_lists
from deeprelax_ase.nn.harmonics import harmonics
from deeprelax_ase.nn.messages import aggregate, plain_aggregate

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

ATOMS, EDGES, ROWS = 6, 31, 9


def ends(atoms: int = ATOMS, edges: int = EDGES) -> Tensor:
    """(2, E), sorted by destination; the last atom neither sends nor receives."""
    generator = torch.Generator().manual_seed(2)
    source = torch.randint(atoms - 1, (edges,), generator=generator)
    destination = torch.randint(atoms - 1, (edges,), generator=generator).sort().values
    return torch.stack([source, destination])


def features(channels: int, atoms: int = ATOMS, edges: int = EDGES) -> list[Tensor]:
    """Scalars, stacks, weights and harmonics."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    directions = torch.nn.functional.normalize(normal(edges, 3), dim=1)
    return [normal(atoms, 3, channels), normal(atoms, 8, channels), normal(edges, 5, channels), harmonics(directions)]


# -- the sum


def test_messages_are_the_sums_stated() -> None:
    scalars, stacks, weights, rows = features(channels=4)
    index = ends()
    expected = torch.zeros(ATOMS, ROWS, 4, dtype=torch.float64)
    for e, (j, i) in enumerate(index.T.tolist()):
        w0, w1, w2, w3, w4 = weights[e]
        expected[i, 0] += w0 * scalars[j, 0]
        for row in range(8):
            own, carried, kind = (w1, w3, 1) if row < 3 else (w2, w4, 2)
            expected[i, 1 + row] += own * scalars[j, kind] * rows[e, row] + carried * stacks[j, row]
    lists = edge_lists(index, ATOMS, gradient=False)
    for compute in (plain_aggregate, aggregate):
        actual = compute(scalars, stacks, weights, rows, lists)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-13)
    assert not expected[-1].any()
    assert expected[:-1].all()


def test_the_order_of_an_atoms_edges_does_not_matter() -> None:
    scalars, stacks, weights, rows = features(channels=4)
    index = ends()
    order = torch.randperm(EDGES, generator=torch.Generator().manual_seed(1))
    order = order[index[1, order].sort(stable=True).indices]
    assert not torch.equal(order, torch.arange(EDGES))
    one = plain_aggregate(scalars, stacks, weights, rows, edge_lists(index, ATOMS, gradient=False))
    lists = edge_lists(index[:, order], ATOMS, gradient=False)
    other = plain_aggregate(scalars, stacks, weights[order], rows[order], lists)
    torch.testing.assert_close(other, one, rtol=0, atol=1e-13)


def test_gradients_of_the_sum() -> None:
    inputs = [tensor.requires_grad_() for tensor in features(channels=2)]
    lists = edge_lists(ends(), ATOMS, gradient=True)
    assert torch.autograd.gradcheck(lambda *given: plain_aggregate(*given, lists), inputs, fast_mode=True)


def test_the_cpu_does_not_import_the_kernel() -> None:
    aggregate(*(t.float() for t in features(2)), edge_lists(ends(), ATOMS, gradient=True))
    assert torch.cuda.is_available() or "deeprelax_ase.nn.triton_messages" not in sys.modules


# -- the kernel


def with_gradients(compute, inputs: list[Tensor], lists: EdgeLists, upstream: Tensor) -> list[Tensor]:
    """Messages, then the gradients of scalars, stacks, weights and harmonics."""
    leaves = [leaf.clone().requires_grad_() for leaf in inputs]
    messages = compute(*leaves, lists)
    return [messages.detach(), *torch.autograd.grad(messages, leaves, upstream.to(messages))]


@needs_cuda
@pytest.mark.parametrize("channels", [16, 128, 192])  # less than a block of channels, one, and one and a half
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_the_fused_kernel_agrees_with_plain_torch(channels: int, dtype: torch.dtype, tolerance: float) -> None:
    inputs = [t.cuda() for t in features(channels, atoms=40, edges=900)]
    inputs = [t.to(dtype) for t in inputs[:3]] + [inputs[3].float()]
    lists = edge_lists(ends(40, 900).cuda(), 40, gradient=True)
    upstream = torch.randn(40, ROWS, channels, generator=torch.Generator().manual_seed(4)).cuda()
    upstream = upstream.to(dtype).double()
    exact = with_gradients(plain_aggregate, [t.double() for t in inputs], lists, upstream)
    fused = with_gradients(aggregate, inputs, lists, upstream)
    assert [tensor.dtype for tensor in fused] == [dtype] * 4 + [torch.float32]
    for actual, expected in zip(fused, exact, strict=True):
        scale = float(expected.abs().max())
        torch.testing.assert_close(actual.double(), expected, rtol=0, atol=tolerance * scale)
    again = with_gradients(aggregate, inputs, lists, upstream)
    assert all(torch.equal(a, b) for a, b in zip(fused, again, strict=True))


@needs_cuda
def test_the_fused_kernel_asks_for_sources_where_a_gradient_is_wanted() -> None:
    inputs = [t.float().cuda() for t in features(8)]
    lists = edge_lists(ends().cuda(), ATOMS, gradient=False)
    expected = plain_aggregate(*inputs, lists)
    torch.testing.assert_close(aggregate(*inputs, lists), expected, rtol=0, atol=1e-5)
    inputs[0].requires_grad_()
    with pytest.raises(ValueError, match="gradient=True"):
        aggregate(*inputs, lists)
