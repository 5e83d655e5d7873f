"""Fixtures shared by all tests: sample crystals, the relaxation pairs beside the repository, seeded randomness."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache, wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.testing
from hypothesis import settings

from tests.checked_shapes import check_shapes_of  # before the package

# isort: split
from deeprelax_ase.crystal import Crystal
from deeprelax_ase.graph.matgl_import import runs_on_dgl
from deeprelax_ase.models.loading import load_model
from deeprelax_ase.models.model import Model
from deeprelax_ase.models.registry import DEFAULT_MODEL, available_models
from deeprelax_ase.prediction.predictor import Predictor
from tests.crystals import BY_DISTANCES, END_TO_END
from tests.ensembles import ensemble_of

# Seeded and without files of its own; no deadline, because the machine may be busy.
settings.register_profile("deeprelax", derandomize=True, database=None, deadline=None, max_examples=20)
settings.load_profile("deeprelax")

# The commands are made once: typer makes all of them anew for each call, which takes longer than most calls.
typer.testing._get_command = cache(typer.testing._get_command)

#: Fixtures of synthetic pairs; ASE's quickest calculators and its filter, quicker.
pytest_plugins = ["tests.pairs", "tests.neighbors", "tests.logarithms", "tests.comparisons"]

PairArrays = dict[str, np.ndarray]


def pytest_configure(config: pytest.Config) -> None:
    gc.disable()  # until all tests are collected: these and what they import stay, see below
    config.addinivalue_line("markers", "optimize: a mark in ASE's own tests, see tests/optimizers/ase_suite")
    config.addinivalue_line("markers", "shapes: shapes of tensors are checked, see tests/checked_shapes.py")


def pytest_collection_finish() -> None:
    """Look for garbage again, never among what stays: it took a third of the collection and a sixth of the tests."""
    gc.enable()
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    check_shapes_of(item)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240400865)


@pytest.fixture(scope="session")
def needs_matgl() -> None:
    """Skips the test where no MatGL is installed, of whatever version; a broken installation fails it."""
    if find_spec("matgl") is None:
        pytest.skip("MatGL is not installed")


@pytest.fixture(scope="session")
def needs_dgl(needs_matgl: None) -> None:
    """Skips the test where MatGL does not run on DGL."""
    if not runs_on_dgl():
        pytest.skip("the installed MatGL does not run on DGL")


@pytest.fixture(scope="session")
def shipped() -> Callable[[str], Model]:
    """``shipped("DeepRelax-PBE")``: a model, loaded once."""
    return cache(load_model)


@pytest.fixture(scope="session", autouse=True)
def loaded_once(shipped: Callable[[str], Model]) -> Iterator[None]:
    """Predictors of shipped models by name take what was read once; the tests of loading read them."""
    names, made = {card.name for card in available_models()}, Predictor.__init__

    @wraps(made)
    def make(self: Predictor, model: str | os.PathLike | Model = DEFAULT_MODEL, **options: Any) -> None:
        made(self, shipped(model) if isinstance(model, str) and model in names else model, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Predictor, "__init__", make)
        yield


@pytest.fixture(scope="session", autouse=True)
def unflushed() -> Iterator[None]:
    """Files that tests write need not outlive a loss of power, which they would wait for the disk for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises, whatever the shell that runs the tests ignores."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.fixture(scope="module", params=[END_TO_END, BY_DISTANCES])
def model(request: pytest.FixtureRequest, shipped: Callable[[str], Model]) -> Model:
    """A shipped model of each architecture, as an ensemble."""
    return ensemble_of(shipped(request.param))


@pytest.fixture(scope="module")
def make(model: Model) -> Callable[..., Predictor]:
    """Predictors on the CPU that share their weights."""
    return lambda **kwargs: Predictor(**{"model": model, "device": "cpu", **kwargs})


@pytest.fixture(
    scope="module", params=[pytest.param(True, marks=pytest.mark.slow), False], ids=["symmetry kept", "symmetry free"]
)
def exact(model: Model, request: pytest.FixtureRequest) -> Predictor:
    """In double precision; of two end-to-end members: what each of them keeps, a larger ensemble keeps too."""
    members = 2 if model.card.name == END_TO_END else model.card.members
    few = Model(replace(model.card, members=members), model.networks[:members])
    return Predictor(few, device="cpu", dtype="float64", keep_symmetry=request.param)


@pytest.fixture(scope="module")
def predictor(make: Callable[..., Predictor]) -> Predictor:
    return make()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of development data; it lies beside the repository unless DEEPRELAX_SHARED says otherwise."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    return Path(os.environ.get("DEEPRELAX_SHARED", beside))


@pytest.fixture(scope="session")
def data_pairs(shared: Path) -> Callable[[str], PairArrays]:
    """``data_pairs("universal")``: the arrays of ``data/pairs_universal.npz``; skips the test where it is absent."""

    @cache
    def load(name: str) -> PairArrays:
        path = shared / "data" / f"pairs_{name}.npz"
        if not path.is_file():
            pytest.skip(f"{path} is absent")
        with np.load(path) as arrays:
            return {key: arrays[key] for key in arrays.files}

    return load


@pytest.fixture(scope="session")
def data_crystals(data_pairs: Callable[[str], PairArrays]) -> Callable[..., list[Crystal]]:
    """``data_crystals("xmno", [0, 5], which="initial")``: crystals of a file of pairs."""

    def crystals(name: str, indices: Iterable[int], *, which: str = "initial") -> list[Crystal]:
        pairs = data_pairs(name)
        made = []
        for k in indices:
            atoms = slice(pairs["offsets"][k], pairs["offsets"][k + 1])
            cell = pairs[f"cell_{which}"][k].astype(np.float64)
            made.append(Crystal(pairs["numbers"][atoms], pairs[f"frac_{which}"][atoms].astype(np.float64) @ cell, cell))
        return made

    return crystals


@pytest.fixture(scope="session")
def sample_crystals() -> dict[str, Crystal]:
    """Small crystals of every awkward shape."""
    triclinic = np.array([[4.1, 0.0, 0.0], [1.3, 4.7, 0.0], [-0.9, 1.1, 5.6]])
    skewed = np.array([[4.0, 0.0, 0.0], [0.0, 4.2, 0.0], [33.0, -27.0, 4.4]])
    thin = np.diag([2.3, 7.0, 8.0])
    rocksalt = [[0, 0, 0], [0, 2, 2], [2, 0, 2], [2, 2, 0], [2, 0, 0], [0, 2, 0], [0, 0, 2], [2, 2, 2]]
    hexagonal = np.array([[3.2, 0, 0], [-1.6, 1.6 * 3**0.5, 0], [0, 0, 5.2]])
    return {
        "rocksalt": Crystal([11] * 4 + [17] * 4, np.array(rocksalt) / 4 * 5.64, np.eye(3) * 5.64),
        "hcp": Crystal([12, 12], [[0.0, 0.0, 0.0], *([[1 / 3, 2 / 3, 0.5]] @ hexagonal)], hexagonal),
        "triclinic": Crystal(
            [22, 8, 8, 38],
            [[0.1, 0.2, 0.3], [2.1, 0.4, 0.9], [0.3, 2.6, 1.1], [2.0, 2.7, 3.9]],
            triclinic,
        ),
        "one atom": Crystal([29], [[0.3, -0.1, 0.2]], (np.ones((3, 3)) - np.eye(3)) * 1.805),
        "one atom, cubic": Crystal([84], [[0.0, 0.0, 0.0]], np.eye(3) * 3.0),
        "thin": Crystal([6, 7, 8], [[0.0, 0.0, 0.0], [1.1, 2.0, 3.0], [0.2, 5.1, 5.5]], thin),
        "skewed": Crystal([13, 7], [[0.1, 0.0, 0.2], [2.2, 1.9, 1.7]], skewed),
        "unwrapped": Crystal([12, 8], [[9.0, -30.0, 0.5], [2.3, 2.2, 71.0]], np.diag([4.0, 4.1, 4.3])),
        "sparse": Crystal([18, 18], [[0.0, 0.0, 0.0], [3.0, 0.0, 0.0]], np.eye(3) * 20.0),
        "left-handed": Crystal([14, 14], [[0.0, 0.0, 0.0], [1.4, 1.3, 1.5]], np.diag([3.9, 4.0, -4.2])),
    }
