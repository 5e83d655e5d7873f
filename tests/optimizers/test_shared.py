from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

from deeprelax_ase.models.registry import DEFAULT_MODEL
from deeprelax_ase.optimizers import DeepRelaxOptimizer
from deeprelax_ase.optimizers.shared import _load, shared_predictor


@pytest.fixture
def loaded(monkeypatch, predictor):
    """Stands in for deeprelax_ase.prediction.predictor; lists the options of every predictor that was made."""
    made = []

    class Predictor:
        def __init__(self, model="default", *, device="auto", graph_backend="torch"):
            made.append((model, device, graph_backend))

        def predict(self, structure, *, relax_cell=True):
            return predictor.predict(structure, relax_cell=relax_cell)

    module = ModuleType("deeprelax_ase.prediction.predictor")
    module.Predictor = Predictor
    monkeypatch.setitem(sys.modules, "deeprelax_ase.prediction.predictor", module)
    _load.cache_clear()
    yield made
    _load.cache_clear()


def test_a_loop_over_crystals_loads_the_weights_once(make_atoms, loaded):
    for _ in range(3):
        DeepRelaxOptimizer(make_atoms(), logfile=None).run(steps=1)
    assert loaded == [(DEFAULT_MODEL, "auto", "torch")]


def test_predictor_is_loaded_at_the_jump(make_atoms, loaded):
    optimizer = DeepRelaxOptimizer(make_atoms(), logfile=None)
    optimizer.run(steps=0)
    assert loaded == []
    optimizer.run(steps=1)
    assert len(loaded) == 1


def test_options_tell_predictors_apart(loaded):
    first = shared_predictor("some-model")
    assert shared_predictor("some-model") is first
    assert shared_predictor("some-model", device="cpu") is not first
    assert shared_predictor("some-model", graph_backend="matgl") is not first
    assert loaded == [
        ("some-model", "auto", "torch"),
        ("some-model", "cpu", "torch"),
        ("some-model", "auto", "matgl"),
    ]


def test_files_are_loaded_anew(loaded, tmp_path):
    path = tmp_path / "model.safetensors"
    path.touch()
    for model in (str(path), path):
        assert shared_predictor(model) is not shared_predictor(model)
    assert len(loaded) == 4


def test_given_predictor_is_used(make_atoms, predictor, loaded):
    optimizer = DeepRelaxOptimizer(make_atoms(), logfile=None, predictor=predictor)
    assert optimizer.predictor is predictor
    optimizer.run(steps=1)
    assert predictor.asked == [True]
    assert loaded == []


def test_importing_the_optimizers_does_not_import_the_network():
    code = "import sys, deeprelax_ase.optimizers; print({'torch', 'dgl', 'matgl'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
