"""Streams of frames that a calculator finishes: each is answered, and what fails costs its crystal."""

from __future__ import annotations

from dataclasses import replace
from errno import EDQUOT, ENOENT, ENOSPC, EROFS
from os import strerror

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from deeprelax_ase.io.frame import Frame
from deeprelax_ase.optimizers.frames import finish_frames
from deeprelax_ase.prediction.result import RelaxationResult
from tests.optimizers.frames import SURE, UNSURE, constrained, good, helium, molecule, unreadable
from tests.optimizers.helpers import CountingEMT
from tests.stand_in import StandInPredictor


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

    def test_a_crystal_that_neither_model_nor_calculator_knows_is_refused(self):
        unknown = good()
        unknown.atoms[0].symbol = "Og"
        first, second = finish_frames([unknown, good()], StandInPredictor(), EMT, steps=2)
        assert first.result.status == "refused"
        assert "not trained on Og" in first.result.reason
        assert first.result.force_calls is None
        assert second.result.ok

    @pytest.mark.parametrize("spoilt", ["positions", "cell"])
    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_numbers_that_are_none_are_refused_before_symmetry_is_sought(self, spoilt, value):
        frame = good()
        {"positions": frame.atoms.positions, "cell": frame.atoms.cell.array}[spoilt][1, 0] = value
        broken, fine = finish_frames([frame, good()], StandInPredictor(), EMT, steps=2, keep_symmetry=True)
        assert broken.result.status == "refused"
        assert "NaN or infinity" in broken.result.reason
        assert fine.result.ok

    def test_results_stay_with_their_crystal(self):
        frames = [good(), Frame("silver", bulk("Ag", "fcc", a=4.2))]
        copper, silver = finish_frames(frames, StandInPredictor(), EMT)
        (alone,) = finish_frames(frames[:1], StandInPredictor(), EMT)
        assert copper.atoms.get_potential_energy() == alone.atoms.get_potential_energy()
        assert silver.atoms.get_potential_energy() != copper.atoms.get_potential_energy()

    def test_a_result_tells_which_calculator_finished(self):
        for given, told in (({}, "emt"), ({"calculator_name": "mine:EMT"}, "mine:EMT")):
            (frame,) = finish_frames([good()], StandInPredictor(), EMT, steps=2, **given)
            assert frame.result.calculator == frame.atoms.info["deeprelax_calculator"] == told
            assert RelaxationResult.from_atoms(frame.atoms).calculator == told

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

    @pytest.mark.parametrize("wrong", [ENOSPC, EROFS, EDQUOT])
    def test_a_disk_that_is_full_ends_it(self, wrong):
        class FullDisk(EMT):
            def calculate(self, *arguments, **more):
                raise OSError(wrong, strerror(wrong))

        frames = finish_frames([good("a"), good("b")], StandInPredictor(), FullDisk)
        with pytest.raises(OSError, match=f"{strerror(wrong)}, while a was finished"):
            next(frames)

    def test_a_file_that_is_missing_costs_its_crystal(self):
        class Missing(EMT):
            def calculate(self, *arguments, **more):
                raise FileNotFoundError(ENOENT, "No such file or directory", "INCAR")

        first, second = finish_frames([good("a"), good("b")], StandInPredictor(), Missing)
        assert first.result.status == second.result.status == "failed"

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
        told = {"deeprelax_model": "stand-in", "deeprelax_status": "converged", "deeprelax_calculator": "emt"}
        assert second.atoms.info == told

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

    def test_one_that_would_end_the_process_costs_its_crystal(self):
        class Leaving(EMT):
            def calculate(self, atoms, *args):
                if "Au" in atoms.symbols:
                    raise SystemExit("no licence")
                super().calculate(atoms, *args)

        frames = [good("a"), Frame("gold", bulk("Au")), good("b")]
        relaxed = [frame.result for frame in finish_frames(frames, StandInPredictor(), Leaving)]
        assert [result.status for result in relaxed] == ["converged", "failed", "converged"]
        assert relaxed[1].reason == "the calculator would end the process: SystemExit('no licence')"

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

    def test_a_crystal_that_is_left_as_it_is(self):
        """It is still the prediction, if it is all that was to be done."""

        class Content(StandInPredictor):
            def predict(self, structure, **options):
                made = super().predict(structure, **options)
                return replace(made, relaxed=made.initial, unchanged="it would not come nearer")

        for finish, status in ((None, "unchanged"), ("fire", "not converged")):
            (made,) = finish_frames([good()], Content(), EMT, fmax=1e-6, steps=2, finish=finish)
            assert made.result.status == made.atoms.info["deeprelax_status"] == status
            assert made.result.jump == "skipped"

    def test_the_uncertain_ones_alone(self):
        class Doubtful(StandInPredictor):
            def predict(self, structure, **options):
                made = super().predict(structure, **options)
                return replace(made, error=SURE if made.initial.numbers[0] == 29 else UNSURE)

        frames = [good("a"), Frame("gold", bulk("Au", a=4.2)), unreadable(), helium(), constrained()]
        made = list(finish_frames(frames, Doubtful(), EMT, only_uncertain=True))
        status = ["accepted", "converged", "failed", "refused", "accepted"]
        assert [frame.result.status for frame in made] == status
        assert [frame.result.error for frame in made] == [0.03, None, None, None, 0.03]
        assert [frame.result.calculator for frame in made] == [None, "emt", None, None, None]
        assert made[0].atoms.calc is None

    def test_constraints_are_kept(self):
        (frame,) = finish_frames([constrained()], StandInPredictor(), EMT, relax_cell=False)
        assert frame.result.status == "converged"
        assert frame.atoms.positions[0].tolist() == good().atoms.positions[0].tolist()
        assert len(frame.atoms.constraints) == 1
