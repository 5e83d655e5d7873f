from __future__ import annotations

import signal
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.nn import ABLATIONS, DeepRelax
from deeprelax_ase.training import train
from deeprelax_ase.training.e3_task import DeepRelaxE3Task
from deeprelax_ase.training.tasks import task_of
from tests.training.losses import loss_of
from tests.training.runs import (
    CONFIG,
    E3,
    QUICK,
    SMALL,
    STILL,
    assert_same_weights,
    at_rest,
    records,
    summary,
    trained,
    values,
)


def checkpoint(folder: Path) -> dict:
    return torch.load(folder / "checkpoint.ckpt", weights_only=True)


# -- training


@pytest.mark.parametrize(
    "variant", ["default", *(pytest.param(v, marks=pytest.mark.slow) for v in ("DeepRelax", "Vanilla"))]
)
def test_training_lowers_the_loss(pairs: RelaxationPairs, tmp_path: Path, variant: str) -> None:
    config = replace(ABLATIONS.get(variant, CONFIG), **SMALL)
    torch.manual_seed(QUICK.seed)
    untrained = loss_of(DeepRelax(config), pairs)
    settings = replace(QUICK, max_steps=40, atoms_per_batch=100, average_decay=0.9, augmentation=STILL)
    after = loss_of(trained(pairs, config, settings, tmp_path), pairs)
    for name in ("distance", "displacement", "loss"):
        assert after[name] < untrained[name] - 0.05, name
    assert after["lattice"] < 0.5 * untrained["lattice"]  # all crystals shrink by 5 %


def test_batches_shrink_to_the_pairs_that_there_are(pairs: RelaxationPairs, tmp_path: Path) -> None:
    settings = replace(QUICK, max_steps=None, max_epochs=2, atoms_per_batch=1000, smallest_batch=6)
    trained(pairs, CONFIG, settings, tmp_path)
    told = summary(tmp_path)
    assert told["training"]["atoms_per_batch"] == 6
    assert told["steps"] == 2 * int(pairs.counts.sum()) // 6


def test_a_seed_fixes_the_run(pairs: RelaxationPairs, tmp_path: Path) -> None:
    one, two, other = (
        trained(pairs, CONFIG, replace(QUICK, seed=seed), tmp_path / name)
        for name, seed in (("one", 3), ("two", 3), ("other", 4))
    )
    assert_same_weights(one, two)
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_the_average_is_returned_and_not_the_last_weights(pairs: RelaxationPairs, tmp_path: Path) -> None:
    network = trained(pairs, CONFIG, QUICK, tmp_path)
    kept = checkpoint(tmp_path)
    assert kept["network"].keys() == kept["average"].keys() == network.state_dict().keys()
    assert all(torch.equal(value, kept["average"][name]) for name, value in network.state_dict().items())
    assert any(not torch.equal(value, kept["network"][name]) for name, value in network.state_dict().items())
    assert kept["progress"]["step"] == 7


def test_the_pairs_stay_as_they_are(pairs: RelaxationPairs, tmp_path: Path) -> None:
    before = {f.name: getattr(pairs, f.name).clone() for f in fields(RelaxationPairs)}
    trained(pairs, E3, replace(QUICK, recycled=1.0), tmp_path, validation=pairs)
    for name, values_before in before.items():
        assert torch.equal(getattr(pairs, name), values_before), name


@pytest.mark.parametrize("config", [CONFIG, E3], ids=["paper's", "end to end"])
def test_where_pairs_and_graphs_are_kept_makes_no_difference(pairs: RelaxationPairs, tmp_path: Path, config) -> None:
    still = replace(QUICK, augmentation=STILL, recycled=0.0)
    expected = trained(pairs, config, replace(still, keep_graphs=False), tmp_path / "built anew")
    for name, changes in {"kept": {}, "moved": {"resident": "never"}}.items():
        network = trained(pairs, config, replace(still, **changes), tmp_path / name)
        assert values(tmp_path / name, "loss") == pytest.approx(values(tmp_path / "built anew", "loss"), abs=1e-4)
        for key, weight in network.state_dict().items():
            torch.testing.assert_close(weight, expected.state_dict()[key], rtol=0, atol=1e-6, msg=f"{name}: {key}")


@pytest.mark.parametrize(
    ("config", "frozen"),
    [(CONFIG, ("backbone",)), (E3, ("elements", "blocks.0.filters"))],
    ids=["paper's", "end to end"],
)
def test_frozen_parameters_stay_bit_for_bit(
    pairs: RelaxationPairs, tmp_path: Path, config, frozen: tuple[str, ...]
) -> None:
    torch.manual_seed(QUICK.seed)
    before = task_of(pairs, config, QUICK).network.state_dict()
    settings = replace(QUICK, weight_decay=0.5)
    after = trained(pairs, config, settings, tmp_path, frozen=frozen).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not [name for name in changed if name.startswith(frozen)]
    assert any(name.startswith(frozen) for name in before)
    assert not set(records(tmp_path)[-1]["gradient_norm"]) & set(frozen)


# -- the length of a run


def test_the_clock_ends_a_run_without_max_steps(pairs: RelaxationPairs, tmp_path: Path) -> None:
    start = time.monotonic()
    train(pairs, CONFIG, replace(QUICK, max_steps=None, seconds=0.2), tmp_path)
    assert time.monotonic() - start < 30
    assert summary(tmp_path)["seconds"] >= 0.2
    assert summary(tmp_path)["steps"] >= 1


class Compiling(DeepRelaxE3Task):
    """Whose first step takes longer than the run, as where it is compiled."""

    def compile(self) -> None:
        self.slow = True

    def gradients(self, crystals: torch.Tensor, upcoming: torch.Tensor) -> dict[str, torch.Tensor]:
        time.sleep(0.6 if self.slow else 0.0)
        self.slow = False
        return super().gradients(crystals, upcoming)


def test_compiling_takes_no_time_of_a_run(pairs: RelaxationPairs, tmp_path: Path) -> None:
    settings = replace(QUICK, max_steps=None, seconds=0.5, compile=True)
    train(pairs, E3, settings, tmp_path, make_task=Compiling)
    assert summary(tmp_path)["steps"] > 3
    assert 0.5 <= summary(tmp_path)["seconds"] < 1.1


def test_epochs_are_so_many_steps(pairs: RelaxationPairs, tmp_path: Path) -> None:
    by_epochs = trained(pairs, CONFIG, replace(QUICK, max_steps=None, max_epochs=2.0), tmp_path / "epochs")
    by_steps = trained(pairs, CONFIG, replace(QUICK, max_steps=5), tmp_path / "steps")  # 2 times 36 atoms by 15
    assert summary(tmp_path / "epochs")["steps"] == 5
    assert_same_weights(by_epochs, by_steps)


# -- checkpoints


def test_a_deadline_stops_the_run_with_a_checkpoint(pairs: RelaxationPairs, tmp_path: Path) -> None:
    assert train(pairs, CONFIG, QUICK, tmp_path, deadline=time.monotonic()) is None
    assert checkpoint(tmp_path)["progress"]["step"] == 1
    assert {file.name for file in tmp_path.iterdir()} == {"checkpoint.ckpt"}


@pytest.mark.parametrize("schedule", [pytest.param("cosine", marks=pytest.mark.slow), "plateau"])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(pairs: RelaxationPairs, tmp_path: Path, schedule: str) -> None:
    """With validation, on pairs of which it learns to be wrong; without it, see test_e3_task.py."""
    settings = replace(QUICK, schedule=schedule, patience=3, plateau_patience=0, plateau_factor=0.3, log_every=1)
    whole, refs, validation = tmp_path / "whole", tmp_path / "pieces", at_rest(pairs)
    expected = trained(pairs, CONFIG, settings, whole, validation=validation)
    for _ in range(4):  # into the second epoch of three batches
        assert train(pairs, CONFIG, settings, refs, validation=validation, deadline=0) is None
    assert_same_weights(trained(pairs, CONFIG, settings, refs, validation=validation), expected)
    for name in ("step", "loss", "learning_rate", "validation error"):
        assert values(refs, name) == values(whole, name), name
    assert summary(refs)["best"] == summary(whole)["best"]
    if schedule == "plateau":
        assert len(set(values(whole, "learning_rate"))) > 1


def test_a_finished_run_is_not_continued(pairs: RelaxationPairs, tmp_path: Path) -> None:
    first = trained(pairs, CONFIG, QUICK, tmp_path)
    again = trained(pairs, CONFIG, QUICK, tmp_path)
    assert_same_weights(first, again)
    assert summary(tmp_path)["steps"] == 7


def test_checkpoints_are_written_on_the_way(pairs: RelaxationPairs, tmp_path: Path) -> None:
    found: list[tuple[int, int]] = []

    def look(record: dict) -> None:
        if record["step"] > 1:
            found.append((record["step"], checkpoint(tmp_path)["progress"]["step"]))

    train(pairs, CONFIG, replace(QUICK, checkpoint_every=-1.0, log_every=1), tmp_path, observe=look)
    assert found == [(step, step - 1) for step in range(2, 8)]  # the record comes before the checkpoint of its step
    assert checkpoint(tmp_path)["progress"]["step"] == 7
    assert not (tmp_path / "checkpoint.partial").exists()


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("checkpoint_every", [-1.0, 120.0], ids=["goes on", "begins again"])
def test_ctrl_c_leaves_a_run_that_goes_on(pairs: RelaxationPairs, tmp_path: Path, checkpoint_every: float) -> None:
    settings = replace(QUICK, checkpoint_every=checkpoint_every)
    expected = trained(pairs, CONFIG, settings, tmp_path / "whole")

    def press(record: dict) -> None:
        if record["step"] == 4:
            signal.raise_signal(signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(pairs, CONFIG, settings, tmp_path / "pieces", observe=press)
    assert signal.getsignal(signal.SIGINT) is handler  # the next Ctrl-C is heard too
    assert not (tmp_path / "pieces" / "settings.json").exists()
    assert (tmp_path / "pieces" / "checkpoint.ckpt").exists() == (checkpoint_every < 0)
    assert_same_weights(trained(pairs, CONFIG, settings, tmp_path / "pieces"), expected)


def test_another_failure_is_passed_on(pairs: RelaxationPairs, tmp_path: Path) -> None:
    def fail(record: dict) -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit, match="3"):
        train(pairs, CONFIG, QUICK, tmp_path, observe=fail)


def test_a_run_on_another_number_of_devices_is_refused(pairs: RelaxationPairs, tmp_path: Path) -> None:
    train(pairs, CONFIG, QUICK, tmp_path, deadline=0)
    state = checkpoint(tmp_path)
    state["tasks"] *= 2
    torch.save(state, tmp_path / "checkpoint.ckpt")
    with pytest.raises(ValueError, match="begun on 2 devices and cannot go on on 1: give the same number, or another"):
        train(pairs, CONFIG, QUICK, tmp_path)
