"""Data sets of pairs: npz files both ways, parts of them, splits, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.io import write

from deeprelax_ase.data import LEVELS, DataError, PairDataset, load_pairs
from tests.data.relaxations import frames

# -- npz, both ways


def test_energies_are_saved_where_they_are_known(cifs: Path, tmp_path: Path) -> None:
    dataset = PairDataset.read(cifs)
    energies = torch.full_like(dataset.pairs.energy_relaxed, torch.nan)
    for known in (False, True):
        energies[0] = -1.5 if known else torch.nan
        replace(dataset, pairs=replace(dataset.pairs, energy_relaxed=energies)).save(tmp_path / "pairs.npz")
        found = PairDataset.read(tmp_path / "pairs.npz").pairs.energy_relaxed
        torch.testing.assert_close(found, energies, rtol=0, atol=0, equal_nan=True)
        with np.load(tmp_path / "pairs.npz") as arrays:
            assert ("energy_relaxed" in arrays) == known


def test_saved_and_read_again(cifs: Path, tmp_path: Path) -> None:
    dataset = PairDataset.read(cifs, level="M3GNet")
    dataset.save(tmp_path / "pairs.npz")
    again = PairDataset.read(tmp_path / "pairs.npz")
    assert again.names == dataset.names
    for name in (
        "numbers",
        "counts",
        "fractional_initial",
        "fractional_relaxed",
        "cell_initial",
        "cell_relaxed",
        "split",
        "level",
    ):
        assert torch.equal(getattr(again.pairs, name), getattr(dataset.pairs, name)), name
    assert load_pairs(tmp_path / "pairs.npz").level.tolist() == [LEVELS.index("M3GNet")] * 4
    both = PairDataset.read([tmp_path / "pairs.npz"] * 2)
    assert len(both) == 8
    asked = load_pairs(tmp_path / "pairs.npz", labels="m3gnet")  # which the file has no other labels for
    assert torch.equal(asked.cell_relaxed, dataset.pairs.cell_relaxed)


def test_parts_of_files(cifs: Path, tmp_path: Path) -> None:
    """Their names stay those of the whole file, whoever gave them."""
    for level, file in (("PBE", "a.npz"), ("M3GNet", "b.npz")):
        PairDataset.read(cifs, level=level).save(tmp_path / file)
    whole = PairDataset.read([tmp_path / "a.npz", tmp_path / "b.npz"])
    part = PairDataset.read([tmp_path / "a.npz@1:3", tmp_path / "b.npz@-1"])
    assert part.names == (*whole.names[1:3], whole.names[7])
    assert torch.equal(part.pairs.cell_relaxed, whole.pairs.cell_relaxed[[1, 2, 7]])
    assert torch.equal(part.pairs.level, whole.pairs.level[[1, 2, 7]])
    each = PairDataset.read(str(tmp_path / "*.npz@0"))
    assert each.names == (whole.names[0], whole.names[4])
    with np.load(tmp_path / "b.npz") as arrays:
        np.savez(tmp_path / "nameless.npz", **{k: v for k, v in arrays.items() if k != "names"})
    assert PairDataset.read(tmp_path / "nameless.npz@2:").names == ("nameless[2]", "nameless[3]")
    with pytest.raises(DataError, match=r"a\.npz@9:: there is none such among its 4"):
        PairDataset.read(tmp_path / "a.npz@9:")


def test_a_file_cut_short_is_refused(cifs: Path, tmp_path: Path) -> None:
    PairDataset.read(cifs).save(tmp_path / "pairs.npz")
    whole = (tmp_path / "pairs.npz").read_bytes()
    (tmp_path / "pairs.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"pairs\.npz cannot be read"):
        PairDataset.read(tmp_path / "pairs.npz")


def test_other_labels_than_the_file_has_are_refused(cifs: Path, tmp_path: Path) -> None:
    PairDataset.read(cifs, level="PBE").save(tmp_path / "pairs.npz")
    with pytest.raises(DataError, match=r"lacks the arrays \['frac_m3gnet'"):
        PairDataset.read(tmp_path / "pairs.npz", labels="m3gnet")


# -- splits


def test_splits_do_not_depend_on_the_order_and_keep_formulas_together(tmp_path: Path, pairs) -> None:
    names = {f"{name}{n}": name for name in pairs for n in range(5)}
    for folder, order in (("one", list(names)), ("two", list(reversed(names)))):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "all.extxyz", [a for n in order for a in frames(pairs[names[n]], n)])
    one, two = (PairDataset.read(tmp_path / f, fractions=(0.5, 0.25, 0.25), seed=1) for f in ("one", "two"))
    by_name = [dict(zip(d.names, d.pairs.split.tolist(), strict=True)) for d in (one, two)]
    assert by_name[0] == by_name[1]
    for name in pairs:
        assert len({by_name[0][f"{name}{n}"] for n in range(5)}) == 1
    assert one.pairs.split.bincount().tolist() == [10, 5, 5]
    other = PairDataset.read(tmp_path / "one", fractions=(0.5, 0.25, 0.25), seed=2)
    assert other.pairs.split.tolist() != one.pairs.split.tolist()
    apart = PairDataset.read(tmp_path / "one", fractions=(0.5, 0.25, 0.25), group_by="pair")
    assert any(
        len({s for n, s in zip(apart.names, apart.pairs.split.tolist(), strict=True) if n[0] == x}) > 1 for x in "abcd"
    )


# -- refusals


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"format": "csv"}, "Unknown format='csv'"),
        ({"level": "SCAN"}, "Unknown level='SCAN'"),
        ({"group_by": "colour"}, "Unknown group_by='colour'"),
        ({"fractions": (0.5, 0.5, 0.5)}, "add up to 1"),
    ],
)
def test_wrong_settings_are_refused(cifs: Path, options: dict, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        PairDataset.read(cifs, **options)


def test_what_holds_no_pairs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        PairDataset.read(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("hello", encoding="utf-8")
    with pytest.raises(DataError, match=r"notes\.txt looks like nothing that holds relaxation pairs"):
        PairDataset.read(tmp_path / "notes.txt")
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"bad\.npz cannot be read"):
        PairDataset.read(tmp_path / "bad.npz")


def test_bad_crystals_cost_themselves_only(tmp_path: Path, pairs) -> None:
    bad = pairs["a"][1].copy()
    bad.positions[0, 0] = np.nan
    molecule = pairs["b"][0].copy()
    molecule.pbc = False
    molecule.cell = None
    everything = {
        "nan": frames((pairs["a"][0], bad)),
        "box": [molecule, *frames(pairs["b"])],
        "other": frames((pairs["a"][0], pairs["b"][1])),
        "c": frames(pairs["c"]),
    }
    for name, images in everything.items():
        write(tmp_path / f"{name}.traj", images)
    dataset = PairDataset.read(tmp_path)
    assert dataset.names == ("c.traj",)
    reasons = {refused.name: refused.reason for refused in dataset.refused}
    assert "the relaxed crystal: NaN or infinity in positions of atoms [0]" in reasons["nan.traj"]
    assert "the unrelaxed crystal: the structure has no periodic cell" in reasons["box.traj"]
    assert "not the same atoms" in reasons["other.traj"]
