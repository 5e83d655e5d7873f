"""The cards of the shipped models: there is one for each, made of its JSON card and of what was measured."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import model_card_failures
import model_card_page
import model_cards
import numpy as np
import pytest
import torch
from ase.data import chemical_symbols
from model_card_failures import FILES
from never_worse import KINDS
from typer.testing import CliRunner

from deeprelax_ase import cli
from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.models.card import ModelCard
from deeprelax_ase.models.registry import WEIGHTS, available_models, card_page

HEADINGS = ["Data", "Elements", "Errors and coverage", "Known failures", "Licence", "How to reproduce it"]

cards = pytest.mark.parametrize("card", available_models(), ids=lambda card: card.name)


def figures(card: ModelCard, kind: str = "card") -> dict:
    file = model_card_page.RESULTS / f"{kind}-{card.name.removeprefix('DeepRelax-')}.json"
    return json.loads(file.read_text(encoding="utf-8"))


def section(page: str, heading: str) -> str:
    return page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


class TestShipped:
    @cards
    def test_page_is_what_the_generator_makes(self, card: ModelCard, tmp_path: Path):
        model_card_page.write_card(card.name, tmp_path)
        made = (tmp_path / f"{card.name}.md").read_text(encoding="utf-8")
        assert made == card_page(card.name), "run `make pages`"

    def test_there_is_no_page_without_a_model(self):
        assert {file.stem for file in WEIGHTS.glob("*.md")} == {card.name for card in available_models()}

    @cards
    def test_tells_what_must_be_known(self, card: ModelCard):
        page = card_page(card.name)
        assert re.findall(r"^## (.+)$", page, flags=re.MULTILINE) == [*HEADINGS, "Time and carbon"]
        assert f"Weights: {card.licence}" in section(page, "Licence")
        assert card.training["data_licences"] in section(page, "Licence")
        for text in (card.description, card.level_of_theory, card.training_data, card.split):
            assert text in page
        assert all(f"- {limit}\n" in section(page, "Known failures") + "\n" for limit in card.limits)
        commands = card.training.get("commands") or [card.training["command"]]
        assert all(text in section(page, "How to reproduce it") for text in (card.commit, card.sha256, *commands))
        assert "kWh" in section(page, "Time and carbon")
        assert "estimate" in section(page, "Time and carbon")

    @pytest.mark.parametrize("name", ["DeepRelax-PBE", "DeepRelax-M3GNet"])
    def test_tells_of_every_kind_of_crystal(self, name: str):
        told = section(card_page(name), "Errors and coverage")
        found = figures(ModelCard.read(WEIGHTS / f"{name}.json"), "kinds")["rows"]
        for kind in KINDS.values():
            start = f"| {kind} | {found[kind]['crystals']:,} | {found[kind]['end']['coordinates mean']:.3f} / "
            assert start in told

    def test_large_cells_are_told_of_the_model_that_was_measured(self):
        large = {
            "model": "DeepRelax-PBE",
            "atoms": [146, 288],
            "rows": {"all": {"crystals": 155, "further off": 0.135}},
        }
        large["rows"]["all"] |= {side: {"coordinates mean": 0.1} for side in ("end", "start")}
        assert "155 supercells of 146 to 288 atoms end 0.100 Å off" in model_card_failures.above_hundred(large)
        told = {name: section(card_page(name), "Known failures") for name in ("DeepRelax-PBE", "DeepRelax-M3GNet")}
        assert "supercells of" in told["DeepRelax-PBE"]
        assert "more than 100 atoms has not been measured" in told["DeepRelax-M3GNet"]

    @cards
    def test_elements_are_those_of_the_json_card(self, card: ModelCard):
        seen = figures(card)["elements"]
        assert list(seen) == [chemical_symbols[number] for number in card.elements]
        listed = section(card_page(card.name), "Elements")
        assert all(f" {name} {e['trained']:,} ({e['trained_dft']:,})" in listed for name, e in seen.items())

    @cards
    def test_metrics_agree_with_those_of_the_json_card(self, card: ModelCard):
        """Measured apart: `accuracy.py` wrote those of the JSON card before layers kept their vacuum."""
        rows, sets = figures(card)["groups"]["test set"], {k.rstrip(":"): v for k, v in card.metrics.items()}
        for data in ("universal", "X-Mn-O"):
            row = rows[f"{data}, DFT-labelled"]
            told = sets.get(f"{data} test, DFT-labelled") or sets[f"{data} test, DFT labels"]
            assert row["crystals"] == row["predicted"] == told["crystals"]
            for side, name in (("predicted", "coordinates MAE (Å)"), ("unrelaxed", "coordinates MAE unrelaxed (Å)")):
                assert row["coordinates"][side] == pytest.approx(told[name], abs=1e-4)

    @cards
    def test_groups_part_the_test_crystals(self, card: ModelCard):
        measured = figures(card)
        sizes = {name: measured["data"][name]["test"]["pairs"] for name in FILES}  # of others it has learnt alone
        for kind, rows in measured["groups"].items():
            size = sizes["pairs_universal"] if kind == "chemistry, universal" else sum(sizes.values())
            assert sum(r["crystals"] for r in rows.values()) == pytest.approx(size, abs=len(rows)), kind  # of rounding

    @cards
    def test_bounds_hold_for_nine_of_ten(self, card: ModelCard):
        row = figures(card)["groups"]["all"]["all"]
        assert ("within_bound" in row["coordinates"]) == bool(card.calibration)
        if card.calibration:
            assert row["coordinates"]["within_bound"] == pytest.approx(0.9, abs=0.03)
            assert row["relative_volume"]["within_bound"] == pytest.approx(0.9, abs=0.03)

    @cards
    def test_cost_follows_from_the_recorded_times(self, card: ModelCard):
        training = card.training
        seconds = training.get("seconds_per_member", 0) * card.members
        for stage in (stage for member in training.get("members", []) for stage in member["stages"]):
            if time := re.search(r"\((\d+) s( on a quarter of a GPU)?(?:, (\d+) of them on half a GPU)?\)", stage):
                seconds += int(time[1]) / (4 if time[2] else 1) - int(time[3] or 0) / 2
        hours, energy, carbon = seconds / 3600, seconds / 3600 * 0.7, seconds / 3600 * 0.7 * 0.48
        for told, value in ((r"([\d.]+) GPU hours", hours), (r"([\d.]+) kWh", energy), (r"([\d.]+) kg", carbon)):
            assert float(re.search(told, training["cost"])[1]) == pytest.approx(value, abs=0.005001)

    @cards
    def test_command_prints_it(self, card: ModelCard, monkeypatch):
        printed = CliRunner().invoke(cli.app, ["models", card.name.lower()])
        assert (printed.exit_code, printed.stdout) == (0, card_page(card.name))
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "100")
        rendered = re.sub(r"\x1b\[[\d;]*m", "", CliRunner().invoke(cli.app, ["models", card.name]).stdout)
        assert all(heading in rendered for heading in HEADINGS)
        assert "##" not in rendered
        assert max(map(len, rendered.splitlines())) <= 100

    def test_unknown_name(self):
        result = CliRunner().invoke(cli.app, ["models", "DeepRelax-LDA"])
        assert result.exit_code == 2
        assert "Unknown model 'DeepRelax-LDA', must be one of" in result.stderr


class TestPage:
    @pytest.mark.parametrize("change", [{"sha256": "0" * 64}, {"recycles": 7}])
    def test_figures_of_other_weights_are_refused(self, change: dict):
        card = available_models()[0]
        accuracy, latency = figures(card, "accuracy"), {}
        with pytest.raises(ValueError, match="measured with other weights or recycles; run"):
            model_card_page.markdown(replace(card, **change), figures(card), accuracy, latency)

    def test_kinds_that_end_further_off_are_named(self):
        def row(coordinates: tuple[float, float], volume: tuple[float, float]) -> dict:
            names = ("unrelaxed", "predicted")
            pairs = {"coordinates": coordinates, "relative_volume": volume}
            return {key: dict(zip(names, values, strict=True)) for key, values in pairs.items()}

        found = {
            "all": {"all": row((0.1, 0.2), (0.1, 0.2))},
            "chemistry, universal": {"good": row((0.1, 0.05), (0.1, 0.05)), "bad": row((0.1, 0.2), (0.1, 0.05))},
            "change of the volume": {"up to 5%": row((0.1, 0.05), (0.02, 0.04)), "over 5%": {"crystals": 3}},
        }
        assert model_card_failures.worse_than_nothing(found) == (
            "on average these are further off than they started: bad, in coordinates (0.2000 Å, unrelaxed 0.1000 Å); "
            "change of the volume up to 5 %, in volume (4.0 %, unrelaxed 2.0 %)"
        )


def pairs_of(
    *crystals: str, dft: tuple[int, ...] = (), moved: tuple[float, ...] = (), grown: float = 1.0
) -> RelaxationPairs:
    """Crystals of a chain of symbols each, in cubes of 10 Å that grow; the first atom moves by so many Å."""
    symbols = [re.findall("[A-Z][a-z]?", crystal) for crystal in crystals]
    numbers = torch.tensor([chemical_symbols.index(s) for part in symbols for s in part])
    counts = torch.tensor([len(part) for part in symbols])
    size = len(crystals)
    cell = 10 * torch.eye(3, dtype=torch.float64).expand(size, 3, 3)
    start = torch.zeros(len(numbers), 3, dtype=torch.float64)
    end = start.clone()
    end[counts.cumsum(0) - counts, 0] = torch.tensor(moved or (0.0,) * size, dtype=torch.float64) / 10
    zeros = torch.zeros(size, dtype=torch.long)
    return RelaxationPairs.without_forces(
        numbers=numbers,
        counts=counts,
        fractional_initial=start,
        fractional_relaxed=end,
        cell_initial=cell,
        cell_relaxed=cell * grown ** (1 / 3),
        dft=torch.tensor([k in dft for k in range(size)]),
        level=zeros,
        split=zeros,
        energy_relaxed=torch.zeros(size),
        kind=torch.full((size,), -1),
        fixed_cell=torch.zeros(size, dtype=torch.bool),
    )


def found_of(pairs: RelaxationPairs, **changes) -> model_cards.Found:
    size = len(pairs)
    errors = {name: np.zeros(size) for name in ("coordinates", "relative_volume")}
    ones, none = np.ones(size), np.zeros(size, dtype=bool)
    values = {"weights": ones, "before": errors, "after": errors, "within": {}, "ood": none, "universal": ~none}
    return model_cards.Found(pairs, **{**values, **changes})


class TestMeasuring:
    def test_thinned_crystals_stand_for_the_others(self):
        pairs = pairs_of(*["FeCo"] * 205, *["MgO"] * 3, dft=(0, 1, 2, 3, 4))
        taken, weights = model_cards.sample(pairs, 4)
        assert weights.sum() == pytest.approx(208)
        assert taken.dft.sum() == 5
        assert (taken.numbers == 8).sum() == 3  # of a rare chemistry all are taken
        assert len(taken) == 5 + 3 + 50
        assert sorted(set(weights)) == [1, 4]
        everything, weights = model_cards.sample(pairs, 1)
        assert (len(everything), set(weights)) == (208, {1})

    def test_rows_are_weighted_means(self):
        pairs = pairs_of(*["Fe"] * 12)
        after = {"coordinates": np.array([0.4] * 4 + [0.1] * 8), "relative_volume": np.full(12, 0.02)}
        before = {"coordinates": np.full(12, 0.2), "relative_volume": np.full(12, 0.1)}
        within = {"coordinates": np.arange(12) < 4, "relative_volume": np.ones(12, dtype=bool)}
        ood = np.arange(12) >= 4
        weights = np.array([4.0] * 4 + [1.0] * 8)
        found = found_of(pairs, weights=weights, before=before, after=after, within=within, ood=ood)
        row = model_cards.row(found, np.ones(12, dtype=bool))
        assert (row["crystals"], row["predicted"]) == (24, 12)
        assert row["coordinates"]["predicted"] == pytest.approx((16 * 0.4 + 8 * 0.1) / 24)
        assert row["coordinates"]["further_off"] == row["coordinates"]["within_bound"] == pytest.approx(2 / 3, abs=1e-5)
        assert row["relative_volume"]["further_off"] == 0
        spread = np.sqrt(4 * (4 * 0.1) ** 2 + 8 * 0.2**2) / 24
        assert row["coordinates"]["standard_error"] == pytest.approx(spread, abs=1e-5)
        assert row["ood"] == pytest.approx(1 / 3, abs=1e-5)

    def test_few_crystals_have_a_number_alone(self):
        found = found_of(pairs_of(*["Fe"] * 12))
        assert model_cards.row(found, np.arange(12) < 9) == {"crystals": 9, "predicted": 9}

    def test_groups(self):
        pairs = pairs_of("FeCoNiCu", "MgO" * 4, "MgO", dft=(1,), moved=(0.0, 0.3, 0.01), grown=1.08)
        found = found_of(pairs, universal=np.array([True, True, False]))
        shares = torch.ones(120)
        shares[27] = 0.001
        kinds = {
            kind: [[name for name, mask in masks.items() if mask[k]] for k in range(3)]
            for kind, masks in model_cards.groups(found, shares).items()
        }
        assert kinds["test set"] == [["universal, other labels"], ["universal, DFT-labelled"], ["X-Mn-O, other labels"]]
        assert kinds["atoms in the cell"] == [["up to 4"], ["over 4, up to 8"], ["up to 4"]]
        assert kinds["largest displacement (Å)"] == [["up to 0.02"], ["over 0.2, up to 0.5"], ["up to 0.02"]]
        assert kinds["change of the volume"] == [["over 5%, up to 10%"]] * 3
        assert kinds["chemistry, universal"] == [["metals alone"], ["oxides"], []]
        rare = "some in less than 1% of the training crystals"
        assert kinds["elements"] == [[rare], ["all in more"], ["all in more"]]
        assert "distribution" not in kinds

    def test_elements_are_counted_by_crystals(self):
        pairs = pairs_of("MgO", "MgMgO", "FeO", dft=(1,))
        every, labelled = (model_cards.counted(p) for p in (pairs, pairs.take(torch.tensor([1]))))
        trained = model_cards.Trained({"a": {"train": {"pairs": 3, "dft": 1}}}, every, labelled)
        seen = model_cards.elements(found_of(pairs_of("MgO", "CaO")), trained)
        as_before = model_cards.Trained.as_told({"data": trained.data, "elements": seen}, [], "relaxed")
        assert torch.equal(as_before.every, every)
        assert torch.equal(as_before.labelled, labelled)
        assert seen == {
            "O": {"trained": 3, "trained_dft": 1, "tested": 2},
            "Mg": {"trained": 2, "trained_dft": 1, "tested": 1},
            "Fe": {"trained": 1, "trained_dft": 0, "tested": 0},
        }
