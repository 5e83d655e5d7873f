"""Streams of frames: every frame is answered, in order, and a bad one does not stop the others."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from hypothesis import given
from hypothesis import strategies as st

from deeprelax_ase.errors import UncertainPredictionError
from deeprelax_ase.optimizers.frames import RelaxedFrame, finish_frames, predict_frames, write_frame
from deeprelax_ase.prediction.judgement import TrustLimits
from deeprelax_ase.prediction.result import RelaxationResult
from deeprelax_ase.prediction.status import ERROR_KEYS
from tests.optimizers.frames import FRAMES, STATUS, SURE, UNSURE, good, helium, unreadable
from tests.stand_in import SHRINKAGE, StandInPredictor


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
            "deeprelax_odds_judged": 0.02,
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

    def test_rattled_starts_are_the_same_for_the_same_seed(self):
        made = [
            next(predict_frames([good()], StandInPredictor(), rattle=0.1, seed=seed)).atoms.get_scaled_positions()
            for seed in (0, 0, 1)
        ]
        still = good().atoms.get_scaled_positions()
        assert made[0].tolist() == made[1].tolist() != made[2].tolist()
        offsets = (made[0] - still + 0.5) % 1 - 0.5
        assert 0.005 < np.abs(offsets * 3.7).max() < 0.5

    def test_what_is_left_as_it_was_is_not_rattled(self):
        (frame,) = predict_frames([good()], StandInPredictor(error=UNSURE), on_uncertain="skip", rattle=0.1)
        assert frame.atoms.positions.tolist() == good().atoms.positions.tolist()

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


class Full:
    def write(self, atoms: Atoms, name: str = "") -> None:
        raise OSError("No space left on device")

    def close(self) -> None:
        pass


class Picky(Full):
    def write(self, atoms: Atoms, name: str = "") -> None:
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
        assert frame.result.reason == "no helium; the format of the output cannot hold it"

    def test_a_refused_crystal_stays_refused(self):
        """Whatever the format can hold, every door says the same of it."""
        refused = RelaxationResult.unrelaxed("Z=268 is no element", status="refused")
        frame = write_frame(Picky(), RelaxedFrame("a", refused, good().atoms))
        assert frame.result.status == "refused"
        assert frame.result.reason == "Z=268 is no element; the format of the output cannot hold it"

    def test_a_full_disk_is_not_the_crystals_fault(self):
        with pytest.raises(OSError, match="No space left"):
            write_frame(Full(), RelaxedFrame("a", RelaxationResult(), bulk("Cu")))
