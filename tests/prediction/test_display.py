"""What predictions show of themselves, in a line and in notebooks."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from ase import Atoms
from ase.build import bulk

from deeprelax_ase import Prediction
from deeprelax_ase.prediction.display import html_table
from deeprelax_ase.uncertainty.calibration import CalibratedError
from tests.html_tables import Table
from tests.stand_in import SHRINKAGE, StandInPredictor

ERROR = CalibratedError(coordinates=0.0123, coordinates_bound=0.045, volume=0.0067, volume_bound=0.0234, ood=False)


def copper(*, rattle: float = 0.0) -> Atoms:
    atoms = bulk("Cu", "fcc", a=3.8, cubic=True)
    atoms.rattle(rattle, seed=1)
    return atoms


@pytest.fixture
def prediction() -> Prediction:
    return StandInPredictor(error=ERROR).predict(copper())


class TestTable:
    def test_text_is_no_markup(self):
        nasty = "<script>alert('&amp;')</script>"
        html = html_table(nasty, {nasty: nasty})
        assert "<script" not in html
        assert Table(html).cells == [nasty] * 3

    def test_it_is_nothing_but_a_table(self):
        assert re.fullmatch(r"<table>.*</table>", html_table("a", {"b": "c"}))


class TestPrediction:
    def test_the_line(self, prediction):
        assert (
            repr(prediction)
            == str(prediction)
            == (
                "<Prediction Cu4, 4 atoms: accepted; volume 54.87 → 50.08 Å³ (-8.7 %), largest displacement 0.000 Å; "
                "expected error 0.012 Å, volume 0.7 %; stand-in>"
            )
        )

    def test_the_table(self, prediction):
        rows = Table(prediction._repr_html_()).rows
        assert rows["crystal"] == "Cu4, 4 atoms"
        assert rows["volume"] == f"54.87 → {54.872 * SHRINKAGE**3:.2f} Å³ (-8.7 %)"
        assert rows["expected error, coordinates"] == "0.012 Å; below 0.045 Å in 9 of 10"
        assert rows["expected error, volume"] == "0.7 %; below 2.3 % in 9 of 10"
        assert rows["like what the model knows"] == "yes"
        assert rows["uncertainty"] == "0.040 Å"
        assert rows["judgement"] == "accepted"
        assert rows["model"] == "stand-in"

    def test_a_change_that_rounds_to_nothing_has_no_minus(self, prediction):
        start = prediction.initial
        shrunk = replace(prediction, relaxed=start.with_geometry(start.positions, (1 - 1e-9) * start.cell))
        assert "(+0.0 %)" in repr(shrunk)

    def test_displacements_are_those_beyond_the_cell(self, prediction):
        positions = prediction.relaxed.positions.copy()
        positions[2] += [0.3, 0.0, 0.4]
        moved = replace(prediction, relaxed=prediction.relaxed.with_geometry(positions, prediction.relaxed.cell))
        rows = Table(moved._repr_html_()).rows
        assert rows["largest displacement"] == "0.500 Å"
        assert rows["mean displacement"] == "0.125 Å"

    def test_doubt_is_told(self, prediction):
        ood = replace(prediction, error=replace(ERROR, ood=True))
        assert "uncertain: the crystal is unlike those that the model knows" in repr(ood)
        assert Table(ood._repr_html_()).rows["like what the model knows"].startswith("no")

    def test_a_crystal_within_the_expected_error(self, prediction):
        left = replace(prediction, relaxed=prediction.initial, unchanged="it would move by little")
        assert "unchanged: it would move by little;" in repr(left)
        assert Table(left._repr_html_()).rows["judgement"] == "unchanged: it would move by little"

    def test_a_cell_that_is_kept_is_not_off(self, prediction):
        kept = replace(prediction, error=ERROR.with_cell_kept())
        assert not any("expected error, volume" in name for name in Table(kept._repr_html_()).rows)

    def test_errors_that_are_not_calibrated_are_not_told(self, prediction):
        bare = replace(prediction, error=None)
        assert "expected" not in repr(bare)
        assert not any("expected" in name for name in Table(bare._repr_html_()).rows)

    def test_names_of_models_are_text(self, prediction):
        odd = replace(prediction, model="<b>mine</b>")
        assert "<b>" not in odd._repr_html_()
        assert Table(odd._repr_html_()).rows["model"] == "<b>mine</b>"

    def test_large_crystals_stay_a_line(self):
        large = StandInPredictor().predict(copper().repeat(6))
        assert len(repr(large)) < 200
        assert "\n" not in repr(large)
