"""The command ``relax`` with a stand-in predictor, in an empty folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk
from typer.testing import CliRunner, Result

from deeprelax_ase import cli
from tests.stand_in import StandInPredictor

#: What the command line makes its predictions with.
PREDICTOR = "deeprelax_ase.prediction.predictor.Predictor"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The models and devices that the command line asked for; it gets the stand-in."""
    asked = []

    def load(model, *, device, **options):
        given = (item for item in options.items() if item[1] not in (None, False, "float32"))  # no defaults
        asked.append((model, device, *given))
        return StandInPredictor()

    monkeypatch.setattr(PREDICTOR, load)
    return asked


@pytest.fixture
def deeprelax(asked) -> Callable[..., Result]:
    """Runs the command line."""
    return lambda *arguments: CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture
def crystals() -> list[Atoms]:
    made = [bulk("Cu", "fcc", a=3.6 + 0.1 * k, cubic=True) for k in range(3)]
    for k, atoms in enumerate(made):
        atoms.info["id"] = f"crystal {k}"
    return made


@pytest.fixture
def mixed(crystals: list[Atoms]) -> list[Atoms]:
    """Six frames, of which the second, fourth and last cannot be relaxed."""
    molecule, helium = Atoms("H2", [[0, 0, 0], [0, 0, 0.7]]), bulk("He", "fcc", a=4.2)
    wire = crystals[0].copy()
    wire.pbc = (True, False, False)
    return [crystals[0], molecule, crystals[1], helium, crystals[2], wire]
