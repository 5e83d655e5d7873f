from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deeprelax_ase.nn import DeepRelax, DeepRelaxConfig, DeepRelaxE3, DeepRelaxE3Config
from deeprelax_ase.training.weights import Weights, freeze, load_initial, mix_initial

CONFIG = DeepRelaxConfig(channels=16, num_layers=2, num_basis=12, encoding_channels=8)
E3 = DeepRelaxE3Config(channels=4, num_blocks=1, layers_per_block=1, num_basis=6)
PARTS = ("backbone", "distance_head", "displacement_head", "lattice_head")

# -- weights of an earlier run


@pytest.fixture
def weights(tmp_path: Path) -> Callable[..., Path]:
    """``weights(network)``: a file of its weights, in half precision as they are kept."""

    def save(network: torch.nn.Module) -> Path:
        save_file({k: v.half().contiguous() for k, v in network.state_dict().items()}, tmp_path / "weights.safetensors")
        return tmp_path / "weights.safetensors"

    return save


def test_a_share_of_the_initial_weights_stays(weights) -> None:
    network, first = DeepRelaxE3(E3), DeepRelaxE3(E3)
    for one, value in ((network, 1.0), (first, 5.0)):
        for parameter in one.parameters():
            torch.nn.init.constant_(parameter, value)
    given = {name: tensor.half() for name, tensor in first.state_dict().items()}
    del given["levels.weight"]
    mix_initial(network, {**given, "elements.weight": torch.zeros(1)}, 0.25)
    for name, parameter in network.named_parameters():
        own = name in ("levels.weight", "elements.weight")  # of which the first ones have none, or another number
        assert torch.equal(parameter, torch.full_like(parameter, 1.0 if own else 2.0)), name
    assert torch.equal(network.basis.centers, first.basis.centers)


@pytest.mark.parametrize("kind", ["file", "tensors"])
@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (DeepRelax(CONFIG), DeepRelax(CONFIG)),
        (DeepRelaxE3(E3), DeepRelaxE3(E3)),
        (DeepRelaxE3(E3), DeepRelaxE3(replace(E3, reads_forces=True))),
        (DeepRelaxE3(replace(E3, reads_forces=True)), DeepRelaxE3(replace(E3, reads_forces=True))),
        (DeepRelaxE3(E3), DeepRelaxE3(replace(E3, reads_cell_freedom=True))),
    ],
    ids=["paper's", "end to end", "begins to read forces", "reads forces", "begins to read cell freedom"],
)
def test_weights_of_an_earlier_run_are_taken_up(
    weights, earlier: torch.nn.Module, later: torch.nn.Module, kind: str
) -> None:
    for network in (earlier, later):
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter)
    given = {name: w.half().float() if kind == "file" else w for name, w in earlier.state_dict().items()}
    expected = {name: weight.clone() for name, weight in {**later.state_dict(), **given}.items()}
    load_initial(later, weights(earlier) if kind == "file" else earlier.state_dict())
    for name, weight in later.state_dict().items():
        assert torch.equal(weight, expected[name]), name
        assert weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (DeepRelaxE3(E3), DeepRelaxE3(replace(E3, channels=8))),
        (DeepRelaxE3(E3), DeepRelaxE3(replace(E3, num_blocks=2))),
        (DeepRelaxE3(replace(E3, num_blocks=2)), DeepRelaxE3(E3)),
        (DeepRelaxE3(replace(E3, reads_forces=True)), DeepRelaxE3(E3)),
        (DeepRelax(CONFIG), DeepRelaxE3(E3)),
    ],
    ids=["channels", "a block less", "a block more", "no reader of forces", "architecture"],
)
def test_weights_of_another_network_are_refused(weights, earlier: torch.nn.Module, later: torch.nn.Module) -> None:
    with pytest.raises(ValueError, match=r"weights\.safetensors holds the weights of another network: .*DeepRelaxE3"):
        load_initial(later, weights(earlier))
    with pytest.raises(ValueError, match="the initial state holds the weights of another network"):
        load_initial(later, earlier.state_dict())


# -- freezing


def test_parameters_are_frozen_by_the_beginnings_of_their_names() -> None:
    network = DeepRelaxE3(replace(E3, num_blocks=2))
    spared = freeze(network, ["elements", "blocks.0"])
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, _ in network.named_parameters() if n.startswith(("elements.", "blocks.0."))}
    assert spared == sum(p.numel() for p in network.parameters() if not p.requires_grad)
    assert 0 < spared < sum(p.numel() for p in network.parameters())


def test_a_beginning_ends_at_a_dot() -> None:
    network = torch.nn.ModuleDict({"1": torch.nn.Linear(2, 2), "10": torch.nn.Linear(2, 2)})
    assert freeze(network, ["1."]) == 6
    assert [p.requires_grad for p in network.parameters()] == [False, False, True, True]
    assert freeze(network, ["10.weight"]) == 4  # a whole name


@pytest.mark.parametrize("prefix", ["block", "heads", ""])
def test_a_beginning_of_no_name_is_refused(prefix: str) -> None:
    network = DeepRelaxE3(E3)
    with pytest.raises(ValueError, match=rf"begins with '{prefix}'; the network's parts are \['blocks', 'elements'"):
        freeze(network, ["elements", prefix])
    assert all(p.requires_grad for p in network.parameters())


def test_freezing_everything_is_refused() -> None:
    network = DeepRelaxE3(E3)
    with pytest.raises(ValueError, match="would freeze the whole network"):
        freeze(network, ["elements", "levels", "blocks"])
    assert all(p.requires_grad for p in network.parameters())


# -- gradients


def listed(network: torch.nn.Module) -> Weights:
    return Weights(network, deepcopy(network))


def test_clipping_reports_the_norm_from_before() -> None:
    network = DeepRelax(CONFIG).double()
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    weights = listed(network)
    norms = weights.gradient_norms()
    for part in PARTS:
        assert norms[part].item() == pytest.approx(0.5 * sizes[part] ** 0.5)
    assert weights.clip_gradients(1.5).item() == pytest.approx(0.5 * sum(sizes.values()) ** 0.5)
    clipped = math.sqrt(sum(float(p.grad.square().sum()) for p in network.parameters() if p.grad is not None))
    assert clipped == pytest.approx(1.5, rel=1e-5)


def test_small_gradients_are_not_clipped() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 1))
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 0.01)
    listed(network).clip_gradients(1.0)
    assert all(torch.equal(p.grad, torch.full_like(p, 0.01)) for p in network.parameters())


def test_parts_without_gradients_have_no_norm() -> None:
    network = torch.nn.ModuleDict({"frozen": torch.nn.Linear(2, 2), "free": torch.nn.Linear(2, 2, bias=False)})
    network["free"].weight.grad = torch.full((2, 2), 3.0)
    assert {name: norm.item() for name, norm in listed(network).gradient_norms().items()} == {"free": 6.0}
    assert listed(network).clip_gradients(100.0).item() == pytest.approx(6.0)


# -- moving average


def test_the_average_starts_short_and_ends_slow() -> None:
    network, average = (torch.nn.Linear(1, 1, bias=False) for _ in range(2))
    network.weight.data.fill_(1.0)
    average.weight.data.fill_(0.0)
    weights = Weights(network, average)
    weights.update_average(0.9, 0)
    assert average.weight.item() == 1  # the first update takes over
    for step, kept in ((5, 6 / 15), (1000, 0.9)):
        average.weight.data.fill_(0.0)
        weights.update_average(0.9, step)
        assert average.weight.item() == pytest.approx(1 - kept, abs=1e-6)
    assert network.weight.item() == 1
