"""Streams of frames: every frame has its outcome, in order, and a bad one does not stop the others."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from hypothesis import given
from hypothesis import strategies as st

from deeprelax_ase.errors import StructureFileError
from deeprelax_ase.io.frame import Frame
from deeprelax_ase.optimizers.batch import Outcome, finish_frames, predict_frames, write_outcome
from deeprelax_ase.prediction.status import ERROR_KEYS
from deeprelax_ase.uncertainty.calibration import CalibratedError
from tests.stand_in import SHRINKAGE, StandInPredictor


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
    "good": "predicted",
    "helium": "failed",
    "molecule": "failed",
    "unreadable": "failed",
    "constrained": "failed",
}


class TestPredictFrames:
    @given(kinds=st.lists(st.sampled_from(sorted(FRAMES)), max_size=9))
    def test_one_outcome_for_each_frame_in_order(self, kinds):
        frames = [FRAMES[kind](f"{kind}@{k}") for k, kind in enumerate(kinds)]
        outcomes = list(predict_frames(frames, StandInPredictor()))
        assert [outcome.label for outcome in outcomes] == [frame.label for frame in frames]
        assert [outcome.status for outcome in outcomes] == [STATUS[kind] for kind in kinds]

    def test_a_relaxed_crystal(self):
        frame = good()
        frame.atoms.info.update(id=7, deeprelax_status="failed: earlier", deeprelax_uncertainty=9.0)
        frame.atoms.calc = EMT()
        (outcome,) = predict_frames([frame], StandInPredictor())
        assert outcome.ok
        assert outcome.atoms.info == {
            "id": 7,
            "deeprelax_model": "stand-in",
            "deeprelax_status": "predicted",
            "deeprelax_uncertainty": 0.04,
        }
        assert outcome.uncertainty == 0.04
        assert outcome.volume_change == pytest.approx(SHRINKAGE**3 - 1)
        np.testing.assert_allclose(outcome.atoms.cell.lengths(), 3.7 * SHRINKAGE)
        assert outcome.atoms.calc is None  # the energy of the unrelaxed crystal is not that of the relaxed one
        assert outcome.reason == ""

    def test_calibrated_errors_go_with_the_crystal(self):
        error = CalibratedError(coordinates=0.03, coordinates_bound=0.08, volume=0.02, volume_bound=0.05, ood=False)
        (outcome,) = predict_frames([good()], StandInPredictor(error=error))
        assert {key: outcome.atoms.info[key] for key in ERROR_KEYS} == {
            "deeprelax_error": 0.03,
            "deeprelax_volume_error": 0.02,
            "deeprelax_ood": False,
        }

    @pytest.mark.parametrize("kind", ["good", "helium", "constrained"])
    def test_errors_of_an_earlier_run_leave(self, kind):
        frame = FRAMES[kind]()
        frame.atoms.info.update(dict.fromkeys(ERROR_KEYS, "earlier"))
        for relax in (predict_frames, partial(finish_frames, make_calculator=EMT)):
            (outcome,) = relax([frame], StandInPredictor())
            assert not set(ERROR_KEYS) & set(outcome.atoms.info)

    def test_fixed_cell(self):
        (outcome,) = predict_frames([good()], StandInPredictor(), relax_cell=False)
        assert outcome.atoms.cell.array.tolist() == good().atoms.cell.array.tolist()

    def test_a_failed_crystal_is_kept_as_it_was(self):
        frame = helium()
        frame.atoms.info.update(id=7, deeprelax_uncertainty=0.1)
        (outcome,) = predict_frames([frame], StandInPredictor())
        assert not outcome.ok
        assert outcome.atoms == helium().atoms
        assert outcome.atoms.info.keys() == {"id", "deeprelax_model", "deeprelax_status"}
        assert outcome.atoms.info["deeprelax_status"] == f"failed: {outcome.reason}"
        assert "was not trained on He" in outcome.reason

    def test_constraints_are_refused_not_ignored(self):
        (outcome,) = predict_frames([constrained()], StandInPredictor())
        assert "constraints (FixAtoms)" in outcome.reason

    def test_reasons_are_one_line(self):
        (outcome,) = predict_frames([unreadable()], StandInPredictor())
        assert outcome.reason == "cannot be read"
        assert outcome.atoms is None

    def test_a_restless_solver_is_remarked(self):
        (outcome,) = predict_frames([good()], StandInPredictor(solver_converged=False))
        assert outcome.ok
        assert "did not come to rest" in outcome.reason

    def test_reads_no_further_than_the_predictor_needs(self):
        def frames():
            yield from (good(str(k)) for k in range(2))
            pytest.fail("read too far")

        outcomes = predict_frames(frames(), StandInPredictor())
        assert [next(outcomes).label, next(outcomes).label] == ["0", "1"]


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
        (outcome,) = finish_frames([good()], StandInPredictor(), EMT, fmax=0.01, steps=200)
        assert outcome.status == "converged"
        assert outcome.ok
        assert outcome.atoms.info["deeprelax_status"] == "converged"
        assert outcome.atoms.info["deeprelax_uncertainty"] == 0.04
        assert np.abs(outcome.atoms.get_forces()).max() < 0.01
        fresh = outcome.atoms.copy()
        fresh.calc = EMT()
        assert outcome.atoms.get_potential_energy() == pytest.approx(fresh.get_potential_energy(), abs=1e-12)
        assert outcome.volume_change == pytest.approx(fresh.cell.volume / good().atoms.cell.volume - 1)
        assert outcome.volume_change < -0.05

    def test_results_stay_with_their_crystal(self):
        frames = [good(), Frame("silver", bulk("Ag", "fcc", a=4.2))]
        copper, silver = finish_frames(frames, StandInPredictor(), EMT)
        (alone,) = finish_frames(frames[:1], StandInPredictor(), EMT)
        assert copper.atoms.get_potential_energy() == alone.atoms.get_potential_energy()
        assert silver.atoms.get_potential_energy() != copper.atoms.get_potential_energy()

    def test_out_of_steps(self):
        (outcome,) = finish_frames([good()], StandInPredictor(), EMT, fmax=1e-6, steps=2)
        assert outcome.status == "not converged"
        assert not outcome.ok
        assert outcome.reason == "2 steps"

    def test_the_finish_is_the_one_that_is_named(self):
        taken = {}
        for finish in ("mdmin", "fast"):
            (outcome,) = finish_frames([good()], StandInPredictor(), EMT, fmax=1e-3, finish=finish)
            assert outcome.ok
            taken[finish] = int(outcome.reason.split()[0])
        assert taken["fast"] < taken["mdmin"]

    def test_fixed_cell(self):
        (outcome,) = finish_frames([good()], StandInPredictor(), EMT, relax_cell=False)
        assert outcome.atoms.cell.array.tolist() == good().atoms.cell.array.tolist()

    def test_a_start_at_rest_has_no_uncertainty_left_from_an_earlier_run(self):
        (first,) = finish_frames([good()], StandInPredictor(), EMT, fmax=0.01)
        (second,) = finish_frames([Frame("again", first.atoms)], StandInPredictor(), EMT, fmax=0.05)
        assert second.status == "converged"
        assert second.uncertainty is None
        assert second.atoms.info == {"deeprelax_model": "stand-in", "deeprelax_status": "converged"}

    def test_a_calculator_that_fails_costs_its_crystal_alone_and_is_made_anew(self):
        Fragile.made = 0
        frames = [good("a"), Frame("gold", bulk("Au")), good("b"), molecule(), unreadable(), constrained()]
        frames.append(good("c"))
        outcomes = list(finish_frames(frames, StandInPredictor(), Fragile))
        status = ["converged", "failed", "converged", "failed", "failed", "converged", "converged"]
        assert [outcome.status for outcome in outcomes] == status
        assert outcomes[1].reason == "RuntimeError: SCF did not converge"
        assert outcomes[1].atoms == bulk("Au")
        assert Fragile.made == 2

    def test_constraints_are_kept(self):
        (outcome,) = finish_frames([constrained()], StandInPredictor(), EMT, relax_cell=False)
        assert outcome.status == "converged"
        assert outcome.atoms.positions[0].tolist() == good().atoms.positions[0].tolist()
        assert len(outcome.atoms.constraints) == 1


class Full:
    def write(self, atoms: Atoms) -> None:
        raise OSError("No space left on device")

    def close(self) -> None:
        pass


class Picky(Full):
    def write(self, atoms: Atoms) -> None:
        if len(atoms) > 1:
            raise KeyError("too\nmany")


class TestWriteOutcome:
    def test_written(self):
        assert write_outcome(Picky(), Outcome("a", "predicted", bulk("Cu"))).written

    def test_nothing_to_write(self):
        assert not write_outcome(Full(), Outcome("a", "failed", None)).written

    def test_what_the_format_cannot_hold_has_failed(self):
        outcome = write_outcome(Picky(), Outcome("a", "predicted", good().atoms))
        assert not outcome.ok
        assert not outcome.written
        assert outcome.reason == "cannot be written in this format (KeyError: 'too\\nmany')"

    def test_an_earlier_reason_is_kept(self):
        outcome = write_outcome(Picky(), Outcome("a", "failed", good().atoms, reason="no helium"))
        assert outcome.reason.startswith("no helium; cannot be written")

    def test_a_full_disk_is_not_the_crystals_fault(self):
        with pytest.raises(OSError, match="No space left"):
            write_outcome(Full(), Outcome("a", "predicted", bulk("Cu")))
