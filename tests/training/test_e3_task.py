from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from deeprelax_ase.data import LEVELS, Pairs
from deeprelax_ase.nn import DeepRelaxE3, DeepRelaxE3Config
from deeprelax_ase.training import TrainingSettings, train
from deeprelax_ase.training.__main__ import main
from deeprelax_ase.training.augment import AugmentationSettings
from deeprelax_ase.training.e3_task import DeepRelaxE3Task
from deeprelax_ase.training.evaluate import errors, relax_pairs
from deeprelax_ase.training.export import read_member
from deeprelax_ase.training.presets import CONFIG as PRESET

PairsOf = Callable[..., Pairs]
SMALL = {"channels": 8, "num_blocks": 2, "layers_per_block": 1, "num_basis": 8, "max_neighbors": 14}
CONFIG = DeepRelaxE3Config(**SMALL)
STILL = AugmentationSettings(on_the_way=0, arrived=0, strained=0, rattled=0, rewrapped=0)
#: Twelve pairs have 36 atoms: three batches an epoch.
QUICK = TrainingSettings(max_steps=7, atoms_per_batch=15, log_every=2, learning_rate=5e-3, replayed=0.5, clip=10.0)
MEASURES = ("displacement", "volume", "shape")


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def trained(*arguments, **options) -> DeepRelaxE3:
    network = train(*arguments, **options)
    assert isinstance(network, DeepRelaxE3)
    return network


# -- the task


def test_gradients_are_those_of_the_batch_and_not_added_up(pairs_of: PairsOf) -> None:
    chosen = torch.tensor([3, 0, 5])
    settings = replace(QUICK, augmentation=STILL, replayed=0.0)
    torch.manual_seed(0)
    task = DeepRelaxE3Task(pairs_of(8, dtype=torch.float32), CONFIG, settings)
    first = task.gradients(chosen, chosen)
    gradients = [p.grad.clone() for p in task.network.parameters() if p.grad is not None]
    second = task.gradients(chosen, torch.tensor([1]))
    assert set(first) == {"loss", *MEASURES}
    assert first == second
    again = [p.grad for p in task.network.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(gradients, again, strict=True))
    assert any(gradient.any() for gradient in gradients)
    # An untrained network moves nothing: its errors are how far the crystals relax.
    assert first["volume"].item() == pytest.approx(-3 * np.log(0.95), rel=1e-4)


def test_predictions_are_replayed(pairs_of: PairsOf) -> None:
    pairs, chosen = pairs_of(8), torch.tensor([3, 0, 5])
    settings = replace(QUICK, augmentation=STILL, replayed=1.0)
    torch.manual_seed(0)
    task = DeepRelaxE3Task(pairs, CONFIG, settings)
    task.network.double()
    for block in task.network.blocks:
        torch.nn.init.normal_(block.refinement.gates[-1].weight, std=0.3)
    task.gradients(chosen, chosen)
    predicted = relax_pairs([task.network], pairs.take(chosen), "PBE")
    assert torch.equal(task.replay.cell[chosen], predicted.cell)
    torch.testing.assert_close(task.replay.scaled[pairs.atoms_of(chosen)], predicted.scaled, rtol=0, atol=1e-14)
    task.gradients(chosen, chosen)  # from there on
    twice = relax_pairs([task.network], pairs.take(chosen), "PBE", passes=2)
    torch.testing.assert_close(task.replay.cell[chosen], twice.cell, rtol=0, atol=1e-12)
    assert (twice.cell - predicted.cell).abs().max() > 1e-4


def test_a_level_that_the_network_does_not_know_is_refused(pairs_of: PairsOf) -> None:
    pairs = pairs_of(4)
    pairs.level[2] = LEVELS.index("M3GNet")
    with pytest.raises(ValueError, match=r"relaxed to \['M3GNet'\].*\('PBE',\) lack"):
        DeepRelaxE3Task(pairs, CONFIG, QUICK)


def test_levels_are_counted_as_the_network_does(pairs_of: PairsOf) -> None:
    pairs = pairs_of(4)
    pairs.level[1:] = torch.tensor([LEVELS.index("M3GNet"), LEVELS.index("PBE"), LEVELS.index("M3GNet")])
    task = DeepRelaxE3Task(pairs, replace(CONFIG, levels=("M3GNet", "OAM", "PBE")), QUICK)
    assert task.level.tolist() == [2, 0, 2, 0]


# -- runs


@pytest.mark.parametrize("tempering", [0.0, 0.5])
def test_training_lowers_the_loss_and_relaxes_crystals(pairs_of: PairsOf, tmp_path: Path, tempering: float) -> None:
    pairs = pairs_of(12, dtype=torch.float32)
    settings = replace(
        QUICK, max_steps=70, atoms_per_batch=100, learning_rate=1e-2, average_decay=0.9, augmentation=STILL, log_every=1
    )
    network = trained(pairs, CONFIG, replace(settings, replayed=0.0, tempering=tempering), tmp_path)
    first, *_, last = records(tmp_path)
    for name in ("displacement", "volume", *(() if tempering else ("loss",))):  # tempered, it is no likelihood
        assert last[name] < (0.3 * first[name] if name != "loss" else first[name] - 5), name
    relaxed = relax_pairs([network], pairs, "PBE")
    before = errors(pairs, pairs.scaled_initial, pairs.cell_initial)
    after = errors(pairs, relaxed.scaled, relaxed.cell)
    assert after["relative_volume"].max() < 0.1 * before["relative_volume"].min()
    assert after["coordinates"].mean() < 0.5 * before["coordinates"].mean()


def test_a_seed_fixes_the_run(pairs_of: PairsOf, tmp_path: Path) -> None:
    pairs = pairs_of(12, dtype=torch.float32)
    one, two, other = (
        trained(pairs, CONFIG, replace(QUICK, seed=seed), tmp_path / name).state_dict()
        for name, seed in (("one", 3), ("two", 3), ("other", 4))
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_an_interrupted_run_ends_as_an_uninterrupted_one(pairs_of: PairsOf, tmp_path: Path) -> None:
    pairs = pairs_of(12, dtype=torch.float32)
    expected = trained(pairs, CONFIG, QUICK, tmp_path / "whole").state_dict()
    for _ in range(5):  # into the second epoch, where predictions are replayed
        assert train(pairs, CONFIG, QUICK, tmp_path / "pieces", deadline=time.monotonic()) is None
    actual = trained(pairs, CONFIG, QUICK, tmp_path / "pieces").state_dict()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    whole, pieces = records(tmp_path / "whole"), records(tmp_path / "pieces")
    assert [line["loss"] for line in whole] == [line["loss"] for line in pieces]
    checkpoint = torch.load(tmp_path / "pieces" / "checkpoint.pt", weights_only=True)
    assert set(checkpoint["task"]) == {"scaled", "cell", "generator"}


def test_replaying_makes_a_difference_once_there_are_predictions(pairs_of: PairsOf, tmp_path: Path) -> None:
    pairs = pairs_of(12, dtype=torch.float32)
    settings = replace(QUICK, log_every=1, augmentation=STILL, atoms_per_batch=100)
    for share in (0.0, 1.0):
        trained(pairs, CONFIG, replace(settings, replayed=share), tmp_path / str(share))
    without, replayed = (records(tmp_path / str(share)) for share in (0.0, 1.0))
    assert without[0]["loss"] == replayed[0]["loss"]
    assert abs(without[-1]["volume"] - replayed[-1]["volume"]) > 1e-3


def test_log_and_settings_tell_the_run(pairs_of: PairsOf, tmp_path: Path) -> None:
    train(pairs_of(12, dtype=torch.float32), CONFIG, QUICK, tmp_path)
    lines = records(tmp_path)
    assert [line["step"] for line in lines] == [2, 4, 6]
    for line in lines:
        assert set(line["gradient_norm"]) == {"total", "elements", "levels", "blocks"}
        assert {"loss", *MEASURES} < set(line)
    summary = json.loads((tmp_path / "settings.json").read_text())
    assert DeepRelaxE3Config.from_dict(summary["config"]) == CONFIG
    augmentation = AugmentationSettings(**summary["training"].pop("augmentation"))
    assert TrainingSettings(**summary["training"], augmentation=augmentation) == QUICK


# -- command line


@pytest.fixture
def data(pairs_of: PairsOf, tmp_path: Path) -> Path:
    pairs = pairs_of(12, dtype=torch.float32)
    relaxed = {"frac": pairs.scaled_relaxed.numpy(), "cell": pairs.cell_relaxed.numpy()}
    np.savez(
        tmp_path / "pairs.npz",
        numbers=pairs.numbers.numpy(),
        offsets=np.concatenate([[0], pairs.counts.cumsum(0).numpy()]),
        frac_initial=pairs.scaled_initial.numpy(),
        cell_initial=pairs.cell_initial.numpy(),
        **{f"{name}_{labels}": array for name, array in relaxed.items() for labels in ("relaxed", "m3gnet")},
        m3gnet_ok=np.arange(12) > 2,
        dft=np.arange(12) < 6,
        split=pairs.split.numpy(),
    )
    return tmp_path / "pairs.npz"


def test_command_line_writes_weights_that_can_be_read_and_started_from(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["training", str(data), "--members", "1", "--max-steps", "2", "--device", "cpu", "--seed", "5"]
    for name, value in {**SMALL, "atoms_per_batch": 30}.items():
        command += ["--set", f"{name}={value}"]
    monkeypatch.setattr(sys, "argv", [*command, "--out", str(tmp_path / "run")])
    main()
    assert "33 pairs" in capsys.readouterr().out  # 12 + 9 labelled by M3GNet + 2 further copies of 6 by DFT
    file = tmp_path / "run" / "member0" / "weights.safetensors"
    with safe_open(file, "pt") as opened:
        assert opened.metadata()["seed"] == "5"
        assert DeepRelaxE3Config.from_dict(json.loads(opened.metadata()["config"])) == replace(PRESET, **SMALL)
    assert {tensor.dtype for tensor in load_file(file).values()} == {torch.float16}
    network = read_member(file)
    assert isinstance(network, DeepRelaxE3)
    assert network.config == replace(PRESET, **SMALL)
    kept = torch.load(tmp_path / "run" / "member0" / "checkpoint.pt", weights_only=True)["average"]
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, kept[name].half().float()), name
    still = ["--set", "learning_rate=0", "--set", "weight_decay=0"]
    monkeypatch.setattr(sys, "argv", [*command, *still, "--out", str(tmp_path / "next"), "--initial", str(file)])
    main()
    continued = load_file(tmp_path / "next" / "member0" / "weights.safetensors")
    assert all(torch.equal(tensor, continued[name]) for name, tensor in load_file(file).items())


def test_command_line_refuses_settings_that_there_are_not(data: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["training", str(data), "--out", str(tmp_path), "--set", "num_layers=3"])
    with pytest.raises(ValueError, match="num_layers"):
        main()
