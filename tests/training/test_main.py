"""``python -m deeprelax_ase.training``; in a process of its own in test_devices.py."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from deeprelax_ase.models.loading import load_model
from deeprelax_ase.training.__main__ import main


@contextmanager
def no_handlers() -> Iterator[None]:
    """Of the log, as where a command line starts; those of pytest come back."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    root.handlers = []
    try:
        yield
    finally:
        root.handlers = handlers
        root.setLevel(level)


@pytest.fixture
def call(values_of: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """``call("--set", "members=2")``: runs the command line."""
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(values_of()))

    def run(*arguments: str, config: Path = file) -> None:
        monkeypatch.setattr("sys.argv", ["training", str(config), *arguments])
        with no_handlers():
            main()

    return run


def test_it_trains_and_says_where_the_model_is(call, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("--set", "members=2", "--set", "training.max_steps=2", "--set", "network.channels=4")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(tmp_path / "run" / "tiny.json")
    assert any("'loss'" in line for line in lines)  # for machines where nobody looks at a progress bar
    model = load_model(lines[-1])
    assert (len(model.networks), model.config.channels) == (2, 4)


def test_a_time_limit_is_no_failure(call, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("--time-limit", "0")
    assert capsys.readouterr().out.splitlines()[-1] == "time limit reached; the same command goes on"
    assert not (tmp_path / "run" / "tiny.json").exists()
    call()
    assert (tmp_path / "run" / "tiny.json").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--set", "member=2"], "Unknown setting member; did you mean members?"),
        (["--set", "members"], "'members' is not NAME=VALUE"),
        (["--set", "data.sources=[a"], "is not a value"),
        (["--members", "2"], "unrecognized arguments: --members 2"),
    ],
)
def test_errors_are_those_of_usage(call, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        call(*arguments)
    assert stopped.value.code == 2
    assert reason in " ".join(capsys.readouterr().err.split())


def test_a_file_that_is_not_there_is_an_error(call, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        call(config=tmp_path / "nowhere.yaml")
    assert "nowhere.yaml cannot be read" in " ".join(capsys.readouterr().err.split())


def test_help_tells_the_options(call, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        call("--help")
    out = capsys.readouterr().out
    assert all(option in out for option in ("config", "--set NAME=VALUE", "--time-limit"))
