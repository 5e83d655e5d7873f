from __future__ import annotations

import csv
import json
import logging
import math
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau

from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.nn import ABLATIONS, DeepRelax, DeepRelaxConfig, DeepRelaxE3Config
from deeprelax_ase.training import AugmentationSettings, TrainingSettings, train
from deeprelax_ase.training.tasks import task_of
from tests.training.losses import loss_of

PairsOf = Callable[..., RelaxationPairs]
SMALL = {"channels": 16, "num_layers": 2, "num_basis": 12, "encoding_channels": 8}
CONFIG = DeepRelaxConfig(**SMALL)
E3 = DeepRelaxE3Config(channels=8, num_blocks=1, layers_per_block=1, num_basis=8, max_neighbors=14)
STILL = AugmentationSettings(interpolated=0, relaxed=0, strained=0, rattled=0, rewrapped=0)
#: Twelve pairs have 36 atoms: three batches an epoch.
QUICK = TrainingSettings(max_steps=7, atoms_per_batch=15, log_every=2, learning_rate=5e-3)
PARTS = ("backbone", "distance_head", "displacement_head", "lattice_head")


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def values(folder: Path, name: str) -> list:
    """``name`` of all records that have it."""
    return [record[name] for record in records(folder) if name in record]


def summary(folder: Path) -> dict:
    return json.loads((folder / "settings.json").read_text())


def checkpoint(folder: Path) -> dict:
    return torch.load(folder / "checkpoint.ckpt", weights_only=True)


def trained(*arguments, **options) -> torch.nn.Module:
    network = train(*arguments, **options)
    assert network is not None
    return network


def assert_same_weights(a: torch.nn.Module, b: torch.nn.Module) -> None:
    assert a.state_dict().keys() == b.state_dict().keys()
    for name, weight in a.state_dict().items():
        assert torch.equal(weight, b.state_dict()[name]), name


@pytest.fixture
def pairs(pairs_of: PairsOf) -> RelaxationPairs:
    return pairs_of(12, dtype=torch.float32)


# -- training


@pytest.mark.parametrize("variant", ["default", "DeepRelax", "Vanilla"])
def test_training_lowers_the_loss(pairs: RelaxationPairs, tmp_path: Path, variant: str) -> None:
    config = replace(ABLATIONS.get(variant, CONFIG), **SMALL)
    torch.manual_seed(QUICK.seed)
    untrained = loss_of(DeepRelax(config), pairs)
    settings = replace(QUICK, max_steps=40, atoms_per_batch=100, average_decay=0.9, augmentation=STILL)
    after = loss_of(trained(pairs, config, settings, tmp_path), pairs)
    for name in ("distance", "displacement", "loss"):
        assert after[name] < untrained[name] - 0.05, name
    assert after["lattice"] < 0.5 * untrained["lattice"]  # all crystals shrink by 5 %


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


@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
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


# -- validation


def at_rest(pairs: RelaxationPairs) -> RelaxationPairs:
    """Crystals that do not relax: an untrained network is right about them, a trained one is not."""
    return replace(pairs, cell_relaxed=pairs.cell_initial, fractional_relaxed=pairs.fractional_initial)


def half_way(pairs: RelaxationPairs) -> RelaxationPairs:
    """Crystals that shrink by less than those that are learnt from: right on the way there."""
    return replace(pairs, cell_relaxed=0.98 * pairs.cell_initial, fractional_relaxed=pairs.fractional_initial)


LONG = replace(QUICK, max_steps=60, atoms_per_batch=100, average_decay=0.5, augmentation=STILL, recycled=0.0)


def test_the_weights_that_are_best_on_the_validation_pairs_are_returned(pairs: RelaxationPairs, tmp_path: Path) -> None:
    validation = half_way(pairs)
    network = trained(pairs, E3, LONG, tmp_path, validation=validation)
    errors = values(tmp_path, "validation error")
    assert len(errors) == 60  # an epoch is a batch
    best = errors.index(min(errors))
    assert 0 < best < 55
    assert summary(tmp_path)["best"] == {"step": best + 1, "error": pytest.approx(errors[best], abs=1e-6)}
    found = task_of(pairs, E3, LONG).validate(network, validation)
    assert found["error"].item() == pytest.approx(errors[best], abs=1e-5)
    assert errors[-1] > 1.5 * errors[best]
    assert found["loss"].item() == pytest.approx(values(tmp_path, "validation loss")[best], abs=1e-4)


def test_training_ends_when_the_validation_error_no_longer_falls(pairs: RelaxationPairs, tmp_path: Path) -> None:
    settings = replace(LONG, patience=4)
    network = trained(pairs, E3, settings, tmp_path, validation=half_way(pairs))
    errors = values(tmp_path, "validation error")
    best = errors.index(min(errors))
    assert len(errors) == best + 1 + 4
    assert summary(tmp_path)["steps"] == best + 1 + 4 < 60
    lines = records(tmp_path)
    again = trained(pairs, E3, settings, tmp_path, validation=half_way(pairs))
    assert_same_weights(network, again)
    assert records(tmp_path) == lines  # nothing is learnt any more


@pytest.mark.parametrize(("every", "steps"), [(1.0, [2, 4, 6, 7]), (2.0, [5, 7]), (0.1, [1, 2, 3, 4, 5, 6, 7])])
def test_validation_comes_at_intervals_and_at_the_end(
    pairs: RelaxationPairs, tmp_path: Path, every: float, steps: list[int]
) -> None:
    """2.4 batches are an epoch."""
    settings = replace(QUICK, validate_every=every, log_every=100)
    train(pairs, CONFIG, settings, tmp_path, validation=pairs)
    assert values(tmp_path, "step") == steps


def test_the_size_of_its_batches_does_not_change_the_validation_error(pairs: RelaxationPairs, tmp_path: Path) -> None:
    """Up to the paper's means over edges: the crystals here are equal in size."""
    alike = pairs.take((pairs.counts == 2).nonzero().squeeze(1))
    settings = replace(QUICK, learning_rate=0.0, weight_decay=0.0, max_steps=1)
    for atoms in (4, 100):
        train(alike, E3, replace(settings, atoms_per_batch=atoms), tmp_path / str(atoms), validation=alike)
    few, many = (values(tmp_path / str(atoms), "validation error") for atoms in (4, 100))
    assert few == pytest.approx(many, rel=1e-5)


def test_the_plateau_schedule_lowers_the_rate(pairs: RelaxationPairs, tmp_path: Path) -> None:
    settings = replace(LONG, max_steps=14, schedule="plateau", plateau_patience=2, plateau_factor=0.1, log_every=1)
    train(pairs, CONFIG, settings, tmp_path, validation=at_rest(pairs))
    errors, rates = values(tmp_path, "validation error"), values(tmp_path, "learning_rate")
    optimizer = SGD([torch.zeros(1)], lr=settings.learning_rate)
    plateau = ReduceLROnPlateau(optimizer, factor=0.1, patience=2)
    expected = []
    for error in errors:
        expected.append(optimizer.param_groups[0]["lr"])
        plateau.step(error)
    assert rates == pytest.approx(expected, rel=1e-9)
    assert rates[0] == settings.learning_rate  # without a warm-up
    assert rates[-1] < 0.5 * settings.learning_rate


@pytest.mark.parametrize("changes", [{"patience": 3}, {"schedule": "plateau"}])
def test_what_needs_validation_is_refused_without(pairs: RelaxationPairs, tmp_path: Path, changes: dict) -> None:
    with pytest.raises(ValueError, match="need validation pairs: there are none"):
        train(pairs, CONFIG, replace(QUICK, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_empty_splits_are_refused(pairs: RelaxationPairs, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No pairs to train on"):
        train(pairs.in_split("test"), CONFIG, QUICK, tmp_path)
    with pytest.raises(ValueError, match="No pairs to validate on"):
        train(pairs, CONFIG, QUICK, tmp_path, validation=pairs.in_split("test"))


# -- records


def test_log_and_settings_tell_the_run(
    pairs: RelaxationPairs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    observed: list[dict] = []
    with caplog.at_level(logging.INFO, logger="deeprelax_ase.training"):
        train(pairs, CONFIG, QUICK, tmp_path, observe=observed.append)
    lines = records(tmp_path)
    assert observed == lines
    assert [record.args for record in caplog.records if record.name.endswith("loop")] == lines
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
    assert [line["progress"] for line in lines] == pytest.approx([1 / 7, 3 / 7, 5 / 7], abs=1e-4)
    assert [line["learning_rate"] for line in lines] == pytest.approx([QUICK.rate(step / 7) for step in (1, 3, 5)])
    told = summary(tmp_path)
    assert told["steps"] == 7
    assert DeepRelaxConfig.from_dict(told["config"]) == CONFIG
    augmentation = AugmentationSettings(**told["training"].pop("augmentation"))
    assert TrainingSettings(**told["training"], augmentation=augmentation) == QUICK
    assert told["training"] == {k: v for k, v in asdict(QUICK).items() if k != "augmentation"}


def test_figures_are_logged_as_columns(pairs: RelaxationPairs, tmp_path: Path) -> None:
    options = {"validation": pairs, "loggers": ["csv"]}
    for _ in range(3):  # each call has a file of its own
        assert train(pairs, CONFIG, QUICK, tmp_path, **options, deadline=0) is None
    trained(pairs, CONFIG, QUICK, tmp_path, **options)
    rows: list[dict[str, str]] = []
    for file in sorted(tmp_path.glob("csv/version_*/metrics.csv")):
        with file.open() as stream:
            rows += csv.DictReader(stream)
    for name, column in (("loss", "train loss"), ("learning_rate",) * 2, ("validation error",) * 2):
        found = [(int(row["step"]), float(row[column])) for row in rows if row.get(column)]
        told = [(record["step"], record[name]) for record in records(tmp_path) if name in record]
        assert [step for step, _ in found] == [step for step, _ in told], name
        assert [value for _, value in found] == pytest.approx([value for _, value in told], abs=1e-6), name
        assert len(found) == (4 if name.startswith("validation") else 3)


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_figures_are_logged_for_tensorboard(pairs: RelaxationPairs, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(pairs, CONFIG, QUICK, tmp_path, loggers=("tensorboard",))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = events.Scalars("train loss")
    assert [event.step for event in found] == values(tmp_path, "step") == [2, 4, 6]
    assert [event.value for event in found] == pytest.approx(values(tmp_path, "loss"), rel=1e-5)


def test_an_unknown_logger_is_refused(pairs: RelaxationPairs, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Unknown logger 'mlflow', must be one of \('csv', 'tensorboard', 'wandb'\)"):
        train(pairs, CONFIG, QUICK, tmp_path, loggers=["csv", "mlflow"])


def test_nothing_global_is_left_changed(pairs: RelaxationPairs, tmp_path: Path) -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.is_grad_enabled()
    train(pairs, CONFIG, QUICK, tmp_path)
    assert (torch.backends.cuda.matmul.allow_tf32, torch.is_grad_enabled()) == before
