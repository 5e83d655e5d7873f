"""One crystal, one judgement: every door says the same of it, in the same words."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import read, write
from ase.spacegroup import crystal
from typer.testing import CliRunner

from deeprelax_ase import DeepRelaxOptimizer, relax_many
from deeprelax_ase.cli import app
from deeprelax_ase.io.frame import Frame
from deeprelax_ase.optimizers import predict_frames
from deeprelax_ase.optimizers.jump import shared_predictor
from deeprelax_ase.prediction.judgement import TrustLimits
from deeprelax_ase.screening.options import RelaxOptions
from deeprelax_ase.uncertainty.calibration import CalibratedError
from tests.stand_in import StandInPredictor

pytest.importorskip("pyarrow")

SURE = CalibratedError(coordinates=0.03, coordinates_bound=0.08, volume=0.02, volume_bound=0.05, ood=False)
UNLIKE = "the crystal is unlike those that the model knows"

Told = tuple[str, str | None]


class Asked:
    """One question to all doors: a crystal, limits, and who predicts."""

    def __init__(self, atoms: Atoms, folder: Path, predictor: Any, **limits: float) -> None:
        self.atoms, self.folder, self.predictor, self.limits = atoms, folder, predictor, limits
        write(folder / "given.extxyz", atoms)
        self.options = RelaxOptions(device="cpu", **limits)

    def run(self, *arguments: str) -> None:
        """A command of the command line, with the limits."""
        limits = [text for name, value in self.limits.items() for text in (f"--{name.replace('_', '-')}", str(value))]
        given = [arguments[0], str(self.folder / "given.extxyz"), *arguments[1:], *limits, "--device", "cpu", "-q"]
        assert CliRunner().invoke(app, given).exit_code in (0, 1)


def of_atoms(atoms: Atoms) -> Told:
    return atoms.info["deeprelax_status"], atoms.info.get("deeprelax_reason")


def of_row(row: dict[str, Any]) -> Told:
    return row["status"], row["reason"]


def by_predictor(asked: Asked) -> Told:
    prediction = replace(asked.predictor.predict(asked.atoms), limits=TrustLimits(**asked.limits))
    assert str(prediction.judgement) in repr(prediction)
    assert of_atoms(prediction.to_atoms()) == (prediction.judgement.status, prediction.judgement.reason or None)
    return of_atoms(prediction.to_atoms())


def by_frames(asked: Asked) -> Told:
    (frame,) = predict_frames([Frame("a", asked.atoms)], asked.predictor, limits=TrustLimits(**asked.limits))
    assert of_atoms(frame.atoms) == (frame.result.status, frame.result.reason)
    return of_atoms(frame.atoms)


def by_optimizer(asked: Asked) -> Told:
    atoms = asked.atoms.copy()
    limits = {name: value for name, value in asked.limits.items() if name != "max_uncertainty"}
    DeepRelaxOptimizer(atoms, predictor=asked.predictor, logfile=None, on_uncertain="keep", **limits).run()
    return of_atoms(atoms)


def by_relax(asked: Asked) -> Told:
    asked.run("relax", "-o", str(asked.folder / "relaxed.extxyz"))
    return of_atoms(read(asked.folder / "relaxed.extxyz"))


def by_screen(asked: Asked) -> Told:
    import pyarrow.dataset as ds

    asked.run("screen", "-o", str(asked.folder / "out"), "--workers", "0")
    (row,) = ds.dataset(asked.folder / "out", format="parquet", exclude_invalid_files=True).to_table().to_pylist()
    return of_row(row)


def by_report(asked: Asked) -> Told:
    pytest.importorskip("plotly")
    from deeprelax_ase.report.outcome import outcome_of

    by_relax(asked)
    outcome = outcome_of(asked.folder / "relaxed.extxyz")
    (status,) = outcome.statuses
    (rows,) = outcome.results.rows()
    return status, rows.reasons[0]


def by_relax_many(asked: Asked) -> Told:
    (prediction,) = relax_many([asked.atoms], asked.options, workers=0)
    return prediction.judgement.status, prediction.judgement.reason or None


def by_jobflow(asked: Asked) -> Told:
    pytest.importorskip("jobflow")
    from pymatgen.io.ase import AseAtomsAdaptor

    from deeprelax_ase.screening.jobflow import documents_of
    from deeprelax_ase.screening.rows import structures_table
    from deeprelax_ase.screening.table_relaxer import TableRelaxer

    structure = AseAtomsAdaptor.get_structure(asked.atoms)
    (document,) = documents_of(TableRelaxer(asked.options)(structures_table([structure])), [structure])
    return document.status, document.reason


def by_ray(asked: Asked) -> Told:
    pytest.importorskip("ray")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from deeprelax_ase.screening.ray_data import BatchRelaxer
    from deeprelax_ase.screening.rows import structures_table

    (row,) = BatchRelaxer(asked.options)(structures_table([asked.atoms])).to_pylist()
    return of_row(row)


DOORS = {
    door.__name__.removeprefix("by_"): door
    for door in (
        *(by_predictor, by_frames, by_optimizer, by_relax, by_screen, by_report, by_relax_many, by_jobflow),
        by_ray,
    )
}
SLOW = ("ray",)  # to import


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Asked]:
    """Puts one question; every door's predictor is the one that is given."""

    def put(atoms: Atoms, predictor: Any, **limits: float) -> Asked:
        monkeypatch.setattr("deeprelax_ase.prediction.predictor.Predictor", lambda *arguments, **options: predictor)
        return Asked(atoms, tmp_path, predictor, **limits)

    return put


@pytest.mark.parametrize("door", [pytest.param(d, marks=pytest.mark.slow if d in SLOW else ()) for d in DOORS])
@pytest.mark.parametrize(
    ("error", "limits", "told"),
    [
        (SURE, {}, ("accepted", None)),
        (replace(SURE, ood=True, novelty=1.7), {}, ("uncertain", f"{UNLIKE}, novelty 1.70")),
        (replace(SURE, ood=True), {"max_error": 9.0}, ("uncertain", UNLIKE)),
        (SURE, {"max_error": 0.02}, ("uncertain", "its expected error 0.030 Å is above max_error=0.02 Å")),
        (
            SURE,
            {"max_volume_error": 0.01},
            ("uncertain", "its expected volume error 2.0% is above max_volume_error=0.01"),
        ),
        (
            replace(SURE, odds_worse=0.3),
            {"max_odds_worse": 0.1},
            ("uncertain", "the odds are 30% that it ends further from its minimum than it began"),
        ),
    ],
)
def test_every_door_says_the_same(ask, door: str, error: CalibratedError, limits: dict, told: Told) -> None:
    atoms = bulk("Cu", "fcc", a=3.7, cubic=True)
    assert DOORS[door](ask(atoms, StandInPredictor(error=error), **limits)) == told


@pytest.mark.slow
@pytest.mark.parametrize("door", DOORS)
def test_triphylite_is_doubted_alike(ask, door: str) -> None:
    """LiFePO4 in the cell of the literature (Streltsov et al., Acta Cryst. B 49, 147 (1993))."""
    sites = {
        "Li": (0, 0, 0),
        "Fe": (0.28222, 0.25, 0.97472),
        "P": (0.09486, 0.25, 0.41820),
        "O": (0.09678, 0.25, 0.74279),
    }
    oxygen = [(0.45710, 0.25, 0.20602), (0.16558, 0.04646, 0.28478)]
    atoms = crystal(
        [*sites, "O", "O"], [*sites.values(), *oxygen], spacegroup=62, cellpar=[10.334, 6.010, 4.693, 90, 90, 90]
    )
    atoms.info.clear()
    assert len(atoms) == 28
    asked = ask(atoms, shared_predictor(device="cpu"))
    status, reason = DOORS[door](asked)
    assert (status, reason) == by_predictor(asked)
    assert status == "uncertain"
    assert reason
