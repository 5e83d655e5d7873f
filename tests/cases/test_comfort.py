"""Small things that were once in the way."""

from __future__ import annotations

import threading
import warnings

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.io import write
from typer.testing import CliRunner

from deeprelax_ase.cli import app
from deeprelax_ase.prediction.predictor import Predictor

OPTIONS = {"device": "cpu", "members": 1, "recycles": 1}


def test_threads_leave_the_filters_of_warnings_alone():
    predictor = Predictor(**OPTIONS)
    crystals = [bulk("NaCl", "rocksalt", a=5.4 + 0.05 * n) for n in range(4)]
    predictor.predict(crystals[0])
    before, seen = list(warnings.filters), []
    threads = [threading.Thread(target=lambda: list(predictor.predict_many(crystals))) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        seen.append(list(warnings.filters) == before)
    assert all(seen)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_predictions_do_not_depend_on_the_default_type(dtype):
    crystal = bulk("NaCl", "rocksalt", a=5.4)
    expected = Predictor(**OPTIONS).predict(crystal).relaxed
    torch.set_default_dtype(dtype)
    try:
        made = Predictor(**OPTIONS).predict(crystal).relaxed
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_array_equal(made.cell, expected.cell)
    np.testing.assert_array_equal(made.positions, expected.positions)


@pytest.mark.parametrize(
    "words",
    [
        ["screen", "in.extxyz", "--out", "s", "--recycles", "1000000000"],
        ["relax", "in.extxyz", "--recycles", "1000000000"],
        ["relax", "in.extxyz", "--calculator", "os:system"],
        ["screen", "in.extxyz", "--out", "s", "--calculator", "os:system"],
        ["screen", "in.extxyz", "--out", ""],
        ["relax", "in.extxyz", "-o", ""],
    ],
    ids=" ".join,
)
@pytest.mark.timeout(60)
def test_options_without_sense_are_refused_at_once(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    write("in.extxyz", bulk("NaCl", "rocksalt", a=5.5))
    result = CliRunner().invoke(app, [*words, "--device", "cpu"])
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert [path.name for path in tmp_path.iterdir()] == ["in.extxyz"]


def test_relax_and_screen_have_one_vocabulary():
    potential = ("--calculator", "--finish", "--fmax", "--steps", "--device", "--quiet")
    cost = ("--one-shot", "--recycles", "--members")
    trust = ("--on-uncertain", "--max-error", "--max-volume-error", "--fixed-cell")
    wanted = {"relax": potential + cost + trust, "bench": potential + cost, "label": (*potential, "--fixed-cell")}
    wanted["screen"] = wanted["relax"]
    for command, shared in wanted.items():
        told = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
        assert not [option for option in shared if option not in told], command


def test_the_list_of_models_fits_a_terminal():
    told = CliRunner().invoke(app, ["models"], env={"COLUMNS": "80"}).output
    assert max(len(line) for line in told.splitlines()) <= 80
    assert len(told.splitlines()) < 30
    assert "default" in told
    assert "…" not in told
