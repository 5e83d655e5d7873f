"""``deeprelax ensemble``: members of runs become a model that loads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from deeprelax_ase import cli, load_model
from deeprelax_ase.training.export import write_member
from tests.models.small_models import SMALL_E3, WORDS, networks


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["ensemble", *map(str, arguments)])


@pytest.fixture
def members(tmp_path: Path) -> list[Path]:
    files = [tmp_path / f"member{m}.safetensors" for m in range(2)]
    for seed, (network, file) in enumerate(zip(networks(2, SMALL_E3), files, strict=True)):
        write_member(network, file, seed=seed)
    return files


@pytest.fixture
def card(tmp_path: Path) -> Path:
    file = tmp_path / "card.json"
    file.write_text(json.dumps({"name": "joined", "level": "PBE", **WORDS}))
    return file


def test_members_become_a_model(members: list[Path], card: Path, tmp_path: Path) -> None:
    result = run(*members, "--card", card, "-o", tmp_path / "models")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("joined: 2 members of ")
    assert len(load_model(tmp_path / "models" / "joined.json").networks) == 2


@pytest.mark.filterwarnings("default:left out, as")
def test_what_was_fitted_to_other_weights_is_told(members: list[Path], card: Path, tmp_path: Path) -> None:
    card.write_text(json.dumps({**json.loads(card.read_text()), "metrics": {"test": 1.0}, "sha256": "0" * 64}))
    result = run(*members, "--card", card, "-o", tmp_path / "models")
    assert result.exit_code == 0, result.output
    assert "of other weights than these: metrics." in " ".join(result.stderr.split())


def test_what_is_no_member_or_no_card_is_told(members: list[Path], card: Path, tmp_path: Path) -> None:
    for given, reason in (
        ((card, "--card", card), "is no member that training wrote"),
        ((tmp_path / "nowhere.safetensors", "--card", card), "is no member that training wrote"),
        ((*members, "--card", members[0]), "is no JSON with the name"),
        ((*members, "--card", tmp_path / "nowhere.json"), "is no JSON with the name"),
    ):
        result = run(*given, "-o", tmp_path / "models")
        assert result.exit_code == 2, result.output
        assert reason in " ".join(result.stderr.split())
        assert "Traceback" not in result.output
    assert not (tmp_path / "models").exists()
