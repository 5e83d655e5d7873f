"""The loop of learning: what each round leaves on the disk, and that it goes on from there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ase.io import read, write
from safetensors.torch import load_file

pytest.importorskip("lightning", reason="needs Lightning")
pytest.importorskip("crepes", reason="needs crepes")
pytest.importorskip("pyarrow", reason="needs pyarrow")

from deeprelax_ase.data import LEVELS, PairDataset
from deeprelax_ase.errors import OutputError
from deeprelax_ase.labelling import LabelOptions
from deeprelax_ase.learning import LearnSettings, Round, learn, read_rounds
from deeprelax_ase.models.card import ModelCard
from deeprelax_ase.models.loading import save_model
from deeprelax_ase.nn import DeepRelaxE3, DeepRelaxE3Config
from tests.labelling.alloys import EMT_NAME, METALS, alloys

TINY = DeepRelaxE3Config(channels=8, num_blocks=1, layers_per_block=1, num_basis=8, levels=LEVELS)
QUICK = ("training.max_steps=3", "training.max_epochs=null")


@pytest.fixture
def model(tmp_path: Path) -> str:
    """The card of an untrained network that knows the alloys' elements."""
    from ase.data import atomic_numbers

    torch.manual_seed(0)
    about = dict.fromkeys(("description", "training_data", "split"), "")
    elements = [atomic_numbers[name] for name in METALS]
    save_model([DeepRelaxE3(TINY)], tmp_path, "start", level_of_theory="PBE", elements=elements, level="PBE", **about)
    return str(tmp_path / "start.json")


@pytest.fixture
def settings(model: str) -> LearnSettings:
    options = LabelOptions(EMT_NAME, finish="fast", fmax=0.05, device="cpu")
    return LearnSettings(options, model=model, held=8, each=4, budget=8, spread=2, changes=QUICK, device="cpu")


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    write(tmp_path / "pool.extxyz", alloys(30))
    return tmp_path / "pool.extxyz"


def places(folder: Path) -> list[int]:
    return [atoms.info["place"] for atoms in read(folder / "chosen.extxyz", ":")]


def told(rounds: list[Round]) -> list[Round]:
    """Without what differs from one run to another."""
    return [replace(one, seconds={}, model=Path(one.model).name) for one in rounds]


@pytest.mark.parametrize("choice", ["both", pytest.param("cover", marks=pytest.mark.slow)])
def test_rounds_label_and_learn_until_the_budget_is_used_up(
    pool: Path, settings: LearnSettings, tmp_path: Path, choice: str
) -> None:
    out, seen, settings = tmp_path / "out", list[int](), replace(settings, choice=choice)
    rounds = learn([pool], out, settings, workers=0, finished=lambda rounds: seen.append(len(rounds)))
    assert seen == [1, 2, 3]
    assert [one.labelled for one in rounds] == [0, 4, 8]
    assert rounds == read_rounds(out)
    assert rounds[0].model == settings.model
    held, first, second = places(out / "held"), places(out / "round-01"), places(out / "round-02")
    assert len({*held, *first, *second}) == len(held) + 8
    assert len(held) == 8
    formulas = [atoms.get_chemical_formula() for atoms in alloys(30)]
    assert not {formulas[n] for n in held} & {formulas[n] for n in (*first, *second)}
    for one in rounds[1:]:
        card = ModelCard.read(Path(one.model))
        assert one.error == card.metrics["test"]["coordinates"] + card.metrics["test"]["lattice"]
        assert one.unrelaxed == pytest.approx(rounds[0].unrelaxed, rel=1e-5)
        pairs = PairDataset.read(out / f"round-0{one.number}" / "pairs.npz")
        assert len(pairs.in_split("train")) == one.pairs == one.labelled
        assert len(pairs.in_split("test")) + len(pairs.in_split("validation")) == len(held)
        assert one.force_calls > 0
        assert one.expected is not None


@pytest.mark.slow
def test_it_goes_on_from_any_stage_to_the_same_end(pool: Path, settings: LearnSettings, tmp_path: Path) -> None:
    whole = learn([pool], tmp_path / "whole", settings, workers=0)
    for doing, number in (("labelling what is held out", 0), ("labelling", 1), ("training", 1), ("calibrating", 2)):

        def stop(now: str, at: int, doing: str = doing, number: int = number) -> None:
            if (now, at) == (doing, number):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            learn([pool], tmp_path / "out", settings, workers=0, observe=stop)
    rounds = learn([pool], tmp_path / "out", settings, workers=0)
    assert told(rounds) == told(whole)
    for one, other in zip(rounds[1:], whole[1:], strict=True):
        mine, its = (load_file(Path(r.model).with_suffix(".safetensors")) for r in (one, other))
        assert all(torch.equal(tensor, its[name]) for name, tensor in mine.items())
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    assert [Path(one.model).exists() for one in read_rounds(moved)] == [True] * 3


@pytest.mark.slow
def test_a_larger_budget_goes_on_and_other_settings_do_not(pool: Path, settings: LearnSettings, tmp_path: Path) -> None:
    out = tmp_path / "out"
    few = replace(settings, budget=3)
    assert [one.labelled for one in learn([pool], out, few, workers=0)] == [0, 3]
    assert [one.labelled for one in learn([pool], out, replace(settings, budget=6), workers=0)] == [0, 3, 6]
    with pytest.raises(OutputError, match="begun with other each: 4, now 5"):
        learn([pool], out, replace(few, each=5), workers=0)
    with pytest.raises(OutputError, match=r"begun with other label\.fmax"):
        learn([pool], out, replace(few, label=replace(few.label, fmax=0.01)), workers=0)
    write(pool, alloys(29))
    with pytest.raises(OutputError, match="begun with other inputs"):
        learn([pool], out, few, workers=0)
    with pytest.raises(OutputError, match="holds something else"):
        learn([pool], tmp_path, few, workers=0)


def test_the_target_ends_it(pool: Path, settings: LearnSettings, tmp_path: Path) -> None:
    rounds = learn([pool], tmp_path / "out", replace(settings, target=10.0), workers=0)
    assert len(rounds) == 1


@pytest.mark.slow
def test_chance_chooses_otherwise(pool: Path, settings: LearnSettings, tmp_path: Path) -> None:
    found = {}
    for choice in ("random", "error"):
        out = tmp_path / choice
        learn([pool], out, replace(settings, choice=choice, budget=4), workers=0)
        found[choice] = sorted(places(out / "round-01"))
        assert places(out / "held") == places(tmp_path / "random" / "held"), "the same crystals test both"
    assert found["random"] != found["error"]


@pytest.mark.slow
def test_the_pool_ends_it_where_nothing_else_can_be_predicted(
    pool: Path, settings: LearnSettings, tmp_path: Path
) -> None:
    crystals = alloys(14)
    for atoms in crystals[10:]:
        atoms.symbols[:] = "Al"  # unknown to the model
    write(pool, crystals)
    rounds = learn([pool], tmp_path / "out", replace(settings, held=4, each=50, budget=50, seed=3), workers=0)
    assert 0 < rounds[-1].labelled <= 10


@pytest.mark.parametrize(("group_by", "whole"), [("composition", True), ("chemical system", True), ("pair", False)])
def test_groups_are_held_out_whole(
    pool: Path, settings: LearnSettings, tmp_path: Path, group_by: str, whole: bool
) -> None:
    write(pool, alloys(18) * 2)
    given = replace(settings, group_by=group_by, held=9, target=10.0)
    learn([pool], tmp_path / "out", given, workers=0)
    held = places(tmp_path / "out" / "held")
    assert len(held) == 9
    twins = sum((place + 18) % 36 in held for place in held)
    assert (twins >= 8) == whole, "but for the last one, where the number is reached"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"choice": "best"}, "Unknown choice='best'"),
        ({"held": 3}, "held=3 must be at least 4"),
        ({"each": 0}, "each=0"),
        ({"level": "LDA"}, "Unknown level='LDA'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: LearnSettings, change: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        replace(settings, **change)


def test_too_few_crystals_are_refused(pool: Path, settings: LearnSettings, tmp_path: Path) -> None:
    write(pool, alloys(6))
    with pytest.raises(ValueError, match="left to learn from"):
        learn([pool], tmp_path / "out", replace(settings, held=6), workers=0)


def test_a_damaged_round_is_told(pool: Path, settings: LearnSettings, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="holds no loop of learning"):
        read_rounds(tmp_path)
    learn([pool], tmp_path / "out", replace(settings, target=10.0), workers=0)
    file = tmp_path / "out" / "round-00" / "round.json"
    file.write_text(json.dumps({"number": 0}))
    with pytest.raises(OutputError, match=r"round\.json is damaged"):
        read_rounds(tmp_path / "out")
