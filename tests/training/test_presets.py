from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deeprelax_ase.data import LEVELS
from deeprelax_ase.training.presets import (
    AUGMENTATION,
    CONFIG,
    PAIRS,
    SETTINGS,
    PairSettings,
    departing,
    training_pairs,
)


def test_no_changes_give_the_presets() -> None:
    assert departing({}) == (CONFIG, SETTINGS, PAIRS)
    assert SETTINGS.augmentation == AUGMENTATION
    assert CONFIG.levels == LEVELS


def test_changes_reach_the_record_that_has_the_field() -> None:
    changes = {"channels": 16, "tempering": 0.25, "perturbed": 0.5, "perturbed_rattle": [0.01, 0.1], "borrowed": 0.25}
    config, settings, chosen = departing(changes)
    assert config == replace(CONFIG, channels=16)
    augmentation = replace(AUGMENTATION, perturbed=0.5, perturbed_rattle=(0.01, 0.1))  # JSON knows no tuples
    assert chosen == replace(PAIRS, borrowed=0.25)
    assert settings == replace(SETTINGS, tempering=0.25, augmentation=augmentation)


@pytest.mark.parametrize("name", ["num_layers", "augmentation", "max_in_cell", ""])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"Unknown settings \['{name}'\], must be among .*'channels'"):
        departing({"channels": 8, name: 3})


def test_bad_values_are_refused_as_everywhere() -> None:
    with pytest.raises(ValueError, match="channels must be a whole number"):
        departing({"channels": 0})


def test_no_name_stands_for_two_things() -> None:
    names = Counter(name for record in (CONFIG, SETTINGS, AUGMENTATION, PAIRS) for name in asdict(record))
    assert set(names.values()) == {1}


def test_augmentation_does_not_touch_the_choice_of_images() -> None:
    assert AUGMENTATION.rewrapped == 0  # to which the end-to-end network is indifferent


# -- pairs


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Five crystals of one atom, told apart by their elements; the last is not for training."""
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "pairs.npz",
        numbers=np.array([1, 2, 3, 4, 5], dtype=np.uint8),
        offsets=np.arange(6, dtype=np.int32),
        **{f"frac_{side}": rng.random((5, 3)) for side in ("initial", "relaxed", "m3gnet")},
        **{f"cell_{side}": rng.random((5, 3, 3)) for side in ("initial", "relaxed", "m3gnet")},
        m3gnet_ok=np.array([True, True, False, True, True]),
        dft=np.array([True, False, False, True, True]),
        split=np.array([0, 0, 0, 0, 2], dtype=np.uint8),
    )
    return tmp_path / "pairs.npz"


@pytest.mark.parametrize("copies", [1, 3])
def test_all_labels_are_there_and_dft_ones_several_times(file: Path, copies: int) -> None:
    pairs = training_pairs([file], PairSettings(dft_copies=copies, borrowed=0.0))
    found = Counter(zip(pairs.numbers.tolist(), (LEVELS[k] for k in pairs.level), strict=True))
    by_dft = {(1, "PBE"): copies, (4, "PBE"): copies}
    assert found == by_dft | {(2, "OAM"): 1, (3, "OAM"): 1, (1, "M3GNet"): 1, (2, "M3GNet"): 1, (4, "M3GNet"): 1}
    assert pairs.fractional_initial.dtype == torch.float32


def test_pairs_of_the_potential_are_lent_to_dft(file: Path) -> None:
    pairs = training_pairs([file], PairSettings(dft_copies=1, borrowed=0.5))
    plain = training_pairs([file], PairSettings(dft_copies=1, borrowed=0.0))
    assert len(pairs) == len(plain) + 1  # half of the two
    by_dft = pairs.numbers[pairs.level == LEVELS.index("PBE")].tolist()
    assert set(by_dft) - {1, 4} in ({2}, {3})
    assert pairs.level.tolist().count(LEVELS.index("OAM")) == 2  # it keeps its own
    assert not pairs.dft[pairs.numbers == 3].any()


def test_a_share_of_the_pairs_is_the_same_each_time(file: Path) -> None:
    chosen = PairSettings(dft_copies=1, borrowed=0.0, share=0.5)
    first, again = (training_pairs([file], chosen).numbers.tolist() for _ in range(2))
    assert first == again
    assert len(first) == 4  # two of four, and two of three


def test_pairs_with_known_forces_join_once(file: Path, tmp_path: Path) -> None:
    rng, index = np.random.default_rng(1), [4, 3, 0]  # the first is not for training
    given = {name: rng.random((3, 3), dtype=np.float32) for name in ("frac_initial", "forces")}
    given |= {name: rng.random((3, 3, 3), dtype=np.float32) for name in ("cell_initial", "virial")}
    np.savez(tmp_path / "forces.npz", index=np.array(index), **given)
    chosen = PairSettings(dft_copies=3, borrowed=0.5, share=0.5)
    plain = training_pairs([file], chosen)
    pairs = training_pairs([file], chosen, forces=[tmp_path / "forces.npz"])
    assert len(pairs) == len(plain) + 2
    assert torch.equal(pairs.numbers[:-2], plain.numbers)
    assert not plain.has_forces.any()
    assert pairs.has_forces.tolist() == [False] * len(plain) + [True] * 2
    assert pairs.numbers[-2:].tolist() == [4, 1]
    assert [LEVELS[k] for k in pairs.level[-2:]] == ["M3GNet"] * 2
    np.testing.assert_array_equal(pairs.forces[-2:].numpy(), given["forces"][1:])
    np.testing.assert_array_equal(pairs.virial[-2:].numpy(), given["virial"][1:])
    assert pairs.forces.dtype == torch.float32
