"""``deeprelax learn``: what it says, where the page is, and its exit codes; the loop is tested in tests/learning."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from deeprelax_ase import cli
from deeprelax_ase.learning import LearnSettings, Round
from tests.labelling.alloys import EMT_NAME

pytest.importorskip("lightning", reason="needs Lightning")
pytest.importorskip("crepes", reason="needs crepes")
pytest.importorskip("pyarrow", reason="needs pyarrow")
pytest.importorskip("plotly", reason="needs plotly")


def rounds(*errors: float) -> list[Round]:
    return [
        Round(n, 50 * n, 48 * n, f"model-{n}", error, 0.3 * error, 0.7 * error, 2.0, 0.4, force_calls=100 * n)
        for n, error in enumerate(errors)
    ]


@pytest.fixture
def asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[LearnSettings]:
    """The settings that the command asks for; the loop is not run, and comes to two rounds."""
    asked: list[LearnSettings] = []
    Path("pool.extxyz").touch()

    def learn(sources, out, settings, *, workers, observe, finished):
        asked.append(settings)
        assert (sources, workers) == (["pool.extxyz"], 0)
        Path(out).mkdir()
        made = rounds(0.2, 0.1)
        observe("labelling", 1)
        for n in range(len(made)):
            finished(made[: n + 1])
        return made

    monkeypatch.setattr("deeprelax_ase.learning.learn", learn)
    return asked


def run(*arguments: object) -> Result:
    given = ("learn", "start.json", "pool.extxyz", "-c", EMT_NAME, "--workers", 0, *arguments)
    return CliRunner().invoke(cli.app, [str(argument) for argument in given])


def test_each_round_is_told_and_drawn(asked: list[LearnSettings]) -> None:
    result = run("--choose", "error", "--each", 7, "--epochs", 2, "--fmax", 0.1, "--set", "training.clip=3")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "as it is: error 0.2 Å (unrelaxed 0.4 Å), volume 2 Å³",
        "round 1: 50 labelled, 48 pairs, 100 force calls; error 0.1 Å (unrelaxed 0.4 Å), volume 2 Å³",
        "use it with --model model-1",
    ]
    (settings,) = asked
    assert (settings.model, settings.choice, settings.each, settings.epochs) == ("start.json", "error", 7, 2)
    assert (settings.label.calculator, settings.label.fmax, settings.level) == (EMT_NAME, 0.1, "PBE")
    assert settings.changes == ("training.clip=3",)
    assert "crystals labelled" in Path("learnt/learning.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("target", "code"), [(0.15, 0), (0.05, 1)])
def test_the_exit_code_says_whether_the_target_is_reached(asked, target: float, code: int) -> None:
    assert run("--target", target, "-q").exit_code == code


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--choose", "best"), "Unknown --choose best"),
        (("--finish", "downhill"), "does not relax in batches"),
        (("--beside", "nowhere"), "nowhere holds no loop of learning"),
    ],
)
def test_refusals_show_before_the_work(asked, options: tuple[str, str], told: str) -> None:
    result = run(*options)
    assert (result.exit_code, asked) == (2, [])
    assert told in result.stderr


def test_what_is_wrong_with_the_pool_is_told(folder: Path) -> None:
    result = run()
    assert result.exit_code == 2
    assert "pool.extxyz: no such file" in result.stderr
