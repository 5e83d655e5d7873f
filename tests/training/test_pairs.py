from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from deeprelax_ase.data import LEVELS, RelaxationPairs, load_pairs
from deeprelax_ase.data.packed import write_packed
from deeprelax_ase.data.readers import DataError
from deeprelax_ase.training import DataSettings, PairSettings
from deeprelax_ase.training.pairs import epoch_pairs, read_pairs


def pairs_of(file: Path, choice: PairSettings, **options) -> RelaxationPairs:
    data = DataSettings((str(file),), labels=("relaxed", "m3gnet"), choice=choice, **options)
    return epoch_pairs(data, read_pairs(data))


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
    pairs = pairs_of(file, PairSettings(dft_copies=copies, borrowed=0.0))
    found = Counter(zip(pairs.numbers.tolist(), (LEVELS[k] for k in pairs.level), strict=True))
    by_dft = {(1, "PBE"): copies, (4, "PBE"): copies}
    assert found == by_dft | {(2, "OAM"): 1, (3, "OAM"): 1, (1, "M3GNet"): 1, (2, "M3GNet"): 1, (4, "M3GNet"): 1}
    assert pairs.fractional_initial.dtype == torch.float32


def test_pairs_of_the_potential_are_lent_to_dft(file: Path) -> None:
    pairs = pairs_of(file, PairSettings(dft_copies=1, borrowed=0.5))
    plain = pairs_of(file, PairSettings(dft_copies=1, borrowed=0.0))
    assert len(pairs) == len(plain) + 1  # half of the two
    by_dft = pairs.numbers[pairs.level == LEVELS.index("PBE")].tolist()
    assert set(by_dft) - {1, 4} in ({2}, {3})
    assert pairs.level.tolist().count(LEVELS.index("OAM")) == 2  # it keeps its own
    assert not pairs.dft[pairs.numbers == 3].any()


@pytest.mark.parametrize(("potential", "left"), [(1.0, 2), (0.5, 1), (0.0, 0)])
def test_a_share_of_the_potentials_pairs_stands_as_its_own(file: Path, potential: float, left: int) -> None:
    pairs = pairs_of(file, PairSettings(dft_copies=2, borrowed=1.0, potential=potential))
    levels = Counter(LEVELS[k] for k in pairs.level)
    assert levels == {"PBE": 6, "M3GNet": 3} | ({"OAM": left} if left else {})
    by_dft = Counter(pairs.numbers[pairs.level == LEVELS.index("PBE")].tolist())
    assert by_dft == {1: 2, 4: 2, 2: 1, 3: 1}  # all of them are lent


def test_labels_are_learnt_from_the_files_that_have_them(file: Path) -> None:
    other = file.with_name("other.npz")
    with np.load(file) as arrays:
        np.savez(other, **{name: array for name, array in arrays.items() if "m3gnet" not in name})
    names = (str(file), str(other))
    parts = read_pairs(DataSettings(names, labels=("relaxed", "m3gnet")))
    assert [len(part) for part in parts] == [10, 4]
    parts = read_pairs(DataSettings((names[0], f"{names[1]}@:2"), labels=("relaxed", "m3gnet")))
    assert [len(part) for part in parts] == [7, 4]
    with pytest.raises(DataError, match=r"other\.npz cannot be read: .*lacks the arrays \['frac_m3gnet'"):
        read_pairs(DataSettings(names[1:], labels=("m3gnet",)))


def test_packed_minima_of_m3gnet_are_learnt_once_beside_other_labels(file: Path, tmp_path: Path) -> None:
    packed = tmp_path / "minima.npz"
    write_packed(packed, load_pairs(file, labels="m3gnet"))
    parts = read_pairs(DataSettings((str(file), str(packed)), labels=("relaxed", "m3gnet")))
    assert [len(part) for part in parts] == [5 + 4, 4]
    assert parts[0].level[5:].tolist() == [LEVELS.index("M3GNet")] * 4


def test_pairs_in_fixed_cells_stand_several_times(file: Path) -> None:
    with np.load(file) as arrays:
        np.savez(file.with_name("fixed.npz"), **arrays, kind=np.array([8, 9, 0, 10, 8]))
    pairs = pairs_of(file.with_name("fixed.npz"), PairSettings(dft_copies=2, fixed_cell_copies=3, borrowed=1.0))
    found = Counter(zip(pairs.numbers.tolist(), (LEVELS[k] for k in pairs.level), strict=True))
    fixed = {(1, "PBE"): 4, (1, "M3GNet"): 3, (2, "OAM"): 3, (2, "PBE"): 3, (2, "M3GNet"): 3}
    assert found == fixed | {(3, "OAM"): 1, (3, "PBE"): 1, (4, "PBE"): 2, (4, "M3GNet"): 1}
    assert pairs.fixed_cell.tolist() == [number < 3 for number in pairs.numbers.tolist()]


def test_a_share_of_the_pairs_is_the_same_each_time(file: Path) -> None:
    chosen = PairSettings(dft_copies=1, borrowed=0.0, share=0.5)
    first, again = (pairs_of(file, chosen).numbers.tolist() for _ in range(2))
    assert first == again
    assert len(first) == 4  # two of four, and two of three


def test_pairs_with_known_forces_join_once(file: Path, tmp_path: Path) -> None:
    rng, index = np.random.default_rng(1), [4, 3, 0]  # the first is not for training
    given = {name: rng.random((3, 3), dtype=np.float32) for name in ("frac_initial", "forces")}
    given |= {name: rng.random((3, 3, 3), dtype=np.float32) for name in ("cell_initial", "virial")}
    np.savez(tmp_path / "forces.npz", index=np.array(index), **given)
    chosen = PairSettings(dft_copies=3, borrowed=0.5, share=0.5)
    plain = pairs_of(file, chosen)
    pairs = pairs_of(file, chosen, forces=(str(tmp_path / "forces.npz"),))
    assert len(pairs) == len(plain) + 2
    assert torch.equal(pairs.numbers[:-2], plain.numbers)
    assert not plain.has_forces.any()
    assert pairs.has_forces.tolist() == [False] * len(plain) + [True] * 2
    assert pairs.numbers[-2:].tolist() == [4, 1]
    assert [LEVELS[k] for k in pairs.level[-2:]] == ["M3GNet"] * 2
    np.testing.assert_array_equal(pairs.forces[-2:].numpy(), given["forces"][1:])
    np.testing.assert_array_equal(pairs.virial[-2:].numpy(), given["virial"][1:])
    assert pairs.forces.dtype == torch.float32
