"""Where M3GNet's forces are computed, what it answers there, and the file that training reads."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from deeprelax_ase.calculators import (
    M3GNET_POTENTIAL,
    M3GNET_VARIABLE,
    BatchedPotential,
    EnergiesForcesStresses,
    get_calculator,
)
from deeprelax_ase.crystal import Crystal
from deeprelax_ase.data import RelaxationPairs, crystals_of, load_pairs
from deeprelax_ase.data.forces import load_pairs_with_forces
from deeprelax_ase.geometry.strain import symmetric_exponential, symmetric_logarithm
from deeprelax_ase.graph.crystal_graph import rows_times_matrices
from deeprelax_ase.labelling import (
    PointSettings,
    forces_in_processes,
    known_forces,
    label_forces,
    points,
    write_forces,
)
from tests.crystals import CRYSTALS, rotation
from tests.killing import Killer

STILL = PointSettings(rattled=0.0)
PREDICTED = replace(STILL, at_prediction=1.0)
BETWEEN = replace(STILL, at_prediction=0.0)
SHAKEN = replace(PREDICTED, rattled=1.0)


def points_of(pairs: RelaxationPairs, settings: PointSettings, seed: int = 0) -> RelaxationPairs:
    return points(pairs, settings, torch.Generator().manual_seed(seed))


def predicted(pairs: RelaxationPairs, *, turned: bool = True) -> RelaxationPairs:
    """The pairs, their unrelaxed side a prediction: strained from the minimum, and turned however it pleased."""
    generator = torch.Generator().manual_seed(3)
    strain = 0.03 * torch.randn(len(pairs), 3, 3, generator=generator, dtype=torch.float64)
    cell = pairs.cell_relaxed @ symmetric_exponential(strain + strain.mT)
    turns = torch.from_numpy(np.stack([rotation(k) if turned else np.eye(3) for k in range(len(pairs))]))
    return replace(pairs, cell_initial=cell @ turns)


def metric(cell: Tensor) -> Tensor:
    """Lengths and angles of the cells, whatever their orientation."""
    return cell @ cell.mT


def strain_from_minimum(pairs: RelaxationPairs) -> Tensor:
    deformation = torch.linalg.inv(pairs.cell_relaxed) @ pairs.cell_initial
    return symmetric_logarithm(deformation @ deformation.mT) / 2


def parts_of(pairs: RelaxationPairs, made: RelaxationPairs) -> Tensor:
    """How much of the way from the minimum to the prediction the cells have gone, pair by pair."""
    whole, gone = strain_from_minimum(pairs), strain_from_minimum(made)
    return (whole * gone).sum(dim=(1, 2)) / whole.square().sum(dim=(1, 2))


def shakes_of(pairs: RelaxationPairs, settings: PointSettings) -> Tensor:
    """Å, what moves the atoms beyond the still points of the same seed."""
    still, shaken = points_of(pairs, replace(settings, rattled=0.0)), points_of(pairs, settings)
    assert torch.equal(shaken.cell_initial, still.cell_initial)
    return rows_times_matrices(shaken.fractional_initial - still.fractional_initial, still.cell_initial[still.batch])


@pytest.fixture
def pairs(pairs_of) -> RelaxationPairs:
    return predicted(pairs_of(12))


@pytest.fixture(scope="module")
def many(pairs_of) -> RelaxationPairs:
    return predicted(pairs_of(2000), turned=False)


# -- the points


def test_only_the_unrelaxed_side_moves(pairs: RelaxationPairs) -> None:
    before = {f.name: getattr(pairs, f.name).clone() for f in fields(RelaxationPairs)}
    made = points_of(pairs, PointSettings())
    for f in fields(RelaxationPairs):
        assert torch.equal(getattr(pairs, f.name), before[f.name]), f.name
        if f.name not in ("fractional_initial", "cell_initial"):
            assert getattr(made, f.name) is getattr(pairs, f.name), f.name
    assert not torch.equal(made.fractional_initial, pairs.fractional_initial)
    assert not torch.equal(made.cell_initial, pairs.cell_initial)


def test_some_points_are_the_prediction_itself(pairs: RelaxationPairs) -> None:
    made = points_of(pairs, PREDICTED)
    torch.testing.assert_close(made.fractional_initial, pairs.fractional_initial, rtol=0, atol=1e-14)
    torch.testing.assert_close(metric(made.cell_initial), metric(pairs.cell_initial), rtol=0, atol=1e-8)
    assert (made.cell_initial - pairs.cell_initial).abs().max() > 0.1  # but for the rotation, which is undone


def test_others_lie_part_of_the_way(pairs: RelaxationPairs) -> None:
    made = points_of(pairs, BETWEEN)
    part = parts_of(pairs, made)
    assert part.min() >= BETWEEN.least - 1e-9
    assert part.max() <= 1 + 1e-9
    gone = part[:, None, None] * strain_from_minimum(pairs)  # one part for the whole cell, and for the atoms
    torch.testing.assert_close(strain_from_minimum(made), gone, rtol=0, atol=1e-9)
    way = pairs.fractional_initial - pairs.fractional_relaxed
    moved = made.fractional_initial - made.fractional_relaxed
    torch.testing.assert_close(moved, part[pairs.batch, None] * way, rtol=0, atol=1e-8)
    assert part.unique().numel() == len(pairs)


def test_shares_and_parts_are_those_of_the_settings(many: RelaxationPairs) -> None:
    settings = replace(STILL, at_prediction=0.3, least=0.1)
    part = parts_of(many, points_of(many, settings))
    there = part > 1 - 1e-9
    assert there.double().mean().item() == pytest.approx(0.3, abs=0.041)  # four standard deviations
    assert 0.1 - 1e-9 <= part.min() < 0.105
    powers = part[~there].log() / np.log(0.1)  # even between 0 and 1
    assert powers.mean().item() == pytest.approx(0.5, abs=0.031)
    assert powers.std().item() == pytest.approx(12**-0.5, abs=0.02)


@pytest.mark.parametrize("settings", [PointSettings(), SHAKEN], ids=["usual", "shaken"])
def test_how_a_prediction_is_turned_does_not_matter(pairs_of, settings: PointSettings) -> None:
    still, turned = (points_of(predicted(pairs_of(12), turned=turned), settings) for turned in (False, True))
    torch.testing.assert_close(turned.cell_initial, still.cell_initial, rtol=0, atol=1e-10)
    torch.testing.assert_close(turned.fractional_initial, still.fractional_initial, rtol=0, atol=1e-10)


def test_shaken_atoms_move_as_far_in_every_direction(many: RelaxationPairs) -> None:
    shake = shakes_of(many, replace(SHAKEN, rattle=(0.01, 0.01)))
    assert shake.shape == many.fractional_initial.shape
    covariance = shake.T @ shake / len(shake)
    torch.testing.assert_close(covariance / 1e-4, torch.eye(3).double(), rtol=0, atol=0.08)  # four deviations
    assert shake.mean(dim=0).abs().max() < 4 * 0.01 / len(shake) ** 0.5


def test_shakes_lie_within_their_range(many: RelaxationPairs) -> None:
    settings = replace(SHAKEN, rattled=0.4, rattle=(0.001, 0.02))
    unit = shakes_of(many, replace(SHAKEN, rattle=(1.0, 1.0)))  # what the same seed draws before it is scaled
    ratio = shakes_of(many, settings) / unit
    width = torch.zeros(len(many)).double().index_add(0, many.batch, ratio.mean(dim=1)) / many.counts
    torch.testing.assert_close(ratio, width[many.batch, None].expand_as(ratio), rtol=0, atol=1e-9)
    shaken = width > 1e-9
    assert shaken.double().mean().item() == pytest.approx(0.4, abs=0.044)
    assert width[shaken].min() >= 0.001 - 1e-9
    assert width[shaken].max() <= 0.02 + 1e-9
    powers = (width[shaken] / 0.001).log() / np.log(20)  # even between 0 and 1
    assert powers.mean().item() == pytest.approx(0.5, abs=0.041)
    assert powers.std().item() == pytest.approx(12**-0.5, abs=0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_seed_fixes_the_points(pairs_of, dtype: torch.dtype) -> None:
    pairs, settings = pairs_of(12, dtype=dtype), replace(PointSettings(), rattled=1.0)
    one, two, other = (points_of(pairs, settings, seed) for seed in (5, 5, 6))
    for name in ("fractional_initial", "cell_initial"):
        assert getattr(one, name).dtype == dtype
        assert torch.equal(getattr(one, name), getattr(two, name)), name
        assert not torch.equal(getattr(one, name), getattr(other, name)), name


# -- M3GNet's answers


@pytest.fixture
def m3gnet(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """M3GNet as the environment names it, or from the data folder; skips the test where it is in neither."""
    folder = Path(os.environ.get(M3GNET_VARIABLE) or shared / "models" / M3GNET_POTENTIAL)
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    monkeypatch.setenv(M3GNET_VARIABLE, str(folder))


#: Polonium is no element of M3GNet's; atoms in one place have no direction.
STRANGE = {
    "unknown element": Crystal([84], [[0.0, 0.0, 0.0]], np.eye(3) * 3.0),
    "overlap": Crystal([11, 17], np.zeros((2, 3)), np.eye(3) * 4.0),
}


def test_they_are_those_of_the_calculator(m3gnet, needs_dgl) -> None:
    crystals = [*CRYSTALS.values(), Crystal([14, 14], [[0.0, 0.0, 0.0], [1.4, 1.3, 1.5]], np.diag([3.9, 4.0, -4.2]))]
    calculator = get_calculator("m3gnet")
    largest = []
    for crystal, found in zip(crystals, known_forces(crystals), strict=True):
        assert found is not None
        atoms = crystal.to_atoms()
        atoms.calc = calculator
        forces, virial = found
        of_atoms, of_cell = atoms.get_forces(), atoms.get_stress(voigt=False) * crystal.volume
        largest.append((np.abs(of_atoms).max(), np.abs(of_cell).max()))
        for values, expected, atol in ((forces, of_atoms, 1e-4), (virial, of_cell, 5e-4)):
            atol *= max(1.0, np.abs(expected).max())  # in single precision, of some eV/Å where crystals are strained
            np.testing.assert_allclose(values, expected, rtol=0, atol=atol)
    assert (np.array(largest).max(axis=0) > 1).all()


@pytest.mark.parametrize(
    "name",
    [
        "unknown element",
        "overlap",
    ],
)
def test_a_crystal_that_it_cannot_take_leaves_the_others_theirs(m3gnet, name: str) -> None:
    first, last = CRYSTALS["triclinic"], CRYSTALS["rattled perovskite"]
    found = known_forces([STRANGE[name], first, STRANGE[name], last])
    assert found[0] is None
    assert found[2] is None
    for one, other in zip([found[1], found[3]], known_forces([first, last]), strict=True):
        assert one is not None
        assert other is not None
        for values, expected in zip(one, other, strict=True):
            np.testing.assert_allclose(values, expected, rtol=0, atol=1e-3)
    assert known_forces([STRANGE[name]] * 2) == [None, None]


class Broken(BatchedPotential):
    """Gives forces or a stress that are not finite for crystals of as many atoms as the triclinic one."""

    name, device = "broken", torch.device("cpu")

    def __init__(self, part: str) -> None:
        self.part = part

    def compute(self, numbers: Tensor, positions: Tensor, cells: Tensor, batch: Tensor) -> EnergiesForcesStresses:
        forces, stresses = torch.ones_like(positions), torch.ones_like(cells)
        spoilt = torch.bincount(batch) == len(CRYSTALS["triclinic"])
        (forces if self.part == "forces" else stresses)[spoilt[batch] if self.part == "forces" else spoilt] = np.nan
        return EnergiesForcesStresses(torch.zeros(len(cells)).double(), forces, stresses)


@pytest.mark.parametrize("part", ["forces", "stresses"])
def test_what_is_not_finite_is_not_known(part: str) -> None:
    first, last = known_forces([CRYSTALS["triclinic"], CRYSTALS["rattled rocksalt"]], potential=Broken(part))
    assert first is None
    assert last is not None


class DiesOf(Crystal):
    """Kills the process that it is sent to."""

    def __reduce__(self) -> tuple:
        return Killer().__reduce__()


@pytest.mark.slow
def test_a_crystal_that_kills_its_process_leaves_the_others_their_forces(m3gnet) -> None:
    first, last = CRYSTALS["triclinic"], CRYSTALS["rattled perovskite"]
    killer = DiesOf(first.numbers, first.positions, first.cell)
    found = forces_in_processes([killer, first, last], workers=1)
    assert found[0] is None
    for one, expected in zip(found[1:], known_forces([first, last]), strict=True):
        assert one is not None
        assert expected is not None
        np.testing.assert_allclose(one[0], expected[0], rtol=0, atol=1e-3)


# -- the command line


@pytest.fixture
def file(pairs_of, pairs_file, tmp_path: Path) -> Path:
    """Pairs whose minima M3GNet knows but for the first three; each fifth is not for training."""
    split = (np.arange(12) % 5 == 4).astype(np.uint8)
    return pairs_file(tmp_path / "pairs.npz", pairs_of(12, dtype=torch.float32), dft=split > 1, split=split)


TRAINED_ON = [3, 5, 6, 7, 8, 10, 11]


def test_its_file_is_what_training_reads(m3gnet, file: Path, tmp_path: Path) -> None:
    assert label_forces(file, tmp_path / "forces.npz", device="cpu", workers=0, seed=4) == (7, 7)
    has_forces = load_pairs_with_forces(file, tmp_path / "forces.npz")
    with np.load(tmp_path / "forces.npz") as written:
        assert written["index"].tolist() == TRAINED_ON
    assert has_forces.split.tolist() == [0] * 7
    assert has_forces.has_forces.all()
    for k, found in enumerate(known_forces(crystals_of(has_forces, "initial"))):  # they belong to these very crystals
        assert found is not None
        forces, virial = found
        atoms = has_forces.atoms_of(torch.tensor([k]))
        np.testing.assert_allclose(has_forces.forces[atoms].numpy(), forces, rtol=0, atol=1e-3)
        np.testing.assert_allclose(has_forces.virial[k].numpy(), virial, rtol=1e-3, atol=1e-3)
    assert has_forces.forces.abs().max() > 0.01
    assert torch.linalg.matrix_norm(has_forces.virial).min() > 0.01
    # they lie between M3GNet's minima and where the shipped model takes the unrelaxed crystals, which is elsewhere
    start = load_pairs(file, labels="m3gnet")
    assert has_forces.fractional_initial.shape == has_forces.fractional_relaxed.shape
    assert not np.isin(has_forces.cell_initial.numpy(), start.cell_initial.numpy()).any()


def test_crystals_without_forces_or_with_huge_ones_are_left_out(file: Path, tmp_path: Path) -> None:
    largest, index = 20.0, np.array(TRAINED_ON)
    start = load_pairs(file, labels="m3gnet", dtype=torch.float32).in_split("train")
    of_crystals = {1: None, 3: (-1.01 * largest, 3.0), 4: (0.99 * largest, 4.0)}
    found: list[tuple[np.ndarray, np.ndarray] | None] = []
    for k, n in enumerate(start.counts.tolist()):
        answer = of_crystals.get(k, (0.1 * k, float(k)))
        found.append(None if answer is None else (np.full((n, 3), answer[0]), np.full((3, 3), answer[1])))
    assert write_forces(tmp_path / "forces.npz", start, index, found, largest=largest) == 5
    has_forces = load_pairs_with_forces(file, tmp_path / "forces.npz")
    with np.load(tmp_path / "forces.npz") as written:
        assert written["index"].tolist() == [TRAINED_ON[k] for k in (0, 2, 4, 5, 6)]
    assert has_forces.virial[:, 0, 0].tolist() == [0, 2, 4, 5, 6]  # each with its own crystal
    expected = torch.tensor([0, 0.2, 0.99 * largest, 0.5, 0.6], dtype=torch.float64)[has_forces.batch]
    torch.testing.assert_close(has_forces.forces[:, 2], expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="M3GNet gave forces for none of 7 points"):
        write_forces(tmp_path / "none.npz", start, index, [None] * 7, largest=largest)
