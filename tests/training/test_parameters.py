from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from deeprelax_ase.nn import DeepRelax, DeepRelaxConfig, DeepRelaxE3, DeepRelaxE3Config
from deeprelax_ase.training import TrainingSettings, train
from deeprelax_ase.training.parameters import make_optimizers, muon_parameters
from deeprelax_ase.training.weights import freeze

CONFIG = DeepRelaxE3Config(channels=16, num_blocks=2, layers_per_block=1, num_basis=8, reads_cell_freedom=True)
MUON = TrainingSettings(optimizer="muon", max_steps=6, atoms_per_batch=15, learning_rate=5e-3, log_every=1)
needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this version of torch has no Muon")


@pytest.fixture
def network() -> DeepRelaxE3:
    torch.manual_seed(0)
    return DeepRelaxE3(CONFIG)


def held(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def test_adamw_holds_all_parameters_that_are_not_frozen(network: DeepRelaxE3) -> None:
    freeze(network, ["elements"])
    optimizers = make_optimizers(network, TrainingSettings(), fused=False)
    assert list(optimizers) == ["optimizer"]
    assert [id(p) for p in held(optimizers["optimizer"])] == [id(p) for p in network.parameters() if p.requires_grad]


def test_matrices_between_features_are_for_muon(network: DeepRelaxE3) -> None:
    matrices, rest = muon_parameters(network)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    assert {id(p) for p in [*matrices, *rest]} == set(names)
    assert len(matrices) + len(rest) == len(names)
    assert all(p.ndim == 2 and not any(size % 16 for size in p.shape) for p in matrices)
    others = {names[id(p)].split(".")[0] for p in rest}
    assert {"elements", "levels", "freedoms"} <= others
    assert any("filters" in names[id(p)] for p in rest)
    assert not any("filters" in names[id(p)] for p in matrices)


@needs_muon
def test_every_parameter_has_one_optimizer(network: DeepRelaxE3) -> None:
    freeze(network, ["blocks.0"])
    optimizers = make_optimizers(network, MUON, fused=False)
    assert list(optimizers) == ["optimizer", "muon"]
    both = [id(p) for optimizer in optimizers.values() for p in held(optimizer)]
    assert sorted(both) == sorted(id(p) for p in network.parameters() if p.requires_grad)
    assert all(group["weight_decay"] == 0.01 for o in optimizers.values() for group in o.param_groups)


@needs_muon
def test_what_has_no_matrices_for_muon_is_refused(network: DeepRelaxE3) -> None:
    paper = DeepRelax(DeepRelaxConfig(channels=16, num_layers=2, num_basis=12, encoding_channels=8))
    freeze(network, ["blocks"])
    for given in (paper, network):
        with pytest.raises(ValueError, match="no matrices to train"):
            make_optimizers(given, MUON, fused=False)


def test_a_torch_without_muon_is_told(network: DeepRelaxE3, monkeypatch) -> None:
    monkeypatch.delattr("torch.optim.Muon", raising=False)
    with pytest.raises(RuntimeError, match=r"needs torch 2\.9 or later.*optimizer='adamw'"):
        make_optimizers(network, MUON, fused=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"optimizer": "sgd"}, "Unknown optimizer='sgd'"), ({"schedule": "plateau"}, "goes with schedule='cosine'")],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingSettings(**{"optimizer": "muon", **changes})


@needs_muon
def test_a_run_with_muon_goes_on_as_an_uninterrupted_one(pairs_of, tmp_path: Path) -> None:
    pairs = pairs_of(12, dtype=torch.float32)
    whole = train(pairs, CONFIG, MUON, tmp_path / "whole")
    assert train(pairs, CONFIG, MUON, tmp_path / "parts", deadline=0.0) is None
    parts = train(pairs, CONFIG, MUON, tmp_path / "parts")
    adamw = train(pairs, CONFIG, TrainingSettings(**{**vars(MUON), "optimizer": "adamw"}), tmp_path / "adamw")
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, parts.state_dict()[name]), name
    some = next(name for name in whole.state_dict() if name.startswith("blocks.1.updates"))
    assert not torch.equal(whole.state_dict()[some], adamw.state_dict()[some])
