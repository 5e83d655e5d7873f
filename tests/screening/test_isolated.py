"""Tables relaxed by child processes, some of which die."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from deeprelax_ase.errors import ModelError
from deeprelax_ase.prediction.pool import KILLED
from deeprelax_ase.screening.isolated import IsolatedRelaxer, shared_relaxer
from deeprelax_ase.screening.options import RelaxOptions
from deeprelax_ase.screening.rows import INPUT, OUTPUT, structures_table
from tests.killing import descendants
from tests.screening.conftest import some_crystals
from tests.screening.deadly_crystals import Deadly, Hopeless, assert_as_predicted


@pytest.mark.slow
def test_a_death_costs_nothing(quick: RelaxOptions, tmp_path: Path) -> None:
    crystals = some_crystals(3)
    names = ["crystal-0", f"once {tmp_path / 'marker'}", "crystal-2"]
    with IsolatedRelaxer(quick, make=Deadly) as relaxer:
        table = relaxer(structures_table(crystals, ids=names))
        assert relaxer(INPUT.empty_table()).schema.equals(OUTPUT)
    assert (tmp_path / "marker").exists()
    assert table.column("id").to_pylist() == names
    assert_as_predicted(table, crystals, quick)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_deadly_crystal_costs_its_row(quick: RelaxOptions, tmp_path: Path, workers: int) -> None:
    crystals = some_crystals(30)
    names = [f"crystal-{n}" for n in range(30)]
    names[17], names[25] = f"once {tmp_path / 'marker'}", "deadly"
    with IsolatedRelaxer(quick, workers=workers, make=Deadly) as relaxer:
        table = relaxer(structures_table(crystals, ids=names))
    assert (tmp_path / "marker").exists()
    assert table.column("id").to_pylist() == names
    assert [n for n, reason in enumerate(table.column("reason").to_pylist()) if reason == KILLED] == [25]
    others = [n for n in range(30) if n != 25]
    assert_as_predicted(table.take(others), [crystals[n] for n in others], quick, indices=others)
    assert not [command for command in descendants().values() if "spawn_main" in command]


@pytest.mark.slow
def test_processes_that_die_at_once_are_no_crystal_s_fault(quick: RelaxOptions) -> None:
    with (
        IsolatedRelaxer(quick, make=Hopeless) as relaxer,
        pytest.raises(RuntimeError, match="die before they see any"),
    ):
        relaxer(structures_table(some_crystals(2)))


def test_what_is_wrong_with_the_options_is_raised_here(quick: RelaxOptions) -> None:
    with IsolatedRelaxer(replace(quick, model="Unknown")) as relaxer, pytest.raises(ModelError, match="Unknown"):
        relaxer(structures_table(some_crystals(1)))
    with pytest.raises(ValueError, match="at least 1"):
        IsolatedRelaxer(quick, workers=0)


def test_a_process_keeps_one_model(quick: RelaxOptions) -> None:
    assert shared_relaxer(quick) is shared_relaxer(replace(quick))
