"""Streams of frames that finish in batches: each is answered, in order, as it is one by one."""

from __future__ import annotations

import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from deeprelax_ase.io.frame import Frame
from deeprelax_ase.optimizers import finish_frames, finish_frames_in_batches
from tests.batched_emt import Together
from tests.optimizers.frames import FRAMES, SURE, UNSURE, good, unreadable
from tests.stand_in import StandInPredictor


def frames() -> list[Frame]:
    made = [make(name) for name, make in FRAMES.items()]
    return [*made, Frame("silver", bulk("Ag", a=4.2)), Frame("salt", bulk("NaCl", "rocksalt", a=5.6)), good("last")]


@pytest.mark.parametrize("most", [4, 1000])
@pytest.mark.parametrize("only_uncertain", [False, True])
def test_each_is_what_it_is_one_by_one(most: int, only_uncertain: bool) -> None:
    potential = Together()
    potential.most_atoms = most
    for error in (SURE, UNSURE):
        options = {"only_uncertain": only_uncertain, "finish": "fast", "fmax": 0.02}
        made = finish_frames_in_batches(frames(), StandInPredictor(error=error), potential, **options)
        expected = finish_frames(frames(), StandInPredictor(error=error), EMT, **options)
        for one, other in zip(made, expected, strict=True):
            assert one.label == other.label
            for field in ("status", "jump", "steps", "model", "calculator"):
                assert getattr(one.result, field) == getattr(other.result, field), (one.label, field)
            assert (one.atoms is None) is (other.atoms is None)
            if one.atoms is not None:
                assert one.atoms.info.keys() == other.atoms.info.keys()
                if one.result.energy is not None:
                    energy = other.atoms.get_potential_energy()
                    assert one.atoms.get_potential_energy() == pytest.approx(energy, abs=1e-4)


def test_frames_are_read_as_they_are_needed() -> None:
    potential, read = Together(), []
    potential.most_atoms = 4

    def stream():
        for number in range(20):
            read.append(number)
            yield good(str(number))

    made = finish_frames_in_batches(stream(), StandInPredictor(), potential, finish="fast")
    assert next(made).label == "0"
    assert len(read) == 4
    assert [frame.label for frame in made] == [str(number) for number in range(1, 20)]


def test_rounds_are_told() -> None:
    told = []
    frames = [good("a"), unreadable(), good("b")]
    options = {"fmax": 0.001, "observe": lambda *at: told.append(at)}
    made = list(finish_frames_in_batches(frames, StandInPredictor(), Together(), **options))
    assert [frame.result.status for frame in made] == ["converged", "failed", "converged"]
    assert told == [("2 crystals", n) for n in range(1, len(told) + 1)]
    assert len(told) == made[0].result.steps > 2


def test_nothing_is_nothing() -> None:
    assert list(finish_frames_in_batches([], StandInPredictor(), Together())) == []
