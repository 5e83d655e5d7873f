from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from deeprelax_ase.data import LEVELS, RelaxationPairs, concatenate, crystals_of, load_pairs

COUNTS = (2, 1, 3, 2)
SPLIT = (0, 2, 0, 1)
DFT = (True, True, False, False)


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    """Four small crystals as the files hold them."""
    rng = np.random.default_rng(seed)
    atoms = sum(COUNTS)
    return {
        "numbers": np.arange(1, atoms + 1, dtype=np.uint8),
        "offsets": np.array([0, *np.cumsum(COUNTS)], dtype=np.int32),
        "frac_initial": rng.random((atoms, 3), dtype=np.float32),
        "frac_relaxed": rng.random((atoms, 3), dtype=np.float32),
        "cell_initial": rng.random((4, 3, 3), dtype=np.float32),
        "cell_relaxed": rng.random((4, 3, 3), dtype=np.float32),
        "dft": np.array(DFT),
        "split": np.array(SPLIT, dtype=np.uint8),
        "energy_initial": rng.random(4, dtype=np.float32),  # files hold more than is read
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    np.savez(tmp_path / "pairs.npz", **arrays())
    return tmp_path / "pairs.npz"


def assert_equal(a: RelaxationPairs, b: RelaxationPairs) -> None:
    for f in fields(RelaxationPairs):
        same = {"rtol": 0, "atol": 0, "equal_nan": True}
        torch.testing.assert_close(getattr(a, f.name), getattr(b, f.name), msg=f.name, **same)


def test_arrays_are_read_as_they_are(file: Path) -> None:
    pairs, expected = load_pairs(file), arrays()
    assert len(pairs) == 4
    assert pairs.counts.tolist() == list(COUNTS)
    assert pairs.batch.tolist() == [0, 0, 1, 2, 2, 2, 3, 3]
    assert pairs.dft.tolist() == list(DFT)
    for name, key in {
        "numbers": "numbers",
        "fractional_initial": "frac_initial",
        "fractional_relaxed": "frac_relaxed",
        "cell_initial": "cell_initial",
        "cell_relaxed": "cell_relaxed",
        "split": "split",
    }.items():
        np.testing.assert_array_equal(getattr(pairs, name).numpy(), expected[key])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_types(file: Path, dtype: torch.dtype) -> None:
    pairs = load_pairs(str(file), dtype=dtype)
    for name in ("fractional_initial", "fractional_relaxed", "cell_initial", "cell_relaxed"):
        assert getattr(pairs, name).dtype == dtype
    for name in ("numbers", "counts", "level", "split", "batch"):
        assert getattr(pairs, name).dtype == torch.int64
    assert pairs.dft.dtype == torch.bool


def test_files_follow_one_another(file: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "more.npz", **arrays(seed=1))
    both = load_pairs([file, tmp_path / "more.npz"])
    assert len(both) == 8
    assert both.counts.tolist() == 2 * list(COUNTS)
    assert_equal(both.take(torch.arange(4)), load_pairs(file))
    assert_equal(both.take(torch.arange(4, 8)), load_pairs(tmp_path / "more.npz"))


@pytest.mark.parametrize(("index", "chosen"), [("1:3", [1, 2]), ("-1", [3]), ("0", [0]), ("::-2", [3, 1])])
def test_a_part_of_a_file(file: Path, index: str, chosen: list[int]) -> None:
    whole, part = load_pairs(file), load_pairs(f"{file}@{index}")
    assert_equal(part, whole.take(torch.tensor(chosen)))


@pytest.mark.parametrize("index", ["4:", "9", "first"])
def test_a_part_that_is_none_is_refused(file: Path, index: str) -> None:
    with pytest.raises(ValueError, match=r"there is none such among its 4|index 'first' is not understood"):
        load_pairs(f"{file}@{index}")


@pytest.mark.parametrize("name", ["cell_relaxed", "dft", "split"])
def test_a_missing_array_is_named(tmp_path: Path, name: str) -> None:
    np.savez(tmp_path / "part.npz", **{key: value for key, value in arrays().items() if key != name})
    with pytest.raises(ValueError, match=rf"part\.npz lacks the arrays \['{name}'\]"):
        load_pairs(tmp_path / "part.npz")


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "objects.npz", **{**arrays(), "numbers": np.array([object()] * 8)})
    with pytest.raises(ValueError, match="pickle"):
        load_pairs(tmp_path / "objects.npz")


@pytest.mark.parametrize("chosen", [[2], [3, 0], [1, 1, 2], []])
def test_take_gives_crystals_in_the_order_asked_for(file: Path, chosen: list[int]) -> None:
    pairs, raw = load_pairs(file), arrays()
    taken = pairs.take(torch.tensor(chosen, dtype=torch.int64))
    assert taken.counts.tolist() == [COUNTS[k] for k in chosen]
    atoms = [a for k in chosen for a in range(raw["offsets"][k], raw["offsets"][k + 1])]
    for name, key in {
        "numbers": "numbers",
        "fractional_initial": "frac_initial",
        "fractional_relaxed": "frac_relaxed",
    }.items():
        np.testing.assert_array_equal(getattr(taken, name).numpy(), raw[key][atoms])
    assert taken.level.tolist() == [LEVELS.index("PBE" if DFT[k] else "OAM") for k in chosen]
    for name in ("cell_initial", "cell_relaxed", "dft", "split"):
        np.testing.assert_array_equal(getattr(taken, name).numpy(), raw[name][chosen])


def test_take_of_all_changes_nothing(file: Path) -> None:
    assert_equal(load_pairs(file).take(torch.arange(4)), load_pairs(file))


@pytest.mark.parametrize("chosen", [[2], [3, 0], [1, 1, 2], []])
def test_atoms_of_crystals_in_the_order_asked_for(file: Path, chosen: list[int]) -> None:
    starts = [0, 2, 3, 6, 8]
    expected = [atom for k in chosen for atom in range(starts[k], starts[k + 1])]
    assert load_pairs(file).atoms_of(torch.tensor(chosen, dtype=torch.int64)).tolist() == expected


def test_concatenated_parts_can_be_taken_apart(file: Path) -> None:
    pairs = load_pairs(file)
    parts = [pairs.take(torch.tensor(chosen, dtype=torch.int64)) for chosen in ([3], [], [0, 2])]
    joined = concatenate(parts)
    assert_equal(joined, pairs.take(torch.tensor([3, 0, 2])))
    assert joined.batch.tolist() == [0, 0, 1, 1, 2, 2, 2]
    assert_equal(concatenate([pairs]), pairs)


# -- labels and levels of theory


@pytest.fixture
def labelled(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """A file with M3GNet's minima of all crystals but the third, where it failed."""
    rng = np.random.default_rng(7)
    own = {"frac_m3gnet": rng.random((8, 3)), "cell_m3gnet": rng.random((4, 3, 3))}
    own["m3gnet_ok"] = np.array([True, True, False, True])
    np.savez(tmp_path / "labelled.npz", **arrays(), **own)
    return tmp_path / "labelled.npz", own


def test_relaxed_crystals_are_dfts_minima_or_the_potentials(file: Path) -> None:
    assert [LEVELS[k] for k in load_pairs(file).level.tolist()] == ["PBE", "PBE", "OAM", "OAM"]


def test_labels_of_m3gnet(labelled: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, own = labelled
    pairs, usual = load_pairs(path, labels="m3gnet"), load_pairs(path)
    kept = torch.tensor([0, 1, 3])
    assert pairs.counts.tolist() == [2, 1, 2]
    assert {LEVELS[k] for k in pairs.level.tolist()} == {"M3GNet"}
    np.testing.assert_array_equal(pairs.cell_relaxed.numpy(), own["cell_m3gnet"][kept])
    np.testing.assert_array_equal(pairs.fractional_relaxed.numpy(), own["frac_m3gnet"][[0, 1, 2, 6, 7]])
    for name in ("numbers", "counts", "fractional_initial", "cell_initial", "dft", "split"):  # as under other labels
        assert torch.equal(getattr(pairs, name), getattr(usual.take(kept), name)), name


@pytest.mark.parametrize("name", ["frac_m3gnet", "m3gnet_ok"])
def test_a_missing_array_of_the_labels_is_named(labelled, tmp_path: Path, name: str) -> None:
    own = {key: value for key, value in labelled[1].items() if key != name}
    np.savez(tmp_path / "part.npz", **arrays(), **own)
    with pytest.raises(ValueError, match=rf"part\.npz lacks the arrays \['{name}'\]"):
        load_pairs(tmp_path / "part.npz", labels="m3gnet")
    assert len(load_pairs(tmp_path / "part.npz")) == 4


def test_unknown_labels_are_refused(file: Path) -> None:
    with pytest.raises(ValueError, match=r"Unknown labels='dft', must be one of \('relaxed', 'm3gnet'\)"):
        load_pairs(file, labels="dft")


def test_splits(file: Path) -> None:
    pairs = load_pairs(file)
    assert pairs.in_split("train").counts.tolist() == [2, 3]
    assert pairs.in_split("validation").counts.tolist() == [2]
    assert pairs.in_split("test").numbers.tolist() == [3]
    assert pairs.in_split("train", dft_only=True).counts.tolist() == [2]
    assert len(pairs.in_split("validation", dft_only=True)) == 0


def test_an_unknown_split_is_refused(file: Path) -> None:
    with pytest.raises(ValueError, match="validation"):
        load_pairs(file).in_split("valid")


def test_to_moves_every_tensor(file: Path) -> None:
    moved = load_pairs(file).to("meta")
    assert {getattr(moved, f.name).device.type for f in fields(RelaxationPairs)} == {"meta"}


@pytest.mark.parametrize(
    ("name", "atoms", "dft", "splits"),
    [("universal", 455_703, 7_223, (45_001, 2_141, 2_372)), ("xmno", 114_660, 1_496, (7_221, 428, 511))],
)
def test_the_data_folder_holds_what_it_says(shared: Path, name: str, atoms: int, dft: int, splits: tuple) -> None:
    path = shared / "data" / f"pairs_{name}.npz"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    pairs = load_pairs(path, dtype=torch.float32)
    assert len(pairs) == sum(splits)
    assert len(pairs.numbers) == int(pairs.counts.sum()) == atoms
    assert int(pairs.dft.sum()) == dft
    assert tuple(len(pairs.in_split(split)) for split in ("train", "validation", "test")) == splits
    # Nearest images without drift, on which the loss and the metrics rely.
    difference = pairs.fractional_relaxed - pairs.fractional_initial
    drift = torch.zeros(len(pairs), 3).index_add(0, pairs.batch, difference) / pairs.counts[:, None]
    assert drift.abs().max() < 1e-4


def test_crystals_of(tmp_path):
    file = tmp_path / "pairs.npz"
    rng = np.random.default_rng(3)
    cells = np.eye(3) * 4 + rng.normal(scale=0.2, size=(2, 3, 3))
    arrays = {
        "numbers": np.array([12, 8, 29], dtype=np.uint8),
        "offsets": np.array([0, 2, 3], dtype=np.int32),
        "frac_initial": rng.random((3, 3)),
        "frac_relaxed": rng.random((3, 3)),
        "cell_initial": cells,
        "cell_relaxed": cells * 1.1,
        "dft": np.ones(2, dtype=bool),
        "split": np.zeros(2, dtype=np.uint8),
    }
    np.savez(file, **arrays)
    pairs = load_pairs(file)
    first, second = crystals_of(pairs, "relaxed")
    assert first.numbers.tolist() == [12, 8]
    assert second.numbers.tolist() == [29]
    np.testing.assert_allclose(first.positions, arrays["frac_relaxed"][:2] @ cells[0] * 1.1, atol=1e-12)
    np.testing.assert_array_equal(crystals_of(pairs, "initial")[1].cell, cells[1])
    with pytest.raises(ValueError, match="Unknown which"):
        crystals_of(pairs, "final")


def test_forces_at_the_start_are_read_where_they_are_asked_for_and_known(tmp_path: Path) -> None:
    rng, known = np.random.default_rng(1), arrays()
    np.savez(tmp_path / "unknown.npz", **known)
    known["forces_initial"] = rng.random((sum(COUNTS), 3)).astype(np.float16)
    known["stress_initial"] = rng.random((4, 3, 3)).astype(np.float16)
    np.savez(tmp_path / "known.npz", **known)
    files = [tmp_path / "unknown.npz", tmp_path / "known.npz"]
    assert not load_pairs(files).has_forces.any()
    pairs = load_pairs(files, start_forces=True)
    assert pairs.has_forces.tolist() == [False] * 4 + [True] * 4
    np.testing.assert_array_equal(pairs.forces[sum(COUNTS) :].numpy(), known["forces_initial"].astype(float))
    volumes = np.abs(np.linalg.det(known["cell_initial"].astype(float)))
    expected = known["stress_initial"].astype(float) * volumes[:, None, None]
    np.testing.assert_allclose(pairs.virial[4:].numpy(), expected, rtol=1e-6)
    assert not pairs.forces[: sum(COUNTS)].any()
    assert not pairs.energy_gain.any()


def test_what_relaxation_gains_is_read_where_it_is_asked_for_and_known(tmp_path: Path) -> None:
    gain = np.array([0.5, 0.0, 2.0, 0.25])
    energies = {"energy_initial": gain - 3, "energy_relaxed": np.full(4, -3.0)}
    np.savez(tmp_path / "known.npz", **arrays() | energies)
    np.savez(tmp_path / "half.npz", **{name: a for name, a in arrays().items() if name != "energy_relaxed"})
    files = [tmp_path / "half.npz", tmp_path / "known.npz"]
    assert load_pairs(files, start_forces=True).energy_gain.tolist() == [0.0] * 4 + gain.tolist()
    assert not load_pairs(files).energy_gain.any()
    assert load_pairs(files).energy_relaxed.nan_to_num(0.0).tolist() == [0.0] * 4 + [-3.0] * 4
    others = {f"{side}_m3gnet": arrays()[f"{side}_relaxed"] for side in ("frac", "cell")}
    np.savez(tmp_path / "other.npz", **arrays() | energies | others, m3gnet_ok=np.ones(4, dtype=bool))
    theirs = load_pairs(tmp_path / "other.npz", start_forces=True, labels="m3gnet")
    assert not theirs.energy_gain.any()
    assert theirs.energy_relaxed.isnan().all()  # of another minimum
