"""The table of doors and kinds of input is what the doors say today."""

from __future__ import annotations

import json

import bad_inputs
import pytest
from doors import CALCULATOR, DOORS, FINISHING, RESULTS, Doors

pytestmark = pytest.mark.filterwarnings("ignore")

#: The doors that tell most in the least time.
QUICK = ("``Predictor.predict_many``",)


def kept() -> dict:
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def test_the_table_has_every_door_and_every_variant():
    table = kept()
    assert {kind: list(variants) for kind, variants in bad_inputs.kinds().items()} == {
        kind: row["variants"] for kind, row in table.items()
    }
    assert all(list(row["doors"]) == list(DOORS) for row in table.values())


@pytest.mark.parametrize(
    "names", [QUICK, pytest.param(tuple(DOORS), marks=pytest.mark.slow)], ids=["one door", "every door"]
)
def test_the_doors_say_what_the_table_says(names):
    """Of the first variant of each kind; of all of them where every door is open."""
    table = kept()
    for row in table.values():
        row["doors"] = {name: row["doors"][name] for name in names}
    made = bad_inputs.kinds()
    given = {kind: list(variants.values())[: None if names != QUICK else 1] for kind, variants in made.items()}
    flat = [atoms for variants in given.values() for atoms in variants]
    doors = Doors()
    for name in names:
        if name in FINISHING and {row["calculator"] for row in table.values()} != {CALCULATOR}:
            continue  # made under another one, such as M3GNet, which is not here
        said = iter([outcome.status for outcome in doors.open(name, flat)])
        for kind, variants in given.items():
            words = [next(said) for _ in variants]
            assert words == table[kind]["doors"][name][: len(words)], (name, kind, "run `make trust`")
