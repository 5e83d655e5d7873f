"""What predictions and optimizers show of themselves, in a line and in notebooks."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT

from deeprelax_ase import DeepRelaxOptimizer, Prediction
from deeprelax_ase.prediction.display import html_table
from deeprelax_ase.uncertainty.calibration import CalibratedError
from tests.stand_in import SHRINKAGE, StandInPredictor

ERROR = CalibratedError(coordinates=0.0123, coordinates_bound=0.045, volume=0.0067, volume_bound=0.0234, ood=False)


class CountedEMT(EMT):
    """EMT that counts its calls."""

    calls = 0

    def calculate(self, *args, **kwargs):
        self.calls += 1
        super().calculate(*args, **kwargs)


class Table(HTMLParser):
    """The cells of a table; markup that is not closed in turn is an error."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag in ("th", "td", "caption"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.cells[-1] += data

    @property
    def rows(self) -> dict[str, str]:
        return dict(zip(self.cells[1::2], self.cells[2::2], strict=True))


def copper(*, rattle: float = 0.0) -> Atoms:
    atoms = bulk("Cu", "fcc", a=3.8, cubic=True)
    atoms.rattle(rattle, seed=1)
    return atoms


@pytest.fixture
def prediction() -> Prediction:
    return StandInPredictor(error=ERROR).predict(copper())


@pytest.fixture
def optimizer() -> DeepRelaxOptimizer:
    atoms = copper(rattle=0.05)
    atoms.calc = CountedEMT()
    return DeepRelaxOptimizer(atoms, predictor=StandInPredictor(), force_informed_steps=0, logfile=None)


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
                "<Prediction Cu4, 4 atoms: volume 54.87 → 50.08 Å³ (-8.7 %), largest displacement 0.000 Å, "
                "error 0.012 Å expected, uncertainty 0.040 Å; stand-in>"
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
        assert rows["within_error"] == "no"
        assert rows["model"] == "stand-in"

    def test_displacements_are_those_beyond_the_cell(self, prediction):
        positions = prediction.relaxed.positions.copy()
        positions[2] += [0.3, 0.0, 0.4]
        moved = replace(prediction, relaxed=prediction.relaxed.with_geometry(positions, prediction.relaxed.cell))
        rows = Table(moved._repr_html_()).rows
        assert rows["largest displacement"] == "0.500 Å"
        assert rows["mean displacement"] == "0.125 Å"

    def test_doubt_is_told(self, prediction):
        ood = replace(prediction, error=replace(ERROR, ood=True))
        assert "outside of what the model knows" in repr(ood)
        assert Table(ood._repr_html_()).rows["like what the model knows"].startswith("no")

    def test_a_settled_crystal(self, prediction):
        left = replace(prediction, relaxed=prediction.initial, within_error=True)
        assert "left as it is" in repr(left)
        assert Table(left._repr_html_()).rows["within_error"].startswith("yes")

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


class TestOptimizer:
    def test_before_the_run(self, optimizer):
        assert repr(optimizer) == "<DeepRelaxOptimizer Cu4, 4 atoms: jump not made yet, steps 0, not run yet>"
        rows = Table(optimizer._repr_html_()).rows
        assert rows["jump"] == "not made yet"
        assert rows["finish"] == "FIRE"
        assert "energy" not in rows
        assert "model" not in rows
        assert optimizer.atoms.calc.calls == 0

    def test_after_the_run(self, optimizer):
        assert optimizer.run(fmax=0.02, steps=200)
        calls = optimizer.atoms.calc.calls
        rows = Table(optimizer._repr_html_()).rows
        assert repr(optimizer).startswith(
            f"<DeepRelaxOptimizer Cu4, 4 atoms: jump kept, steps {optimizer.nsteps}, converged, energy "
        )
        assert optimizer.atoms.calc.calls == calls
        assert rows["status"] == "converged"
        assert rows["energy"] == f"{optimizer.atoms.get_potential_energy():.4f} eV"
        assert float(rows["fmax"].split()[0]) <= 0.02
        assert rows["jump"] == unescape(f"kept: {optimizer.decision.reason}")
        assert rows["model"] == "stand-in"
        assert rows["uncertainty"] == "0.040 Å"

    def test_between_two_steps(self, optimizer):
        for _ in optimizer.irun(fmax=1e-6, steps=3):
            pass
        assert ", steps 3, not converged, energy" in repr(optimizer)

    def test_a_jump_that_was_taken_back(self):
        atoms = bulk("Cu", "fcc", a=3.6, cubic=True)  # the stand-in shrinks what is small enough already
        atoms.calc = EMT()
        optimizer = DeepRelaxOptimizer(atoms, predictor=StandInPredictor(), logfile=None)
        optimizer.run(fmax=0.02, steps=50)
        assert ": jump taken back, " in repr(optimizer)
        assert Table(optimizer._repr_html_()).rows["jump"].startswith("taken back: it raises the energy")

    def test_atoms_that_moved_since_are_not_computed(self, optimizer):
        optimizer.run(fmax=0.02, steps=200)
        optimizer.atoms.rattle(0.1, seed=2)
        calls = optimizer.atoms.calc.calls
        assert "energy" not in repr(optimizer)
        assert "energy" not in Table(optimizer._repr_html_()).rows
        assert optimizer.atoms.calc.calls == calls

    def test_without_a_calculator(self):
        optimizer = DeepRelaxOptimizer(copper(), predictor=StandInPredictor(), logfile=None)
        optimizer.run()
        assert repr(optimizer) == "<DeepRelaxOptimizer Cu4, 4 atoms: jump kept, steps 1, predicted>"

    def test_calculators_that_cannot_tell_what_they_know(self, optimizer):
        class Broken(Calculator):
            implemented_properties = ("energy", "forces", "stress")

            def calculation_required(self, atoms, properties):
                raise RuntimeError("no")

        optimizer.atoms.calc = Broken()
        assert "energy" not in repr(optimizer)

    def test_subclasses_go_by_their_name(self):
        class Mine(DeepRelaxOptimizer):
            pass

        optimizer = Mine(copper(), predictor=StandInPredictor(), finish=None, logfile=None)
        assert repr(optimizer).startswith("<Mine Cu4")
        table = Table(optimizer._repr_html_())
        assert table.cells[0] == "Mine"
        assert table.rows["finish"] == "none"


def test_reasons_with_markup_are_escaped():
    class Failing(EMT):
        def calculate(self, atoms, properties, changes):
            if atoms.get_volume() < 50.5:
                raise RuntimeError("<br>&broken")
            super().calculate(atoms, properties, changes)

    atoms = copper()
    atoms.calc = Failing()
    optimizer = DeepRelaxOptimizer(atoms, predictor=StandInPredictor(), logfile=None)
    optimizer.run(fmax=10.0, steps=1)
    for _ in optimizer.irun(fmax=1e-9, steps=1):
        pass
    assert "<br>" not in optimizer._repr_html_()
    assert "<br>&broken" in Table(optimizer._repr_html_()).rows["jump"]
    assert np.isfinite(atoms.get_potential_energy())
