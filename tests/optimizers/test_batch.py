"""Streams of frames: every frame is answered, in order, and a bad one does not stop the others."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from hypothesis import given
from hypothesis import strategies as st

from deeprelax_ase.errors import StructureFileError, UncertainPredictionError
from deeprelax_ase.io.frame import Frame
from deeprelax_ase.optimizers.batch import RelaxedFrame, finish_frames, predict_frames, write_frame
from deeprelax_ase.prediction.judgement import TrustLimits
from deeprelax_ase.prediction.result import RelaxationResult
from deeprelax_ase.prediction.status import ERROR_KEYS
from deeprelax_ase.uncertainty.calibration import CalibratedError
from tests.optimizers.helpers import CountingEMT
from tests.stand_in import SHRINKAGE, StandInPredictor

SURE = CalibratedError(0.03, 0.08, 0.02, 0.05, ood=False, novelty=0.4, odds_worse=0.02)
UNSURE = CalibratedError(0.03, 0.08, 0.02, 0.05, ood=True, novelty=1.4, odds_worse=0.2)


def good(label: str = "good") -> Frame:
    return Frame(label, bulk("Cu", "fcc", a=3.7, cubic=True))


def helium(label: str = "helium") -> Frame:
    return Frame(label, bulk("He", "fcc", a=4.2))


def molecule(label: str = "molecule") -> Frame:
    return Frame(label, Atoms("Cu2", [[0, 0, 0], [0, 0, 2.2]]))


def unreadable(label: str = "unreadable") -> Frame:
    return Frame(label, None, StructureFileError("cannot\n be read"))


def constrained(label: str = "constrained") -> Frame:
    frame = good(label)
    frame.atoms.set_constraint(FixAtoms([0]))
    return frame


FRAMES = {"good": good, "helium": helium, "molecule": molecule, "unreadable": unreadable, "constrained": constrained}
STATUS = {
    "good": "accepted",
    "helium": "refused",
    "molecule": "refused",
    "unreadable": "failed",
    "constrained": "refused",
}


class TestPredictFrames:
    @given(kinds=st.lists(st.sampled_from(sorted(FRAMES)), max_size=9))
    def test_one_outcome_for_each_frame_in_order(self, kinds):
        frames = [FRAMES[kind](f"{kind}@{k}") for k, kind in enumerate(kinds)]
        relaxed = list(predict_frames(frames, StandInPredictor()))
        assert [frame.label for frame in relaxed] == [frame.label for frame in frames]
        assert [frame.result.status for frame in relaxed] == [STATUS[kind] for kind in kinds]

    def test_a_relaxed_crystal(self):
        frame = good()
        frame.atoms.info.update(id=7, deeprelax_status="failed", deeprelax_reason="earlier", deeprelax_uncertainty=9.0)
        frame.atoms.calc = EMT()
        (frame,) = predict_frames([frame], StandInPredictor())
        assert frame.result.ok
        assert frame.atoms.info == {
            "id": 7,
            "deeprelax_model": "stand-in",
            "deeprelax_status": "accepted",
            "deeprelax_uncertainty": 0.04,
        }
        assert frame.result.uncertainty == 0.04
        assert frame.result.volume_change == pytest.approx(SHRINKAGE**3 - 1)
        np.testing.assert_allclose(frame.atoms.cell.lengths(), 3.7 * SHRINKAGE)
        assert frame.atoms.calc is None  # the energy of the unrelaxed crystal is not that of the relaxed one
        assert frame.result.reason is None

    def test_calibrated_errors_go_with_the_crystal(self):
        (frame,) = predict_frames([good()], StandInPredictor(error=SURE))
        assert {key: frame.atoms.info[key] for key in ERROR_KEYS} == {
            "deeprelax_error": 0.03,
            "deeprelax_volume_error": 0.02,
            "deeprelax_ood": False,
            "deeprelax_novelty": 0.4,
            "deeprelax_odds_worse": 0.02,
        }

    @pytest.mark.parametrize("kind", ["good", "helium", "constrained"])
    def test_errors_of_an_earlier_run_leave(self, kind):
        frame = FRAMES[kind]()
        frame.atoms.info.update(dict.fromkeys(ERROR_KEYS, "earlier"))
        for relax in (predict_frames, partial(finish_frames, make_calculator=EMT)):
            (relaxed,) = relax([frame], StandInPredictor())
            assert not set(ERROR_KEYS) & set(relaxed.atoms.info)

    @pytest.mark.parametrize("on_uncertain", ["keep", "warn", "skip", "raise"])
    def test_what_comes_of_an_uncertain_prediction(self, on_uncertain):
        relaxed = predict_frames([good()], StandInPredictor(error=UNSURE), on_uncertain=on_uncertain)
        if on_uncertain == "raise":
            with pytest.raises(UncertainPredictionError, match="good is uncertain"):
                next(relaxed)
            return
        told = pytest.warns(UserWarning, match="good is uncertain") if on_uncertain == "warn" else nullcontext()
        with told:
            (frame,) = relaxed
        assert frame.result.status == frame.atoms.info["deeprelax_status"] == "uncertain"
        assert "unlike" in frame.atoms.info["deeprelax_reason"]
        moved = 1.0 if on_uncertain == "skip" else SHRINKAGE
        np.testing.assert_allclose(frame.atoms.cell.lengths(), 3.7 * moved)

    def test_limits(self):
        limits = TrustLimits(max_volume_error=0.01)
        (frame,) = predict_frames([good()], StandInPredictor(error=SURE), limits=limits)
        assert "above max_volume_error=0.01" in frame.result.reason

    def test_a_finish_needs_a_calculator(self):
        with pytest.raises(ValueError, match="must be one of"):
            next(predict_frames([good()], StandInPredictor(), on_uncertain="finish"))

    def test_fixed_cell(self):
        (frame,) = predict_frames([good()], StandInPredictor(), relax_cell=False)
        assert frame.atoms.cell.array.tolist() == good().atoms.cell.array.tolist()

    def test_a_failed_crystal_is_kept_as_it_was(self):
        frame = helium()
        frame.atoms.info.update(id=7, deeprelax_uncertainty=0.1)
        (frame,) = predict_frames([frame], StandInPredictor())
        assert not frame.result.ok
        assert frame.atoms == helium().atoms
        assert frame.atoms.info == {
            "id": 7,
            "deeprelax_model": "stand-in",
            "deeprelax_status": "refused",
            "deeprelax_reason": frame.result.reason,
        }
        assert "was not trained on He" in frame.result.reason

    def test_constraints_are_refused_not_ignored(self):
        (frame,) = predict_frames([constrained()], StandInPredictor())
        assert "constraints (FixAtoms)" in frame.result.reason

    def test_reasons_are_one_line(self):
        (frame,) = predict_frames([unreadable()], StandInPredictor())
        assert frame.result.reason == "cannot be read"
        assert frame.atoms is None

    def test_a_restless_solver_makes_it_uncertain(self):
        (frame,) = predict_frames([good()], StandInPredictor(solver_converged=False))
        assert frame.result.status == "uncertain"
        assert "did not come to rest" in frame.result.reason

    def test_reads_no_further_than_the_predictor_needs(self):
        def frames():
            yield from (good(str(k)) for k in range(2))
            pytest.fail("read too far")

        relaxed = predict_frames(frames(), StandInPredictor())
        assert [next(relaxed).label, next(relaxed).label] == ["0", "1"]


class Fragile(EMT):
    """EMT that cannot do gold, and is of no use afterwards."""

    made = 0
    broken = False

    def __init__(self) -> None:
        type(self).made += 1
        super().__init__()

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        if self.broken or "Au" in atoms.symbols:
            self.broken = True
            raise RuntimeError("SCF did not\nconverge")
        super().calculate(atoms, properties, system_changes)


class TestFinishFrames:
    def test_a_finished_crystal(self):
        (frame,) = finish_frames([good()], StandInPredictor(), EMT, fmax=0.01, steps=200)
        assert frame.result.status == "converged"
        assert frame.result.ok
        assert frame.atoms.info["deeprelax_status"] == "converged"
        assert frame.atoms.info["deeprelax_uncertainty"] == 0.04
        assert np.abs(frame.atoms.get_forces()).max() < 0.01
        fresh = frame.atoms.copy()
        fresh.calc = EMT()
        assert frame.atoms.get_potential_energy() == pytest.approx(fresh.get_potential_energy(), abs=1e-12)
        assert frame.result.volume_change == pytest.approx(fresh.cell.volume / good().atoms.cell.volume - 1)
        assert frame.result.volume_change < -0.05

    def test_results_stay_with_their_crystal(self):
        frames = [good(), Frame("silver", bulk("Ag", "fcc", a=4.2))]
        copper, silver = finish_frames(frames, StandInPredictor(), EMT)
        (alone,) = finish_frames(frames[:1], StandInPredictor(), EMT)
        assert copper.atoms.get_potential_energy() == alone.atoms.get_potential_energy()
        assert silver.atoms.get_potential_energy() != copper.atoms.get_potential_energy()

    def test_force_calls_are_those_of_this_crystal(self):
        made: list[CountingEMT] = []

        def make() -> CountingEMT:
            made.append(CountingEMT())
            return made[-1]

        relaxed = list(finish_frames([good("a"), Frame("silver", bulk("Ag", "fcc", a=4.2))], StandInPredictor(), make))
        asked = [frame.result.force_calls for frame in relaxed]
        assert all(calls >= frame.result.steps for calls, frame in zip(asked, relaxed, strict=True))
        assert len(made) == 1
        assert sum(asked) == made[0].calls

    def test_steps_are_told(self):
        told = []
        frames = [good("a"), good("b")]
        made = list(finish_frames(frames, StandInPredictor(), EMT, observe=lambda *step: told.append(step)))
        assert told == [(f.label, n) for f in made for n in range(f.result.steps + 1)]

    def test_out_of_steps(self):
        (frame,) = finish_frames([good()], StandInPredictor(), EMT, fmax=1e-6, steps=2)
        assert frame.result.status == "not converged"
        assert not frame.result.ok
        assert frame.result.steps == 2

    def test_the_finish_is_the_one_that_is_named(self):
        taken = {}
        for finish in ("mdmin", "fast"):
            (frame,) = finish_frames([good()], StandInPredictor(), EMT, fmax=1e-3, finish=finish)
            assert frame.result.ok
            taken[finish] = frame.result.steps
        assert taken["fast"] < taken["mdmin"]

    def test_fixed_cell(self):
        (frame,) = finish_frames([good()], StandInPredictor(), EMT, relax_cell=False)
        assert frame.atoms.cell.array.tolist() == good().atoms.cell.array.tolist()

    def test_a_start_at_rest_has_no_uncertainty_left_from_an_earlier_run(self):
        (first,) = finish_frames([good()], StandInPredictor(), EMT, fmax=0.01)
        (second,) = finish_frames([Frame("again", first.atoms)], StandInPredictor(), EMT, fmax=0.05)
        assert second.result.status == "converged"
        assert second.result.uncertainty is None
        assert second.atoms.info == {"deeprelax_model": "stand-in", "deeprelax_status": "converged"}

    def test_a_calculator_that_fails_costs_its_crystal_alone_and_is_made_anew(self):
        Fragile.made = 0
        frames = [good("a"), Frame("gold", bulk("Au")), good("b"), molecule(), unreadable(), constrained()]
        frames.append(good("c"))
        relaxed = list(finish_frames(frames, StandInPredictor(), Fragile))
        status = ["converged", "failed", "converged", "refused", "failed", "converged", "converged"]
        assert [frame.result.status for frame in relaxed] == status
        assert relaxed[1].result.reason == "RuntimeError: SCF did not converge"
        assert relaxed[1].atoms == bulk("Au")
        assert Fragile.made == 2

    def test_forces_that_are_no_numbers_cost_their_crystal_alone(self):
        class Lost(EMT):
            def calculate(self, *args, **kwargs):
                super().calculate(*args, **kwargs)
                self.calls = getattr(self, "calls", 0) + 1
                if self.calls > 2 and "Au" in self.atoms.symbols:
                    self.results["forces"] = self.results["forces"] * np.nan
                    self.calculate = None  # of no use afterwards

        frames = [good("a"), Frame("gold", bulk("Au", a=3.9)), good("b")]
        relaxed = list(finish_frames(frames, StandInPredictor(), Lost))
        assert [frame.result.status for frame in relaxed] == ["converged", "failed", "converged"]
        assert "forces are not finite" in relaxed[1].result.reason
        assert relaxed[1].atoms == bulk("Au", a=3.9)

    def test_a_calculator_that_keeps_no_results_finishes_too(self):
        class Forgetful:
            def get_potential_energy(self, atoms, force_consistent=False):
                return EMT().get_potential_energy(atoms)

            def get_forces(self, atoms):
                return EMT().get_forces(atoms)

            def get_stress(self, atoms):
                return EMT().get_stress(atoms)

            def calculation_required(self, atoms, quantities):
                return True

        (frame,) = finish_frames([good()], StandInPredictor(), Forgetful)
        assert frame.result.ok
        assert frame.result.energy is None
        assert frame.result.force_calls >= frame.result.steps

    @pytest.mark.parametrize(("rises", "status"), [(False, "accepted"), (True, "jump rejected")])
    def test_the_jump_alone(self, rises, status):
        frame = good() if not rises else Frame("tight", bulk("Cu", "fcc", a=3.55, cubic=True))
        (made,) = finish_frames([frame], StandInPredictor(), EMT, fmax=1e-6, finish=None)
        assert made.result.status == made.atoms.info["deeprelax_status"] == status
        assert made.result.jump == ("rejected" if rises else "kept")
        assert ("raises the energy" in (made.result.reason or "")) is rises

    def test_the_uncertain_ones_alone(self):
        class Doubtful(StandInPredictor):
            def predict(self, structure, **options):
                made = super().predict(structure, **options)
                return replace(made, error=SURE if made.initial.numbers[0] == 29 else UNSURE)

        frames = [good("a"), Frame("gold", bulk("Au", a=4.2)), unreadable(), helium(), constrained()]
        made = list(finish_frames(frames, Doubtful(), EMT, only_uncertain=True))
        status = ["accepted", "converged", "failed", "refused", "converged"]
        assert [frame.result.status for frame in made] == status
        assert [frame.result.error for frame in made] == [0.03, None, None, None, None]
        assert made[0].atoms.calc is None

    def test_constraints_are_kept(self):
        (frame,) = finish_frames([constrained()], StandInPredictor(), EMT, relax_cell=False)
        assert frame.result.status == "converged"
        assert frame.atoms.positions[0].tolist() == good().atoms.positions[0].tolist()
        assert len(frame.atoms.constraints) == 1


class Full:
    def write(self, atoms: Atoms) -> None:
        raise OSError("No space left on device")

    def close(self) -> None:
        pass


class Picky(Full):
    def write(self, atoms: Atoms) -> None:
        if len(atoms) > 1:
            raise KeyError("too\nmany")


def failed(reason: str, atoms: Atoms | None) -> RelaxedFrame:
    return RelaxedFrame("a", RelaxationResult.unrelaxed(reason), atoms)


class TestWriteFrame:
    def test_written(self):
        frame = RelaxedFrame("a", RelaxationResult(), bulk("Cu"))
        assert write_frame(Picky(), frame) is frame

    def test_nothing_to_write(self):
        frame = failed("cannot be read", None)
        assert write_frame(Full(), frame) is frame

    def test_what_the_format_cannot_hold_has_failed(self):
        frame = write_frame(Picky(), RelaxedFrame("a", RelaxationResult(), good().atoms))
        assert not frame.result.ok
        assert frame.atoms is None
        assert frame.result.reason == "cannot be written in this format (KeyError: 'too\\nmany')"

    def test_an_earlier_reason_is_kept(self):
        frame = write_frame(Picky(), failed("no helium", good().atoms))
        assert frame.result.reason.startswith("no helium; cannot be written")

    def test_a_full_disk_is_not_the_crystals_fault(self):
        with pytest.raises(OSError, match="No space left"):
            write_frame(Full(), RelaxedFrame("a", RelaxationResult(), bulk("Cu")))
