from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from deeprelax_ase.training.parameters import make_optimizers
from deeprelax_ase.training.settings import TrainingSettings

pytestmark = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this version of torch has no Muon")
SHAPES = ((6, 6), (12, 6), (6, 12), (12, 6), (6, 6), (6, 6))


def matrices(seed: int) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def set_gradients(parameters: list[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_its_steps_are_torchs() -> None:
    from deeprelax_ase.training.muon import BatchedMuon

    own, theirs = matrices(0), matrices(0)
    batched = BatchedMuon(own, lr=0.1, weight_decay=0.2)
    one_by_one = torch.optim.Muon(theirs, lr=0.1, weight_decay=0.2, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for step in range(4):
        set_gradients(own, step), set_gradients(theirs, step)
        batched.step(), one_by_one.step()
    moved = [(a - b).abs().max().item() for a, b in zip(theirs, matrices(0), strict=True)]
    assert min(moved) > 0.1
    for a, b in zip(own, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=0.01, rtol=0)  # directions are in bfloat16


def test_a_matrix_without_a_gradient_stays_where_it_is() -> None:
    from deeprelax_ase.training.muon import BatchedMuon

    parameters = matrices(0)
    set_gradients(parameters, 1)
    parameters[1].grad = None
    BatchedMuon(parameters, lr=0.1, weight_decay=0.2).step()
    still = [torch.equal(a, b) for a, b in zip(parameters, matrices(0), strict=True)]
    assert still == [False, True, False, False, False, False]


@pytest.mark.parametrize("shape", [(8, 8), (4, 8), (8, 4)])
def test_directions_are_nearly_orthogonal(shape: tuple[int, int]) -> None:
    from deeprelax_ase.training.muon import orthogonalized

    torch.manual_seed(0)
    given = torch.randn(3, *shape)
    found: Tensor = orthogonalized(given, (3.4445, -4.7750, 2.0315), 5, 1e-7).float()
    assert found.shape == given.shape
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.5
    assert values.max() < 1.3
    # the directions of the largest change are kept
    assert ((found * given).sum(dim=(1, 2)) > 0).all()


def test_the_state_of_torchs_muon_is_continued() -> None:
    from deeprelax_ase.training.muon import BatchedMuon

    own, theirs = matrices(0), matrices(0)
    one_by_one = torch.optim.Muon(theirs, lr=0.1, weight_decay=0.2, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    set_gradients(theirs, 0)
    one_by_one.step()
    with torch.no_grad():
        for a, b in zip(own, theirs, strict=True):
            a.copy_(b)
    batched = BatchedMuon(own, lr=0.5, weight_decay=0.0)
    batched.load_state_dict(one_by_one.state_dict())
    set_gradients(own, 1), set_gradients(theirs, 1)
    batched.step(), one_by_one.step()
    for a, b in zip(own, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=0.03, rtol=0)


def test_training_takes_it() -> None:
    from deeprelax_ase.nn import DeepRelaxE3, DeepRelaxE3Config
    from deeprelax_ase.training.muon import BatchedMuon

    network = DeepRelaxE3(DeepRelaxE3Config(channels=8, num_blocks=1))
    optimizers = make_optimizers(network, TrainingSettings(optimizer="muon"), fused=False)
    assert isinstance(optimizers["muon"], BatchedMuon)
