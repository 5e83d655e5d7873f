from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeprelax_ase.training import AugmentationSettings, TrainingSettings


def test_rate_rises_and_falls_to_zero() -> None:
    settings = TrainingSettings(seconds=100.0, warmup=0.1, learning_rate=2.0)
    assert settings.rate(0.0) == 0
    assert settings.rate(0.05) == pytest.approx(1.0)
    assert settings.rate(0.1) == pytest.approx(2.0)
    assert settings.rate(0.55) == pytest.approx(1.0)
    assert settings.rate(1.0) == pytest.approx(0.0)


@given(st.floats(0, 0.9), st.floats(0, 1), st.floats(0, 1))
def test_rate_rises_before_the_end_of_the_warm_up_and_falls_after_it(warmup: float, one: float, other: float) -> None:
    settings = TrainingSettings(warmup=warmup, learning_rate=2.0)
    early, late = sorted((one, other))
    assert 0 <= settings.rate(early) <= 2.0
    if late < warmup:
        assert settings.rate(early) <= settings.rate(late)
    elif early >= warmup:
        assert settings.rate(early) >= settings.rate(late)


def test_settings_come_back_from_json() -> None:
    settings = TrainingSettings(block_weights=(0.25, 0.75), kind_weights={8: 1.5, -2: 2.0})
    read = json.loads(json.dumps(asdict(settings)))
    assert TrainingSettings(**read | {"augmentation": AugmentationSettings(**read["augmentation"])}) == settings


def test_progress_follows_the_clock_or_the_steps() -> None:
    by_clock, by_steps = TrainingSettings(seconds=200.0), TrainingSettings(seconds=200.0, max_steps=10)
    assert by_clock.progress(50.0, 9999) == 0.25
    assert by_clock.progress(500.0, 0) == 1
    assert by_steps.progress(9999.0, 4) == 0.4
    assert by_steps.progress(0.0, 11) == 1
    assert TrainingSettings(seconds=0.0).progress(0.0, 0) == 1


@pytest.mark.parametrize(("atoms", "expected"), [(100, 120), (10_000, 500), (10**6, 2000)])
def test_batches_that_may_shrink_do_so_where_there_are_few_atoms(atoms: int, expected: int) -> None:
    settings = TrainingSettings(atoms_per_batch=2000, smallest_batch=120)
    assert settings.for_atoms(atoms).atoms_per_batch == expected
    fixed = replace(settings, smallest_batch=None)
    assert fixed.for_atoms(atoms) == fixed
    assert replace(settings, atoms_per_batch=90).for_atoms(100).atoms_per_batch == 90, "never more than asked for"


@pytest.mark.parametrize("name", ["schedule", "resident"])
def test_unknown_choices_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"Unknown {name}='sometimes', must be one of \('"):
        TrainingSettings(**{name: "sometimes"})


@pytest.mark.parametrize("name", ["atoms_per_batch", "smallest_batch", "clip", "validate_every", "log_every"])
@pytest.mark.parametrize("value", [0, -1])
def test_what_must_be_positive_is(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be positive, got {value}"):
        TrainingSettings(**{name: value})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_must_be_finite_is(value: float) -> None:
    with pytest.raises(ValueError, match=f"learning_rate must be a finite number, got {value}"):
        TrainingSettings(learning_rate=value)
