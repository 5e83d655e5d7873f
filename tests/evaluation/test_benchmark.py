"""What a model and its baselines are measured by."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.emt import EMT

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.data import RelaxationPairs, crystals_of
from deeprelax_ase.evaluation import baselines
from deeprelax_ase.evaluation.baselines import BASELINES, Limits, Relaxed, ase_optimizer
from deeprelax_ase.evaluation.benchmark import METRICS, bench, bins
from deeprelax_ase.evaluation.benchmark_page import markdown
from deeprelax_ase.models.card import ModelCard
from deeprelax_ase.models.registry import card_file_of
from tests.pairs import make_pairs


def name_of(model: str) -> str:
    """The row of a model as it ships."""
    card = ModelCard.read(card_file_of(model))
    return f"{model}, {card.recycles} x {card.members}"


NAME = name_of("DeepRelax-PBE")


@pytest.fixture(scope="module")
def pairs() -> RelaxationPairs:
    made = make_pairs(6)
    return made.double()


@pytest.fixture(scope="module")
def found(pairs: RelaxationPairs) -> dict:
    return bench(pairs, "DeepRelax-PBE", baselines=["nothing"], device="cpu", others={"the answer": _answer(pairs)})


def _answer(pairs: RelaxationPairs):
    """A baseline that knows it all, at three calls for each crystal."""
    end = crystals_of(pairs, "relaxed")
    return lambda crystals, advance: Relaxed(end[: len(crystals)], calls=3.0, converged=1.0)


def test_errors_are_those_of_what_was_made(found: dict, pairs: RelaxationPairs) -> None:
    assert found["crystals"] == 6
    rows = found["rows"]
    assert rows["the answer"]["coordinates"] == pytest.approx(0, abs=1e-9)
    assert rows["the answer"]["relative_volume"] == pytest.approx(0, abs=1e-9)
    volumes = [torch.linalg.det(cell).abs() for cell in (pairs.cell_initial, pairs.cell_relaxed)]
    expected = float((volumes[0] / volumes[1] - 1).abs().mean())
    assert rows["nothing done"]["relative_volume"] == pytest.approx(expected)
    assert rows[NAME]["crystals_per_second"] > 0


def test_uncertainty_is_told(found: dict) -> None:
    told = found["uncertainty"]
    for quantity in ("coordinates", "relative_volume"):
        assert 0 <= told[quantity]["coverage"] <= 1
        assert told[quantity]["expected"] > 0


def test_uncertainty_by_bins() -> None:
    expected = np.linspace(0.1, 1.0, 40)[::-1]
    found = bins(2 * expected, expected)
    assert [part["crystals"] for part in found] == [10, 10, 10, 10]
    assert found[0]["expected"] < found[-1]["expected"]
    for part in found:
        assert part["error"] == pytest.approx(2 * part["expected"])


def test_one_by_one_is_a_row_of_its_own(found: dict) -> None:
    batched, alone = (found["rows"][f"{NAME}{how}"] for how in ("", ", one by one"))
    for metric in METRICS:
        assert alone[metric] == pytest.approx(batched[metric], abs=1e-4)


def test_a_page_and_json(found: dict) -> None:
    json.dumps(found, allow_nan=False)
    text = markdown(found, "a title")
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    names = [line.split("|")[1].strip() for line in lines]
    assert names.index("the answer") < names.index(NAME)  # the faster first
    assert "| the answer |" in text
    assert "3.0 | 100% | 0.000" in text


def test_what_is_not_installed_or_breaks_costs_its_row(pairs: RelaxationPairs, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(limits: Limits):
        raise ImportError("no such | library")

    def broken(crystals, advance):
        raise RuntimeError("out of memory")

    monkeypatch.setitem(BASELINES, "fire", absent)
    monkeypatch.setitem(BASELINES, "lbfgs", lambda limits: broken)
    few, names = pairs.take(torch.arange(2)), ["fire", "lbfgs", "nothing"]
    found = bench(few, "DeepRelax-M3GNet", baselines=names, others={"mine": broken}, device="cpu")
    titles, rows = baselines.TITLES, found["rows"]
    assert rows[titles["fire"]] == {"failed": "ImportError: no such | library"}
    assert rows[titles["lbfgs"]] == rows["mine"] == {"failed": "RuntimeError: out of memory"}
    assert rows["nothing done"]["coordinates"] > 0
    assert "not measured: ImportError: no such / library" in markdown(found, "x")


def test_unknown_baselines_are_refused(pairs: RelaxationPairs) -> None:
    with pytest.raises(ValueError, match="Unknown baselines"):
        bench(pairs, "DeepRelax-PBE", baselines=["magic"], device="cpu")


def test_force_calls_with_and_without_the_jump(pairs: RelaxationPairs, monkeypatch: pytest.MonkeyPatch) -> None:
    end = crystals_of(pairs, "relaxed")

    def made(limits: Limits):
        def relax(crystals, advance):
            near = np.mean([abs(c.volume / e.volume - 1) for c, e in zip(crystals, end, strict=False)])
            return Relaxed(end[: len(crystals)], calls=1 + 100 * near, converged=1.0)

        return relax

    monkeypatch.setitem(BASELINES, "lbfgs", made)
    found = bench(pairs, "DeepRelax-M3GNet", baselines=["lbfgs"], device="cpu")
    calls, rows = found["force_calls"], found["rows"]
    assert calls["from"] == baselines.TITLES["lbfgs"]
    assert calls["unrelaxed"] > 1
    assert calls["jumped"] != calls["unrelaxed"]
    after = rows[f"jump, then {baselines.TITLES['lbfgs']}"]
    assert after["crystals_per_second"] < rows[name_of("DeepRelax-M3GNet")]["crystals_per_second"]  # the jump counts
    assert "6 of 6 relaxed crystals are not M3GNet's minima" in markdown(found, "x")


def test_ase_relaxes_one_by_one_and_failures_cost_themselves() -> None:
    good, bad = Crystal.of(bulk("Cu", a=3.8)), Crystal.of(bulk("MgO", "rocksalt", a=4.2))  # EMT knows no Mg
    told = []
    made = ase_optimizer("LBFGS", EMT, Limits(fmax=0.01))([good, bad], lambda: told.append(1))
    assert made.failed == 1
    assert made.converged == 0.5
    assert made.crystals[0].volume == pytest.approx(bulk("Cu", a=3.59).get_volume(), rel=0.01)
    assert made.crystals[1] is bad
    assert len(told) == 2


def test_volumes_by_bond_lengths() -> None:
    predictors = pytest.importorskip("pymatgen.analysis.structure_prediction.volume_predictor")
    squeezed = Crystal.of(bulk("MgO", "rocksalt", a=3.9))
    made = baselines.volumes(Limits())([squeezed], lambda: None)
    np.testing.assert_allclose(made.crystals[0].fractional_positions, squeezed.fractional_positions, atol=1e-9)
    own = predictors.DLSVolumePredictor().get_predicted_structure(squeezed.to_structure())
    assert made.crystals[0].volume == pytest.approx(own.volume)
    assert made.crystals[0].volume > 1.02 * squeezed.volume
