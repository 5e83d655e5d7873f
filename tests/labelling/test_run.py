"""A labelling from end to end: every crystal once, every pair as it is when alone, whatever happens on the way."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.io import write

pytest.importorskip("pyarrow", reason="needs pyarrow")

from deeprelax_ase.calculators import M3GNET_POTENTIAL
from deeprelax_ase.calculators.identity import M3GNET_WEIGHTS
from deeprelax_ase.data import DataError, PairDataset, check, load_pairs
from deeprelax_ase.errors import CalculatorError, OutputError, StructureFileError
from deeprelax_ase.labelling import LabelOptions, label, label_folder, label_level, write_pairs
from deeprelax_ase.screening import Folder, RelaxOptions, Shard, screen
from tests.labelling.alloys import EMT_NAME, alloys, slab

OPTIONS = LabelOptions(EMT_NAME, finish="fast", fmax=0.05, device="cpu")
COMMAND = [
    sys.executable,
    "-m",
    "deeprelax_ase.cli",
    "label",
    "-c",
    EMT_NAME,
    "--fmax",
    "0.05",
    "--finish",
    "fast",
    "--device",
    "cpu",
]


@pytest.fixture
def xyz(tmp_path: Path) -> Callable[[list[Atoms]], Path]:
    def make(crystals: list[Atoms]) -> Path:
        file = tmp_path / "candidates.extxyz"
        write(file, crystals)
        return file

    return make


def rows(out: Path) -> list[dict]:
    return [row for table in label_folder(out).tables() for row in table.to_pylist()]


def arrays(out: Path) -> dict[str, np.ndarray]:
    with np.load(out / "pairs.npz") as file:
        return dict(file)


def test_pairs_read_as_they_are(xyz: Callable, tmp_path: Path) -> None:
    out, seen = tmp_path / "out", list[int]()
    report = label(
        [xyz([*alloys(11), slab()])], out, OPTIONS, workers=0, block_size=5, observe=lambda p: seen.append(p.done)
    )
    assert seen == [0, 5, 10, 12]
    assert report.counts == {"labelled": 12}
    assert (report.pairs, report.missing, sum(report.splits.values())) == (out / "pairs.npz", 0, 12)
    dataset = PairDataset.read(out, start_forces=True)
    assert dataset.names == (*(f"alloy-{n}" for n in range(11)), "slab")
    assert dataset.pairs.fixed_cell.tolist() == [False] * 11 + [True]
    assert dataset.pairs.has_forces.all()
    assert (dataset.pairs.energy_gain > 0).all()
    assert {name: int((dataset.pairs.split == k).sum()) for k, name in enumerate(report.splits)} == report.splits
    assert check(dataset).clean
    assert len(PairDataset.read(f"{out}@0:4")) == 4


def test_forces_and_energies_are_those_at_the_start(xyz: Callable, tmp_path: Path) -> None:
    from ase.calculators.emt import EMT

    crystals = alloys(3)
    label([xyz(crystals)], tmp_path / "out", OPTIONS, workers=0)
    pairs, file = load_pairs(tmp_path / "out" / "pairs.npz", start_forces=True), arrays(tmp_path / "out")
    for n, atoms in enumerate(crystals):
        atoms.calc = EMT()
        here = pairs.batch == n
        np.testing.assert_allclose(pairs.forces[here], atoms.get_forces(), atol=1e-5)
        np.testing.assert_allclose(pairs.virial[n], atoms.get_stress(voigt=False) * atoms.get_volume(), atol=1e-4)
        assert file["energy_initial"][n] == pytest.approx(atoms.get_potential_energy() / 4)
        assert file["energy_relaxed"][n] < file["energy_initial"][n]


def test_what_cannot_be_learnt_from_is_a_row_with_its_reason(xyz: Callable, tmp_path: Path) -> None:
    crystals = alloys(6)
    crystals[4] = Atoms("CuAu", [[0, 0, 0], [0, 0, 2.5]], cell=[12] * 3, pbc=True)
    crystals[5].positions[0] = np.nan
    options = LabelOptions("tests.labelling.alloys:Forbidding", fmax=0.05)
    report = label([xyz(crystals)], tmp_path / "out", options, workers=0)
    made = rows(tmp_path / "out")
    assert [row["index"] for row in made] == list(range(6))
    raised = sum(count for told, count in report.counts.items() if told.startswith("failed: ") and "no gold" in told)
    assert raised == sum("no gold" in (row["reason"] or "") for row in made) > 0
    assert report.counts.total() == 6
    assert report.counts["labelled"] == 2
    assert sum(count for told, count in report.counts.items() if told.startswith("refused: ")) == 2
    told = {row["status"]: row["reason"] for row in made}
    assert told["labelled"] is None
    reasons = [row["reason"] for row in made if row["status"] in ("failed", "refused")]
    for part in ("no gold here", "a molecule", "NaN"):
        assert any(part in reason for reason in reasons), part
    assert len(PairDataset.read(tmp_path / "out")) == 2


def test_rows_tell_the_forces_and_what_failures_cost(xyz: Callable, tmp_path: Path) -> None:
    metals = [alloys(4)[3], bulk("Pt", cubic=True), bulk("NaCl", "rocksalt", a=5.6)]
    options = LabelOptions("tests.labelling.alloys:knowing_metals", finish="fast", fmax=0.05)
    label([xyz(metals)], tmp_path / "out", options, workers=0)
    done, failed, unknown = rows(tmp_path / "out")
    end = Atoms(
        done["numbers"], np.reshape(done["positions"], (-1, 3)), cell=np.reshape(done["cell"], (3, 3)), pbc=True
    )
    end.calc = EMT()
    assert done["fmax"] == pytest.approx(np.linalg.norm(end.get_forces(), axis=1).max(), abs=1e-6)
    assert done["fmax"] < 0.05
    assert (failed["status"], failed["force_calls"], failed["fmax"]) == ("failed", 1, None)
    assert "does not know Cl, Na" in unknown["reason"]
    assert unknown["force_calls"] is None


def test_what_left_its_basin_is_counted_by_its_reason(xyz: Callable, tmp_path: Path) -> None:
    crystals = alloys(3)
    crystals[1].set_cell(crystals[1].cell.array * 0.8, scale_atoms=True)
    report = label([xyz(crystals)], tmp_path / "out", OPTIONS, workers=0)
    assert report.counts == {"labelled": 2, "left its basin: |ln V ratio| above 0.6": 1}
    hasty = label([xyz(crystals[:1])], tmp_path / "hasty", LabelOptions(EMT_NAME, steps=1), workers=0)
    assert hasty.counts == {"not converged": 1}
    assert (hasty.pairs, hasty.splits) == (None, {})
    assert not (tmp_path / "hasty" / "pairs.npz").exists()


def test_minima_are_no_pairs(xyz: Callable, tmp_path: Path) -> None:
    label([xyz(alloys(1))], tmp_path / "out", LabelOptions(EMT_NAME, finish="fast", fmax=1e-5), workers=0)
    (row,) = rows(tmp_path / "out")
    end = Atoms(row["numbers"], np.reshape(row["positions"], (-1, 3)), cell=np.reshape(row["cell"], (3, 3)), pbc=True)
    again = label([xyz([end])], tmp_path / "again", OPTIONS, workers=0)
    assert again.counts == {"at rest already": 1}


def test_shards_make_one_whole(xyz: Callable, tmp_path: Path) -> None:
    file, out = xyz(alloys(7)), tmp_path / "out"
    first = label([file], out, OPTIONS, workers=0, block_size=2, shard=Shard(1, 2))
    assert (first.progress.done, first.missing) == (4, 3)
    assert len(PairDataset.read(out)) == 4
    second = label([file], out, OPTIONS, workers=0, block_size=2, shard=Shard(2, 2))
    assert (second.progress.done, second.missing, second.counts.total()) == (3, 0, 7)
    whole = label([file], tmp_path / "whole", OPTIONS, workers=0)
    assert whole.splits == second.splits
    for name, array in arrays(tmp_path / "whole").items():
        np.testing.assert_array_equal(array, arrays(out)[name], err_msg=name)


def test_blocks_are_of_the_size_that_the_folder_was_begun_with(xyz: Callable, tmp_path: Path) -> None:
    file, out = xyz(alloys(5)), tmp_path / "out"
    label([file], out, OPTIONS, workers=0, block_size=2, shard=Shard(1, 2))
    assert label([file], out, OPTIONS, workers=0, shard=Shard(2, 2)).missing == 0


def test_the_split_is_a_choice_that_may_change(xyz: Callable, tmp_path: Path) -> None:
    file, out = xyz(alloys(8)), tmp_path / "out"
    label([file], out, OPTIONS, workers=0)
    again = label([file], out, OPTIONS, workers=0, fractions=(0.5, 0.25, 0.25), group_by="pair", level="OAM")
    assert again.progress.before == 8
    assert again.splits == {"train": 4, "validation": 2, "test": 2}
    assert (PairDataset.read(out).pairs.level == 1).all()
    with pytest.raises(DataError, match="level='LDA'"):
        write_pairs(out, level="LDA")
    with pytest.raises(DataError, match="add up to 1"):
        label([file], tmp_path / "none", OPTIONS, fractions=(1, 1, 1))
    assert not (tmp_path / "none").exists()


def test_without_stress_there_are_no_forces_in_the_file(xyz: Callable, tmp_path: Path) -> None:
    options = LabelOptions("tests.labelling.alloys:Stressless", relax_cell=False)
    label([xyz(alloys(2))], tmp_path / "out", options, workers=0)
    made = arrays(tmp_path / "out")
    assert "forces_initial" not in made
    assert "energy_initial" in made
    assert made["fixed_cell"].all()


def test_a_folder_holds_one_kind_of_work(xyz: Callable, tmp_path: Path) -> None:
    file = xyz(alloys(2))
    label([file], tmp_path / "labels", OPTIONS, workers=0)
    with pytest.raises(OutputError, match="holds a labelling already"):
        screen([file], tmp_path / "labels", RelaxOptions(members=1, recycles=1, device="cpu"), workers=0)
    with pytest.raises(OutputError, match="holds no screening"):
        Folder(tmp_path / "labels").manifest()
    with pytest.raises(OutputError, match=r"begun with other options: {'fmax': 0.05}, now {'fmax': 0.01}\."):
        label([file], tmp_path / "labels", replace(OPTIONS, fmax=0.01), workers=0)
    with pytest.raises(CalculatorError, match="Unknown calculator"):
        label([file], tmp_path / "none", LabelOptions("emtt"), workers=0)
    with pytest.raises(StructureFileError, match="no such file"):  # before the potential is looked for
        label([tmp_path / "nothing.xyz"], tmp_path / "none", LabelOptions("emtt"), workers=0)
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_a_crystal_that_kills_its_process_costs_itself(xyz: Callable, tmp_path: Path) -> None:
    crystals = alloys(3)
    crystals[1].symbols[0] = "K"
    options = LabelOptions("tests.screening.deadly_crystals:dies_of_potassium", relax_cell=False, steps=3)
    report = label([xyz(crystals)], tmp_path / "out", options, workers=1)
    made = rows(tmp_path / "out")
    assert report.counts[f"failed: {made[1]['reason']}"] == 1
    assert "was killed" in made[1]["reason"]


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "kills"), [(0, 1), (2, 3)])
def test_killed_again_and_again_it_comes_to_the_same_end(
    xyz: Callable, tmp_path: Path, workers: int, kills: int
) -> None:
    size = 8 * (kills + 1)
    file, out = xyz(alloys(size)), tmp_path / "out"
    command = [
        *COMMAND,
        str(file),
        "--out",
        str(out),
        "--device",
        "cpu",
        "--block-size",
        "2",
        "--workers",
        str(workers),
    ]
    for kill in range(kills):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            until = time.monotonic() + 300
            journal = out / "journal.jsonl"
            while not journal.exists() or journal.read_bytes().count(b"\n") < 2 * kill + 1:
                assert process.poll() is None, "it ended before it could be killed"
                assert time.monotonic() < until
                time.sleep(0.01)
            process.kill()
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert sorted(line["block"] for line in lines) == list(range(size // 2))
    assert [row["id"] for row in rows(out)] == [f"alloy-{n}" for n in range(size)]
    names = arrays(out)["names"].tolist()
    assert len(names) == len(set(names))
    with chdir(tmp_path):
        label([file], "whole", OPTIONS, workers=0, block_size=size)
    for name, array in arrays(tmp_path / "whole").items():
        if array.dtype.kind == "f":  # in other blocks and processes sums are rounded otherwise
            np.testing.assert_allclose(array, arrays(out)[name], rtol=0, atol=1e-10, equal_nan=True, err_msg=name)
        else:
            np.testing.assert_array_equal(array, arrays(out)[name], err_msg=name)


def test_the_level_is_that_of_m3gnet_for_its_weights_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert label_level(EMT_NAME) == "PBE"
    monkeypatch.setattr(EMT, "weights_digest", M3GNET_WEIGHTS, raising=False)
    assert label_level(EMT_NAME) == "M3GNet"
    monkeypatch.setattr(EMT, "weights_digest", "of another M3GNet")
    assert label_level(EMT_NAME) == "PBE"


def test_the_level_of_the_real_m3gnet(shared: Path) -> None:
    folder = shared / "models" / M3GNET_POTENTIAL
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    assert label_level(f"m3gnet:{folder}") == "M3GNet"


def test_crystals_with_fixed_atoms_are_no_labels(tmp_path: Path) -> None:
    """Their minima are none to learn from."""
    free, held = alloys(2)
    held.set_constraint(FixAtoms([0]))
    write(tmp_path / "candidates.traj", [free, held])
    label([tmp_path / "candidates.traj"], tmp_path / "out", OPTIONS, workers=0)
    one, other = rows(tmp_path / "out")
    assert one["status"] == "labelled"
    assert other["status"] == "refused"
    assert "constraints (FixAtoms)" in other["reason"]
