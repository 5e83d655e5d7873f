from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from deeprelax_ase.data import Pairs
from deeprelax_ase.graph import edge_vectors
from deeprelax_ase.nn import ABLATIONS, DeepRelax, DeepRelaxConfig, DeepRelaxE3, DeepRelaxE3Config
from deeprelax_ase.training import TrainingSettings, train
from deeprelax_ase.training.__main__ import main
from deeprelax_ase.training.augment import AugmentationSettings
from deeprelax_ase.training.graphs import pair_graph
from deeprelax_ase.training.loss import deeprelax_loss
from deeprelax_ase.training.tasks import pair_truth
from deeprelax_ase.training.weights import clip_gradients, load_initial, update_average

PairsOf = Callable[..., Pairs]
SMALL = {"channels": 16, "num_layers": 2, "num_basis": 12, "encoding_channels": 8}
CONFIG = DeepRelaxConfig(**SMALL)
STILL = AugmentationSettings(on_the_way=0, arrived=0, strained=0, rattled=0, rewrapped=0)
#: Twelve pairs have 36 atoms: three batches an epoch.
QUICK = TrainingSettings(max_steps=7, atoms_per_batch=15, log_every=2, learning_rate=5e-3)
PARTS = ("backbone", "distance_head", "displacement_head", "lattice_head")


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def loss_of(network: DeepRelax, pairs: Pairs) -> dict[str, float]:
    graph = pair_graph(pairs, network.config.graph)
    truth = pair_truth(pairs, graph, network.config)
    with torch.no_grad():
        losses = deeprelax_loss(network(graph), truth, uncertainty=network.config.local_uncertainty)
    return {name: loss.item() for name, loss in losses.items()}


def trained(*arguments, **options) -> DeepRelax:
    network = train(*arguments, **options)
    assert network is not None
    return network


# -- training


@pytest.mark.parametrize("variant", ["default", "DeepRelax", "Vanilla"])
def test_training_lowers_the_loss(pairs_of: PairsOf, tmp_path: Path, variant: str) -> None:
    config = replace(ABLATIONS.get(variant, CONFIG), **SMALL)
    pairs = pairs_of(12, dtype=torch.float32)
    torch.manual_seed(QUICK.seed)
    untrained = loss_of(DeepRelax(config), pairs)
    settings = replace(QUICK, max_steps=60, atoms_per_batch=100, average_decay=0.9, augmentation=STILL)
    after = loss_of(trained(pairs, config, settings, tmp_path), pairs)
    for name in ("distance", "displacement", "loss"):
        assert after[name] < untrained[name] - 0.05, name
    assert after["lattice"] < 0.5 * untrained["lattice"]  # all crystals shrink by 5 %


def test_a_seed_fixes_the_run(pairs_of: PairsOf, tmp_path: Path) -> None:
    pairs = pairs_of(12, dtype=torch.float32)
    one, two, other = (
        trained(pairs, CONFIG, replace(QUICK, seed=seed), tmp_path / name).state_dict()
        for name, seed in (("one", 3), ("two", 3), ("other", 4))
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_the_average_is_returned_and_not_the_last_weights(pairs_of: PairsOf, tmp_path: Path) -> None:
    network = trained(pairs_of(12, dtype=torch.float32), CONFIG, QUICK, tmp_path)
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert all(torch.equal(value, checkpoint["average"][name]) for name, value in network.state_dict().items())
    assert any(not torch.equal(value, checkpoint["network"][name]) for name, value in network.state_dict().items())
    assert checkpoint["step"] == 7


def test_nothing_to_train_on_is_refused(pairs_of: PairsOf, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No pairs"):
        train(pairs_of(3).in_split("test"), CONFIG, QUICK, tmp_path)


# -- checkpoints


def test_a_deadline_stops_the_run_with_a_checkpoint(pairs_of: PairsOf, tmp_path: Path) -> None:
    pairs = pairs_of(12, dtype=torch.float32)
    assert train(pairs, CONFIG, QUICK, tmp_path, deadline=time.monotonic()) is None
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 1
    assert not (tmp_path / "settings.json").exists()
    assert not (tmp_path / "checkpoint.partial").exists()


def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    pairs_of: PairsOf, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = pairs_of(12, dtype=torch.float32)
    expected = trained(pairs, CONFIG, QUICK, tmp_path / "whole").state_dict()
    for _ in range(5):  # into the second epoch of three batches
        assert train(pairs, CONFIG, QUICK, tmp_path / "pieces", deadline=time.monotonic()) is None
    with caplog.at_level(logging.INFO, logger="deeprelax_ase.training"):
        actual = trained(pairs, CONFIG, QUICK, tmp_path / "pieces").state_dict()
    assert "continuing at step 5" in caplog.text
    for name, value in expected.items():
        assert torch.equal(actual[name], value), name
    assert [r["step"] for r in records(tmp_path / "pieces")] == [2, 4, 6]
    assert [r["loss"] for r in records(tmp_path / "pieces")] == [r["loss"] for r in records(tmp_path / "whole")]


def test_a_finished_run_is_not_continued(pairs_of: PairsOf, tmp_path: Path) -> None:
    pairs = pairs_of(12, dtype=torch.float32)
    first = trained(pairs, CONFIG, QUICK, tmp_path).state_dict()
    again = trained(pairs, CONFIG, QUICK, tmp_path).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert json.loads((tmp_path / "settings.json").read_text())["steps"] == 7


def test_checkpoints_are_written_on_the_way(pairs_of: PairsOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = []
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda state, file: (saved.append(state["step"]), save(state, file)))
    train(pairs_of(12, dtype=torch.float32), CONFIG, replace(QUICK, checkpoint_every=-1.0), tmp_path)
    assert saved == [1, 2, 3, 4, 5, 6, 7, 7]


def test_the_clock_ends_a_run_without_max_steps(pairs_of: PairsOf, tmp_path: Path) -> None:
    start = time.monotonic()
    train(pairs_of(12, dtype=torch.float32), CONFIG, replace(QUICK, max_steps=None, seconds=0.2), tmp_path)
    assert time.monotonic() - start < 30
    summary = json.loads((tmp_path / "settings.json").read_text())
    assert summary["seconds"] >= 0.2
    assert summary["steps"] >= 1


# -- records


def test_log_and_settings_tell_the_run(pairs_of: PairsOf, tmp_path: Path) -> None:
    train(pairs_of(12, dtype=torch.float32), CONFIG, QUICK, tmp_path)
    lines = records(tmp_path)
    assert [line["step"] for line in lines] == [2, 4, 6]
    for line in lines:
        assert set(line["gradient_norm"]) == {"total", *PARTS}
        parts = [line["gradient_norm"][part] for part in PARTS]
        # Before the first change of the outputs, which start at zero, nothing reaches the backbone.
        assert min(parts) > 0 or line["step"] == 2
        assert line["gradient_norm"]["total"] == pytest.approx(math.hypot(*parts), abs=0.01)
        total = line["distance"] + line["displacement"] + 10 * line["lattice"]
        assert line["loss"] == pytest.approx(total, abs=2e-3)
        assert line["crystals_per_second"] > 0
    assert [line["learning_rate"] for line in lines] == pytest.approx([QUICK.rate(step / 7) for step in (1, 3, 5)])
    summary = json.loads((tmp_path / "settings.json").read_text())
    assert summary["steps"] == 7
    assert DeepRelaxConfig.from_dict(summary["config"]) == CONFIG
    augmentation = AugmentationSettings(**summary["training"].pop("augmentation"))
    assert TrainingSettings(**summary["training"], augmentation=augmentation) == QUICK


# -- parts


@pytest.fixture
def weights(tmp_path: Path) -> Callable[..., Path]:
    """``weights(network)``: a file of its weights, in half precision as they are kept."""

    def save(network: torch.nn.Module) -> Path:
        save_file({k: v.half().contiguous() for k, v in network.state_dict().items()}, tmp_path / "weights.safetensors")
        return tmp_path / "weights.safetensors"

    return save


E3 = DeepRelaxE3Config(channels=4, num_blocks=1, layers_per_block=1, num_basis=6)


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (DeepRelax(CONFIG), DeepRelax(CONFIG)),
        (DeepRelaxE3(E3), DeepRelaxE3(E3)),
        (DeepRelaxE3(E3), DeepRelaxE3(replace(E3, reads_forces=True))),
        (DeepRelaxE3(replace(E3, reads_forces=True)), DeepRelaxE3(replace(E3, reads_forces=True))),
    ],
    ids=["paper's", "end to end", "begins to read forces", "reads forces"],
)
def test_weights_of_an_earlier_run_are_taken_up(weights, earlier: torch.nn.Module, later: torch.nn.Module) -> None:
    for network in (earlier, later):
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter)
    expected = {**later.state_dict(), **{name: w.half().float() for name, w in earlier.state_dict().items()}}
    expected = {name: weight.clone() for name, weight in expected.items()}
    load_initial(later, weights(earlier))
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


def test_rate_rises_and_falls_to_zero() -> None:
    settings = TrainingSettings(seconds=100.0, warmup=0.1, learning_rate=2.0)
    assert settings.rate(0.0) == 0
    assert settings.rate(0.05) == pytest.approx(1.0)
    assert settings.rate(0.1) == pytest.approx(2.0)
    assert settings.rate(0.55) == pytest.approx(1.0)
    assert settings.rate(1.0) == pytest.approx(0.0)


def test_progress_follows_the_clock_or_the_steps() -> None:
    by_clock, by_steps = TrainingSettings(seconds=200.0), TrainingSettings(seconds=200.0, max_steps=10)
    assert by_clock.progress(50.0, 9999) == 0.25
    assert by_clock.progress(500.0, 0) == 1
    assert by_steps.progress(9999.0, 4) == 0.4
    assert by_steps.progress(0.0, 11) == 1
    assert TrainingSettings(seconds=0.0).progress(0.0, 0) == 1


def test_batches_cover_every_crystal_once_an_epoch() -> None:
    counts = torch.tensor([2, 4, 30, 1, 5, 3, 2, 8])
    batches = _batches(counts, 10, seed=0)
    epochs = []
    for _ in range(3):
        epoch: list[int] = []
        while len(epoch) < len(counts):
            chunk = next(batches).tolist()
            assert chunk
            epoch += chunk
        assert sorted(epoch) == list(range(len(counts)))
        epochs.append(epoch)
    assert epochs[0] != epochs[1]
    first = next(_batches(counts, 10, seed=0)).tolist()
    assert first == epochs[0][: len(first)]


def test_batches_have_about_the_atoms_asked_for() -> None:
    counts = torch.randint(1, 25, (500,), generator=torch.Generator().manual_seed(0))
    batches = _batches(counts, 200, seed=1)
    atoms = [int(counts[next(batches)].sum()) for _ in range(int(counts.sum()) // 200)]
    assert min(atoms) > 200 - 25
    assert max(atoms) < 200 + 25


def test_clipping_reports_norms_from_before(pairs_of: PairsOf) -> None:
    torch.manual_seed(0)
    network = DeepRelax(CONFIG).double()
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    norms = clip_gradients(network, 1.5)
    for part in PARTS:
        assert norms[part].item() == pytest.approx(0.5 * sizes[part] ** 0.5)
    assert norms["total"].item() == pytest.approx(0.5 * sum(sizes.values()) ** 0.5)
    clipped = math.sqrt(sum(float(p.grad.square().sum()) for p in network.parameters() if p.grad is not None))
    assert clipped == pytest.approx(1.5, rel=1e-5)


def test_small_gradients_are_not_clipped() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 1))
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 0.01)
    clip_gradients(network, 1.0)
    assert all(torch.equal(p.grad, torch.full_like(p, 0.01)) for p in network.parameters())


def test_the_average_starts_short_and_ends_slow() -> None:
    network, average = (torch.nn.Linear(1, 1, bias=False) for _ in range(2))
    network.weight.data.fill_(1.0)
    average.weight.data.fill_(0.0)
    update_average(average, network, 0.9, 0)
    assert average.weight.item() == 1  # the first update takes over
    for step, kept in ((5, 6 / 15), (1000, 0.9)):
        average.weight.data.fill_(0.0)
        update_average(average, network, 0.9, step)
        assert average.weight.item() == pytest.approx(1 - kept, abs=1e-6)


def test_graph_and_truth_of_pairs(pairs_of: PairsOf) -> None:
    pairs = pairs_of(5)
    graph = pair_graph(pairs, CONFIG.graph)
    truth = pair_truth(pairs, graph, CONFIG)
    assert torch.equal(graph.cell, pairs.cell_initial)
    relaxed = torch.einsum("nk,nkx->nx", pairs.scaled_relaxed, pairs.cell_relaxed[pairs.batch])
    lengths = edge_vectors(graph, relaxed, pairs.cell_relaxed).norm(dim=1)
    torch.testing.assert_close(truth.distances, lengths, rtol=0, atol=1e-12)
    # Anchors: the unrelaxed atoms in the relaxed cell, or where they were.
    source, destination = graph.edge_index[:, graph.in_cell]
    carried = torch.einsum("nk,nkx->nx", pairs.scaled_initial, pairs.cell_relaxed[pairs.batch])
    expected = (relaxed[source] - carried[destination]).norm(dim=1)
    torch.testing.assert_close(truth.displacements, expected, rtol=0, atol=1e-12)
    printed = pair_truth(pairs, graph, ABLATIONS["DeepRelax"])
    expected = (relaxed[source] - graph.positions[destination]).norm(dim=1)
    torch.testing.assert_close(printed.displacements, expected, rtol=0, atol=1e-12)


def test_untrained_network_is_right_about_relaxed_crystals(pairs_of: PairsOf) -> None:
    pairs = pairs_of(5)
    arrived = replace(pairs, cell_initial=pairs.cell_relaxed, scaled_initial=pairs.scaled_relaxed)
    config = replace(CONFIG, local_uncertainty=False)
    assert max(loss_of(DeepRelax(config).double(), arrived).values()) < 1e-12
    assert min(loss_of(DeepRelax(config).double(), pairs).values()) > 1e-2


# -- command line


@pytest.fixture
def data(pairs_of: PairsOf, tmp_path: Path) -> Path:
    pairs = pairs_of(12, dtype=torch.float32)
    offsets = np.concatenate([[0], pairs.counts.cumsum(0).numpy()])
    file = tmp_path / "pairs.npz"
    np.savez(
        file,
        numbers=pairs.numbers.numpy(),
        offsets=offsets,
        frac_initial=pairs.scaled_initial.numpy(),
        frac_relaxed=pairs.scaled_relaxed.numpy(),
        cell_initial=pairs.cell_initial.numpy(),
        cell_relaxed=pairs.cell_relaxed.numpy(),
        dft=pairs.dft.numpy(),
        split=pairs.split.numpy(),
    )
    return file


def test_help_can_be_asked_for() -> None:
    command = [sys.executable, "-m", "deeprelax_ase.training", "--help"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert process.returncode == 0, process.stderr
    for option in ("--out", "--members", "--max-steps", "--time-limit", "--variant"):
        assert option in process.stdout


def test_command_line_writes_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = ["training", str(data), "--out", str(out), "--members", "2", "--max-steps", "2", "--channels", "16"]
    command += ["--network", "paper", "--device", "cpu", "--seed", "5"]
    monkeypatch.setattr(sys, "argv", [*command, "--time-limit", "0"])
    main()
    assert "time limit reached in member 0" in capsys.readouterr().out
    assert not (out / "member0" / "weights.safetensors").exists()
    monkeypatch.setattr(sys, "argv", command)
    main()
    for member, seed in (("member0", "5"), ("member1", "6")):
        file = out / member / "weights.safetensors"
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata()
        assert metadata["seed"] == seed
        config = DeepRelaxConfig.from_dict(json.loads(metadata["config"]))
        assert config == DeepRelaxConfig(channels=16)
        DeepRelax(config).load_state_dict(load_file(file), strict=True)
    capsys.readouterr()
    main()  # all members are there
    assert "finished" not in capsys.readouterr().out


def test_command_line_trains_the_papers_variants(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    command = ["training", str(data), "--out", str(out), "--members", "1", "--max-steps", "1", "--channels", "16"]
    monkeypatch.setattr(sys, "argv", [*command, "--network", "paper", "--variant", "Vanilla", "--device", "cpu"])
    main()
    with safe_open(out / "member0" / "weights.safetensors", "pt") as opened:
        config = DeepRelaxConfig.from_dict(json.loads(opened.metadata()["config"]))
    assert config == replace(ABLATIONS["Vanilla"], channels=16)
