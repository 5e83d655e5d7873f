from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from deeprelax_ase.models.card import ModelCard
from deeprelax_ase.models.loading import load_model
from deeprelax_ase.training import train
from tests.training.runs import E3, QUICK

ROOT = Path(__file__).resolve().parents[2]


def environment(**more: str) -> dict[str, str]:
    """That of this process, one thread each, and nothing of an earlier training in several processes."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE")}
    return {**inherited, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **more}


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what two processes on the CPU have trained, see two_processes.py."""
    out = tmp_path_factory.mktemp("together")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "NODE_RANK": "0"}
    command = [sys.executable, str(Path(__file__).with_name("two_processes.py")), str(out)]
    processes = [
        subprocess.Popen(
            command,
            env=environment(**address, LOCAL_RANK=str(rank)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    return out


@pytest.mark.slow
def test_both_processes_end_with_the_same_network(together: Path) -> None:
    first, second = (torch.load(together / f"{rank}.pt", weights_only=True)["whole"] for rank in range(2))
    assert first.keys() == second.keys()
    for key, weight in first.items():
        assert torch.equal(weight, second[key]), key


@pytest.mark.slow
def test_an_interrupted_run_ends_as_an_uninterrupted_one(together: Path) -> None:
    saved = torch.load(together / "1.pt", weights_only=True)
    for key, weight in saved["whole"].items():
        assert torch.equal(weight, saved["pieces"][key]), key


@pytest.mark.slow
def test_one_of_them_writes_for_both(together: Path) -> None:
    whole, refs = (
        [json.loads(line) for line in (together / name / "log.jsonl").read_text().splitlines()]
        for name in ("whole", "pieces")
    )
    assert [line["step"] for line in whole if "loss" in line] == [4, 8, 12, 16, 20, 24]
    for name in ("loss", "validation error"):
        assert [line[name] for line in whole if name in line] == [line[name] for line in refs if name in line]
    assert json.loads((together / "whole" / "settings.json").read_text())["steps"] == 24


@pytest.mark.slow
def test_each_has_random_numbers_and_predictions_of_its_own(together: Path) -> None:
    one, other = torch.load(together / "whole" / "checkpoint.ckpt", weights_only=True)["tasks"]
    for name in ("generator", "cell"):
        assert not torch.equal(one[name], other[name]), name


@pytest.mark.slow
def test_a_run_of_two_does_not_go_on_alone(together: Path, pairs_of) -> None:
    with pytest.raises(ValueError, match="begun on 2 devices and cannot go on on 1"):
        train(pairs_of(12, dtype=torch.float32), E3, replace(QUICK, energy_weight=1.0), together / "pieces")


@pytest.mark.slow
def test_the_command_line_trains_on_several(values_of: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """It starts the other processes itself; a time limit stops all of them."""
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values_of(**{"training.max_steps": 30})))
    command = [sys.executable, "-m", "deeprelax_ase.cli", "train", str(tmp_path / "run.yaml")]
    command += ["--set", "devices=2", "--set", "device=cpu", "--set", "members=2"]

    def call(*arguments: str, code: int) -> str:
        run = [*command, *arguments]
        done = subprocess.run(run, env=environment(), capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stderr

    assert "the time limit came first" in call("--time-limit", "0", code=1)
    assert not (tmp_path / "run" / "tiny.json").exists()
    call(code=0)
    assert ModelCard.read(tmp_path / "run" / "tiny.json").members == 2
    assert len(load_model(tmp_path / "run" / "tiny.json").networks) == 2
