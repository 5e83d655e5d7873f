from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from deeprelax_ase.data import LEVELS, RelaxationPairs, concatenate, load_pairs
from deeprelax_ase.data.forces import ARRAYS, NEAR_MINIMUM, load_pairs_with_forces

COUNTS = (2, 1, 3, 2, 1)
OK = (True, False, True, False, True)  # M3GNet's minima of the others are not known
SPLIT = (0, 2, 0, 1, 1)
#: Two starts of one crystal, and none of the third.
INDEX = (4, 0, 4)


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    atoms, size = sum(COUNTS), len(COUNTS)
    np.savez(
        tmp_path / "pairs.npz",
        numbers=np.arange(1, atoms + 1, dtype=np.uint8),
        offsets=np.array([0, *np.cumsum(COUNTS)], dtype=np.int32),
        **{f"frac_{side}": rng.random((atoms, 3), dtype=np.float32) for side in ("initial", "relaxed", "m3gnet")},
        **{f"cell_{side}": rng.random((size, 3, 3), dtype=np.float32) for side in ("initial", "relaxed", "m3gnet")},
        m3gnet_ok=np.array(OK),
        dft=np.arange(size) < 2,
        split=np.array(SPLIT, dtype=np.uint8),
    )
    return tmp_path / "pairs.npz"


def arrays(index: tuple[int, ...] = INDEX) -> dict[str, np.ndarray]:
    """Starts of the crystals ``index`` as the files hold them."""
    rng = np.random.default_rng(1)
    atoms, size = sum(COUNTS[k] for k in index), len(index)
    return {
        "index": np.array(index, dtype=np.int64),
        "frac_initial": rng.random((atoms, 3), dtype=np.float32),
        "cell_initial": rng.random((size, 3, 3), dtype=np.float32),
        "forces": rng.normal(size=(atoms, 3)).astype(np.float32),
        "virial": rng.normal(size=(size, 3, 3)).astype(np.float32),
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """``write(index, forces=...)``: a file of forces, of the crystals ``index``, with other arrays where given."""

    def save(index: tuple[int, ...] = INDEX, /, **changes: np.ndarray) -> Path:
        np.savez(tmp_path / "forces.npz", **{**arrays(index), **changes})
        return tmp_path / "forces.npz"

    return save


@pytest.mark.parametrize("index", [INDEX, (0, 2, 4), (2,)], ids=str)
def test_starts_meet_the_minima_of_their_crystals(pairs_file: Path, write, index: tuple[int, ...]) -> None:
    pairs, given = load_pairs_with_forces(pairs_file, write(index)), arrays(index)
    assert pairs.counts.tolist() == [COUNTS[k] for k in index]
    with np.load(pairs_file) as raw:
        atoms = np.concatenate([np.arange(raw["offsets"][k], raw["offsets"][k + 1]) for k in index])
        np.testing.assert_array_equal(pairs.numbers.numpy(), raw["numbers"][atoms])
        np.testing.assert_array_equal(pairs.fractional_relaxed.numpy(), raw["frac_m3gnet"][atoms])
        np.testing.assert_array_equal(pairs.cell_relaxed.numpy(), raw["cell_m3gnet"][list(index)])
    for name, key in {
        "fractional_initial": "frac_initial",
        "cell_initial": "cell_initial",
        "forces": "forces",
        "virial": "virial",
    }.items():
        np.testing.assert_array_equal(getattr(pairs, name).numpy(), given[key])
    assert pairs.has_forces.tolist() == [True] * len(index)
    assert pairs.split.tolist() == [SPLIT[k] for k in index]
    assert pairs.level.tolist() == [LEVELS.index("M3GNet")] * len(index)
    assert pairs.kind.tolist() == [NEAR_MINIMUM] * len(index)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "uint64"])
def test_indices_may_be_of_any_integer_type(pairs_file: Path, write, dtype: str) -> None:
    """Bytes above all, which torch would take for a mask."""
    found = load_pairs_with_forces(pairs_file, write(index=np.array(INDEX, dtype=dtype)))
    expected = load_pairs_with_forces(pairs_file, write())
    for f in fields(RelaxationPairs):
        one, other = getattr(found, f.name), getattr(expected, f.name)
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True, msg=f.name)


def test_indices_beyond_a_byte_are_not_wrapped(pairs_file: Path, write, tmp_path: Path) -> None:
    """Crystal 300 is not crystal 44."""
    with np.load(pairs_file) as raw:
        atoms = np.tile([0, 1], 301)  # the first crystal, again and again
        many = {key: raw[key][atoms] for key in ("numbers", "frac_initial", "frac_m3gnet")}
        many |= {key: raw[key][[0] * 301] for key in ("cell_initial", "m3gnet_ok", "dft", "split")}
        cells = np.arange(301, dtype=np.float32)[:, None, None] + raw["cell_m3gnet"][:1]
        np.savez(tmp_path / "many.npz", offsets=np.arange(302) * 2, cell_m3gnet=cells, **many)
    index = {"index": np.array([300, 44, 300], dtype=np.uint16), "cell_initial": np.ones((3, 3, 3))}
    of_atoms = {name: np.ones((6, 3)) for name in ("frac_initial", "forces")}
    pairs = load_pairs_with_forces(tmp_path / "many.npz", write(**index, **of_atoms))
    np.testing.assert_array_equal(pairs.cell_relaxed.numpy(), cells[[300, 44, 300]])


@pytest.mark.parametrize("dtype", ["int32", "float64"])
def test_there_may_be_no_starts(pairs_file: Path, write, dtype: str) -> None:
    """``float64`` is what numpy makes of an empty list."""
    pairs = load_pairs_with_forces(pairs_file, write((), index=np.array([], dtype=dtype)))
    assert len(pairs) == len(pairs.numbers) == 0
    assert pairs.forces.shape == pairs.fractional_initial.shape == (0, 3)
    assert pairs.virial.shape == pairs.cell_initial.shape == pairs.cell_relaxed.shape == (0, 3, 3)
    plain = load_pairs(pairs_file, labels="m3gnet")
    assert len(concatenate([plain, pairs])) == len(plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_types(pairs_file: Path, write, dtype: torch.dtype) -> None:
    pairs = load_pairs_with_forces(pairs_file, write(), dtype=dtype)
    for name in ("fractional_initial", "fractional_relaxed", "cell_initial", "cell_relaxed", "forces", "virial"):
        assert getattr(pairs, name).dtype == dtype, name
    assert pairs.has_forces.dtype == torch.bool


def test_they_stand_beside_pairs_of_which_no_forces_are_known(pairs_file: Path, write) -> None:
    plain = load_pairs(pairs_file, labels="m3gnet")
    assert not plain.has_forces.any()
    assert plain.forces.shape == plain.fractional_initial.shape
    assert plain.virial.shape == plain.cell_initial.shape
    assert not plain.forces.any()
    assert not plain.virial.any()
    both: RelaxationPairs = concatenate([plain, load_pairs_with_forces(pairs_file, write())])
    assert both.has_forces.tolist() == [False] * 3 + [True] * 3
    taken = both.take(torch.tensor([5, 0]))  # forces stay with their atoms
    np.testing.assert_array_equal(taken.forces.numpy(), np.concatenate([arrays()["forces"][3:], np.zeros((2, 3))]))
    np.testing.assert_array_equal(taken.virial[0].numpy(), arrays()["virial"][2])


# -- files that are not what they should be


@pytest.mark.parametrize("name", ARRAYS)
def test_a_missing_array_is_named(pairs_file: Path, tmp_path: Path, name: str) -> None:
    np.savez(tmp_path / "part.npz", **{key: value for key, value in arrays().items() if key != name})
    with pytest.raises(ValueError, match=rf"part\.npz lacks the arrays \['{name}'\]; known forces need"):
        load_pairs_with_forces(pairs_file, tmp_path / "part.npz")


def test_a_missing_label_is_named(write, tmp_path: Path, pairs_file: Path) -> None:
    with np.load(pairs_file) as raw:
        np.savez(tmp_path / "unlabelled.npz", **{key: raw[key] for key in raw.files if key != "m3gnet_ok"})
    with pytest.raises(ValueError, match=r"unlabelled\.npz lacks the arrays \['m3gnet_ok'\]"):
        load_pairs_with_forces(tmp_path / "unlabelled.npz", write())


@pytest.mark.parametrize(
    "changes",
    [
        {"index": np.array([5, 0, 4])},
        {"index": np.array([-1, 0, 4])},
        {"index": np.array([2**64 - 1, 0, 4], dtype=np.uint64)},
        {"index": np.array([1, 0, 4])},
        {"index": np.array([2, 0, 4])},
        {"index": np.array([], dtype=np.int32)},
        {"index": np.array([4, 0])},
        *({name: arrays()[name][1:]} for name in ARRAYS if name != "index"),
        *({name: np.concatenate([arrays()[name]] * 2)} for name in ARRAYS if name != "index"),
    ],
    ids=[
        "no such crystal",
        "counted from the end",
        "too large for torch",
        "a crystal without label",
        "a crystal of other size",
        "none",
        "a crystal less",
        *(f"less of {name}" for name in ARRAYS if name != "index"),
        *(f"more of {name}" for name in ARRAYS if name != "index"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(pairs_file: Path, write, changes: dict) -> None:
    with pytest.raises(ValueError, match=r"forces\.npz does not belong to .*pairs\.npz: it speaks of other crystals"):
        load_pairs_with_forces(pairs_file, write(**changes))


def test_a_part_of_the_pairs_is_refused(pairs_file: Path, write) -> None:
    with pytest.raises(ValueError, match=r"forces\.npz counts all pairs of .*pairs\.npz: give it without '@0:2'"):
        load_pairs_with_forces(f"{pairs_file}@0:2", write())


def test_pickled_objects_are_refused(pairs_file: Path, write) -> None:
    with pytest.raises(ValueError, match="pickle"):
        load_pairs_with_forces(pairs_file, write(forces=np.array([object()] * 4)))
