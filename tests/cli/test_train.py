"""``deeprelax train`` and ``deeprelax finetune``: options, messages, exit codes, and what is shown meanwhile."""

from __future__ import annotations

import logging
import signal
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from ase.build import bulk
from ase.io import write
from rich.console import Console
from typer.testing import CliRunner, Result

from deeprelax_ase import cli, load_model
from deeprelax_ase.cli.train import progress
from deeprelax_ase.models.loading import save_model
from deeprelax_ase.nn import DeepRelaxE3, DeepRelaxE3Config

TINY = {"channels": 8, "num_blocks": 1, "layers_per_block": 1, "num_basis": 8}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with pairs of eight crystals that shrink by 4 %, ``pairs``, and a run, ``run.yaml``."""
    monkeypatch.chdir(tmp_path)
    Path("pairs").mkdir()
    for k, name in enumerate(("MgO", "CaO", "SrO", "BaO", "NaCl", "KCl", "LiF", "NaF")):
        relaxed = bulk(name, "rocksalt", a=4.2 + 0.2 * k)
        unrelaxed = relaxed.copy()
        unrelaxed.set_cell(1.04 * relaxed.cell, scale_atoms=True)
        write(f"pairs/{name}.traj", [unrelaxed, relaxed])
    values = {
        "name": "tiny",
        "out": "run",
        "device": "cpu",
        "data": {"sources": ["pairs"], "fractions": [0.5, 0.25, 0.25]},
        "network": TINY,
        "training": {"max_steps": 3, "atoms_per_batch": 8, "log_every": 1},
    }
    Path("run.yaml").write_text(yaml.safe_dump(values))
    return tmp_path


@pytest.fixture
def model() -> str:
    """The card of an untrained ensemble of two."""
    torch.manual_seed(0)
    about = dict.fromkeys(("description", "training_data", "split"), "")
    networks = [DeepRelaxE3(DeepRelaxE3Config(**TINY, levels=("PBE", "M3GNet"))) for _ in range(2)]
    save_model(networks, ".", "start", level_of_theory="PBE", elements=[1], level="PBE", **about)
    return "start.json"


def deeprelax(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def words(text: str) -> str:
    return " ".join(text.split())


# -- train


def test_success_says_where_the_model_is_and_how_good() -> None:
    result = deeprelax("train", "run.yaml", "--set", "members=2", "--set", "training.max_steps=2")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "written to run/tiny.json; use it with --model run/tiny.json"
    for name in ("coordinates", "lattice", "volume"):
        assert f"test {name}: " in result.stdout
    assert "member 2, step 2: validation error" in result.stderr
    assert len(load_model("run/tiny.json").networks) == 2


def test_quiet_says_nothing() -> None:
    result = deeprelax("train", "run.yaml", "--quiet")
    assert (result.exit_code, result.output) == (0, "")
    assert Path("run/tiny.json").exists()


def test_a_time_limit_ends_with_a_code_of_its_own_and_the_same_command_goes_on() -> None:
    result = deeprelax("train", "run.yaml", "--time-limit", "0")
    assert result.exit_code == 1
    assert words(result.stderr).endswith("the time limit came first; `deeprelax train run.yaml` goes on")
    assert result.stdout == ""
    assert Path("run/member0/checkpoint.ckpt").exists()
    assert deeprelax("train", "run.yaml").exit_code == 0


def test_a_folder_that_was_begun_otherwise_is_refused() -> None:
    """The members there would pass for those of the new settings."""
    assert deeprelax("train", "run.yaml", "--time-limit", "0").exit_code == 1
    before = {file: file.read_bytes() for file in Path("run").rglob("*") if file.is_file()}
    result = deeprelax("train", "run.yaml", "--set", "training.learning_rate=1e-5")
    assert result.exit_code == 2
    assert "run was begun with other settings (training.learning_rate)" in words(result.stderr)
    assert {file: file.read_bytes() for file in Path("run").rglob("*") if file.is_file()} == before
    assert deeprelax("train", "run.yaml", "--set", "device=cpu", "--set", "name=mine").exit_code == 0


class PressCtrlC(logging.Handler):
    """Ctrl-C at the first record of a log."""

    def emit(self, record: logging.LogRecord) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_says_how_to_go_on(caplog: pytest.LogCaptureFixture) -> None:
    log, press = logging.getLogger("deeprelax_ase.training"), PressCtrlC()
    log.addHandler(press)
    with caplog.at_level(logging.INFO, logger=log.name):
        result = deeprelax("train", "run.yaml")
    log.removeHandler(press)
    assert result.exit_code == 130
    assert "interrupted; `deeprelax train run.yaml` goes on from the last checkpoint" in words(result.stderr)
    assert deeprelax("train", "run.yaml").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nowhere.yaml"], "nowhere.yaml cannot be read: No such file or directory"),
        (["run.yaml", "--set", "member=2"], "run.yaml: Unknown setting member; did you mean members?"),
        (["run.yaml", "--set", "training.patience=soon"], "training.patience"),
        (["run.yaml", "--set", "members"], "'members' is not NAME=VALUE"),
        (["run.yaml", "--set", "data.sources=[nowhere]"], "nowhere"),
        (["run.yaml", "--set", "data.fractions=[1, 0, 0]"], "no validation pairs"),
        (["run.yaml", "--set", "loggers=[mlflow]"], "Unknown logger 'mlflow'"),
        (["run.yaml", "--set", "initial=DeepRelax-SCAN"], "Unknown model 'DeepRelax-SCAN'"),
        (["run.yaml", "--set", "frozen=[heads]"], "No parameter begins with 'heads'"),
        (["run.yaml", "--time-limit", "-1"], "Invalid value for '--time-limit'"),
        ([], "Missing argument 'CONFIG.yaml'"),
    ],
)
def test_errors(arguments: list[str], reason: str) -> None:
    result = deeprelax("train", *arguments)
    assert result.exit_code == 2, result.output
    assert reason in words(result.stderr)
    assert "Traceback" not in result.output


# -- finetune


def test_finetuning_ends_with_a_model(model: str) -> None:
    given = ["--data", "pairs", "--epochs", 2, "--members", 1, "--freeze", "elements", "--device", "cpu"]
    result = deeprelax(
        "finetune", model, *given, "--out", "tuned", "--name", "mine", "--set", "training.learning_rate=1e-3"
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "written to tuned/mine.json; use it with --model tuned/mine.json"
    tuned = load_model("tuned/mine.json")
    assert (tuned.card.members, tuned.card.level) == (1, "PBE")
    assert tuned.card.training["settings"]["learning_rate"] == 1e-3
    assert tuned.card.training["initial"] == model
    before, after = (load_model(name).networks[0].state_dict() for name in (model, "tuned/mine.json"))
    assert torch.equal(before["elements.weight"], after["elements.weight"])
    assert not all(torch.equal(before[name], after[name]) for name in before)


def test_finetuning_stops_at_a_time_limit(model: str) -> None:
    result = deeprelax("finetune", model, "--data", "pairs", "--time-limit", 0, "--device", "cpu")
    assert result.exit_code == 1
    assert "the time limit came first; `the same command` goes on" in words(result.stderr)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["start.json", "--data", "pairs", "--members", "3"], "--members 3 must be between 1 and 2, the size of start"),
        (["start.json", "--data", "pairs", "--level", "SCAN"], "Unknown --level SCAN"),
        (["start.json", "--data", "pairs", "--set", "training.clp=1"], "did you mean training.clip?"),
        (["start.json", "--data", "pairs", "--level", "OAM"], "relaxed to ['OAM'], which the network's levels"),
        (["start.json", "--data", "pairs", "--freeze", "heads"], "Invalid value for '--freeze'"),
        (["nowhere.json", "--data", "pairs"], "no model card nowhere.json"),
        (["start.json", "--data", "nowhere"], "nowhere"),
        (["start.json"], "Missing option '--data'"),
    ],
)
def test_errors_of_finetuning(model: str, arguments: list[str], reason: str) -> None:
    result = deeprelax("finetune", *arguments)
    assert result.exit_code == 2, result.output
    assert reason in words(result.stderr)
    assert "Traceback" not in result.output


# -- without the extra


@pytest.mark.parametrize("command", ["train", "finetune"])
def test_without_lightning_it_says_what_to_install(command: str, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "lightning" else find(name))
    result = deeprelax(command, *(["run.yaml"] if command == "train" else [model, "--data", "pairs"]))
    assert result.exit_code == 2
    assert 'lightning is not installed: pip install "deeprelax-ase[training]"' in words(result.stderr)


# -- progress


LEARNT = {"step": 5, "progress": 0.25, "loss": 1.23456, "crystals_per_second": 321}
VALIDATED = {"step": 6, "validation error": 0.0123456, "validation loss": 3.0}


def shown(records: list[tuple[int, dict[str, Any]]], *, terminal: bool, quiet: bool = False) -> str:
    console = Console(file=StringIO(), force_terminal=terminal, width=150, color_system=None)
    with progress(console, 2, quiet=quiet) as observe:
        for member, record in records:
            observe(member, record)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_terminal_shows_a_bar_for_each_member() -> None:
    output = shown([(0, LEARNT), (0, VALIDATED), (1, {**LEARNT, "progress": 1.0})], terminal=True)
    last = output.split("\r")[-1] if "\r" in output else output
    for text in ("member 1 of 2", "member 2 of 2", "25%", "100%", "loss 1.235", "crystals/s 321"):
        assert text in last or text in output, text
    assert "validation error 0.01235" in output


def test_elsewhere_there_is_a_line_for_each_validation() -> None:
    output = shown([(0, LEARNT), (0, VALIDATED), (1, VALIDATED)], terminal=False)
    assert output.splitlines() == [
        "member 1, step 6: validation error 0.012346",
        "member 2, step 6: validation error 0.012346",
    ]
    assert shown([(0, VALIDATED)], terminal=True, quiet=True) == ""
