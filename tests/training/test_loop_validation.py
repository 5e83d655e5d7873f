from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau

from deeprelax_ase.data import LEVELS, RelaxationPairs
from deeprelax_ase.evaluation.metrics import prediction_errors
from deeprelax_ase.evaluation.pair_predictions import predict_pairs
from deeprelax_ase.models.model import model_of
from deeprelax_ase.training import train
from deeprelax_ase.training.tasks import task_of
from tests.training.runs import (
    CONFIG,
    E3,
    QUICK,
    STILL,
    assert_same_weights,
    at_rest,
    records,
    summary,
    trained,
    values,
)


def half_way(pairs: RelaxationPairs) -> RelaxationPairs:
    """Crystals that shrink by less than those that are learnt from: right on the way there."""
    return replace(pairs, cell_relaxed=0.98 * pairs.cell_initial, fractional_relaxed=pairs.fractional_initial)


LONG = replace(QUICK, max_steps=40, atoms_per_batch=100, average_decay=0.5, augmentation=STILL, recycled=0.0)


def test_the_weights_that_are_best_on_the_validation_pairs_are_returned(pairs: RelaxationPairs, tmp_path: Path) -> None:
    validation = half_way(pairs)
    network = trained(pairs, E3, LONG, tmp_path, validation=validation)
    errors = values(tmp_path, "validation error")
    assert len(errors) == 40  # an epoch is a batch
    best = errors.index(min(errors))
    assert 0 < best < 35
    assert summary(tmp_path)["best"] == {"step": best + 1, "error": pytest.approx(errors[best], abs=1e-6)}
    found = task_of(pairs, E3, LONG).validate(network, validation)
    assert found["error"].item() == pytest.approx(errors[best], abs=1e-5)
    assert errors[-1] > 1.5 * errors[best]
    assert found["loss"].item() == pytest.approx(values(tmp_path, "validation loss")[best], abs=1e-4)


def test_the_weights_that_a_run_starts_from_stay_where_nothing_learnt_is_better(
    pairs: RelaxationPairs, tmp_path: Path
) -> None:
    """It learns to be wrong about crystals at rest."""
    first = trained(pairs, E3, replace(LONG, max_steps=1), tmp_path / "first")
    start = {name: weight.clone() for name, weight in first.state_dict().items()}
    learning = replace(LONG, max_steps=8)
    tuned = trained(pairs, E3, learning, tmp_path / "tuned", validation=at_rest(pairs), initial=start)
    errors = values(tmp_path / "tuned", "validation error")
    assert errors[0] < 1e-3 < errors[-1]
    assert summary(tmp_path / "tuned")["best"]["step"] == 0
    assert all(torch.equal(weight, start[name]) for name, weight in tuned.state_dict().items())


def test_what_inference_makes_of_the_validation_pairs_is_told(pairs: RelaxationPairs, tmp_path: Path) -> None:
    """As the finished model is measured, each pair at its own level; the network may have a head that it leaves."""
    shaken = pairs.fractional_initial + 0.02 * torch.arange(pairs.fractional_initial.numel()).view(-1, 3).cos()
    validation = replace(half_way(pairs), fractional_relaxed=shaken, level=torch.arange(len(pairs)) % 2)
    levels = replace(E3, levels=LEVELS)
    for name, settings in (("plain", LONG), ("head", replace(LONG, force_targets=0.1))):
        short = replace(settings, max_steps=3)
        network = trained(pairs, levels, short, tmp_path / name, validation=validation)
        step = summary(tmp_path / name)["best"]["step"]
        expected = {"coordinates": 0.0, "lattice": 0.0}
        for index, level in enumerate(LEVELS[:2]):
            own = validation.take((validation.level == index).nonzero().squeeze(1))
            made = predict_pairs(model_of([deepcopy(network)], "best", level=level), own, recycles=1)
            errors = prediction_errors(own, made.fractional.to(own.fractional_relaxed), made.cell.to(own.cell_relaxed))
            for key in expected:
                expected[key] += errors[key].double().sum().item() / len(validation)
        for key, value in expected.items():
            told = values(tmp_path / name, f"validation predicted {key}")
            assert len(told) == 3
            assert told[step - 1] == pytest.approx(value, abs=2e-6)
            assert value > 1e-4


def test_it_is_told_of_the_papers_network_too(pairs: RelaxationPairs, tmp_path: Path) -> None:
    network = train(pairs, CONFIG, replace(QUICK, max_steps=2, validate_every=0.1), tmp_path, validation=pairs)
    step = summary(tmp_path)["best"]["step"]
    made = predict_pairs(model_of([deepcopy(network)], "best"), pairs)
    errors = prediction_errors(pairs, made.fractional.to(pairs.fractional_relaxed), made.cell.to(pairs.cell_relaxed))
    for key in ("coordinates", "lattice"):
        told = values(tmp_path, f"validation predicted {key}")
        assert told[step - 1] == pytest.approx(errors[key].double().mean().item(), abs=1e-4)


def test_training_ends_when_the_validation_error_no_longer_falls(pairs: RelaxationPairs, tmp_path: Path) -> None:
    settings = replace(LONG, patience=4)
    network = trained(pairs, E3, settings, tmp_path, validation=half_way(pairs))
    errors = values(tmp_path, "validation error")
    best = errors.index(min(errors))
    assert len(errors) == best + 1 + 4
    assert summary(tmp_path)["steps"] == best + 1 + 4 < 40
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
    train(pairs, E3, settings, tmp_path, validation=pairs)
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
