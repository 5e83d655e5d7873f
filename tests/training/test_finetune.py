from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from deeprelax_ase.data import LEVELS
from deeprelax_ase.errors import ModelError
from deeprelax_ase.models.card import ModelCard
from deeprelax_ase.models.loading import load_model, save_model
from deeprelax_ase.nn import ABLATIONS, ARCHITECTURES, DeepRelax, DeepRelaxE3, DeepRelaxE3Config
from deeprelax_ase.training import ConfigError, DataSettings, finetune_config, load_config, run_config, train_model
from deeprelax_ase.training.finetune import FINETUNING, frozen_parts

TINY = DeepRelaxE3Config(channels=8, num_blocks=2, layers_per_block=1, num_basis=8, levels=LEVELS)
PAPER = replace(ABLATIONS["DeepRelax"], channels=16, num_layers=2, num_basis=12, encoding_channels=8)


@pytest.fixture(params=[TINY, pytest.param(PAPER, marks=pytest.mark.slow)], ids=["end to end", "paper's"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The card of an ensemble of two, of elements that the pairs lack too."""
    torch.manual_seed(0)
    make = DeepRelaxE3 if request.param is TINY else DeepRelax
    networks = [make(request.param) for _ in range(2)]
    about = dict.fromkeys(("description", "training_data", "split"), "")
    level = "PBE" if request.param is TINY else ""
    save_model(networks, tmp_path, "start", level_of_theory="PBE", elements=[8, 17, 55], level=level, **about)
    return str(tmp_path / "start.json")


@pytest.fixture
def tune(start: str, splits_file: Path, tmp_path: Path) -> Callable[..., Any]:
    """``tune(freeze="backbone")``: the configuration that fine-tunes the model in six steps."""

    def config(**options: Any) -> Any:
        settings = {"max_epochs": None, "max_steps": 6, **options}
        made = finetune_config(start, DataSettings((str(splits_file),)), tmp_path / "tuned", **settings)
        return replace(made, device="cpu")

    return config


def test_it_goes_on_from_the_model_as_it_is(tune, start: str) -> None:
    config = tune()
    model = load_model(start)
    assert config.network == model.config
    assert (config.name, config.members, config.initial) == ("start-tuned", 2, start)
    assert config.frozen == ()
    assert config.training == replace(FINETUNING, max_epochs=None, max_steps=6)
    assert config.description == "Fine-tuned from start."
    assert run_config(config.to_dict()) == config


@pytest.mark.parametrize(("on_gpu", "expected"), [(False, (120, None)), (True, (2000, 120))])
def test_batches_suit_the_device(tune, monkeypatch: pytest.MonkeyPatch, on_gpu: bool, expected: tuple) -> None:
    monkeypatch.setattr("deeprelax_ase.training.finetune.is_gpu", lambda name: on_gpu)
    training = tune().training
    assert (training.atoms_per_batch, training.smallest_batch) == expected
    assert tune(atoms_per_batch=77).training.atoms_per_batch == 77


def test_the_tuned_model_is_nearer_to_the_pairs_than_its_start(tune, start: str) -> None:
    """The start has learnt nothing: it leaves every crystal as it is, and these shrink by 5 %."""
    config = tune(max_steps=40, validate_every=5.0, learning_rate=1e-2, seed=4, name="better", members=1)
    card = train_model(config)
    assert card == config.out / "better.json"
    read = ModelCard.read(card)
    best = json.loads((config.out / "member0" / "settings.json").read_text())["best"]
    lines = [json.loads(line) for line in (config.out / "member0" / "log.jsonl").read_text().splitlines()]
    errors = [line["validation error"] for line in lines if "validation error" in line]
    assert best["error"] < 0.5 * errors[0]
    assert read.metrics["test"]["lattice"] < 0.5 * read.metrics["test"]["unrelaxed lattice"]
    assert read.elements == [8, 17, 55]  # what it has learnt before is not forgotten
    assert read.training["initial"] == start
    assert load_config(config.out / "config.yaml") == config


@pytest.mark.parametrize("freeze", [pytest.param("elements", marks=pytest.mark.slow), "backbone"])
def test_what_is_frozen_is_that_of_the_start(tune, start: str, freeze: str) -> None:
    config = tune(freeze=freeze, members=1, learning_rate=1e-2)
    card = train_model(config)
    assert card is not None
    before, after = (load_model(model).networks[0].state_dict() for model in (start, card))
    kept = {name for name in before if torch.equal(before[name], after[name])}
    of_it = {name for name in before if name.startswith(config.frozen)}
    assert of_it
    assert of_it <= kept
    assert len(of_it) < len(before)
    assert any(after[name].any() and name not in kept for name in before)


def test_from_scratch_nothing_of_the_model_is_taken_but_its_shape(tune, start: str) -> None:
    config = tune(scratch=True, freeze="backbone", members=1, seed=3)
    assert (config.initial, config.frozen) == (None, ())
    assert config.network == load_model(start).config
    card = train_model(config)
    assert card is not None
    assert ModelCard.read(card).elements == [17, 55]
    before, after = (load_model(model).networks[0].state_dict() for model in (start, card))
    name = next(name for name in before if name.endswith("weight") and before[name].any())
    assert (before[name] - after[name]).abs().max() > 0.01


@pytest.mark.parametrize("members", [0, 3])
def test_it_takes_no_more_members_than_there_are(tune, members: int) -> None:
    with pytest.raises(ValueError, match=f"members={members} must be between 1 and 2, the size of start"):
        tune(members=members)
    assert tune(members=1).members == 1


def test_unknown_names_are_refused(tune, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Unknown freeze='heads', must be one of \('none', 'elements', 'backbone'\)"):
        tune(freeze="heads")
    with pytest.raises(ModelError, match="no model card"):
        finetune_config(str(tmp_path / "nowhere.json"), DataSettings(("a.npz",)), tmp_path)
    with pytest.raises(ConfigError, match=r"learning_rte; did you mean training\.learning_rate\?"):
        tune(learning_rte=1.0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("reads_forces", [False, True])
@pytest.mark.parametrize("freeze", ["elements", "backbone"])
def test_parts_are_called_as_the_networks_call_them(architecture: str, reads_forces: bool, freeze: str) -> None:
    make = ARCHITECTURES[architecture][0]
    config = replace(TINY, num_blocks=3, reads_forces=reads_forces) if make is DeepRelaxE3 else PAPER
    names = [name for name, _ in make(config).named_parameters()]
    parts = frozen_parts(config, freeze)
    for part in parts:
        assert any(name.startswith(part + ".") for name in names), part
    left = {name for name in names if not name.startswith(parts)}
    if freeze == "backbone":  # only what turns features into geometry learns
        allowed = ("blocks.2.",) if make is DeepRelaxE3 else ("distance_head", "displacement_head", "lattice_head")
        assert all(name.startswith(allowed) for name in left)
    assert left
    assert frozen_parts(config, "none") == ()
