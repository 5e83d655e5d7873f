"""A table relaxed: its rows are records of results, and what is uncertain goes to the finish as it was predicted."""

from __future__ import annotations

from dataclasses import replace
from errno import ENOSPC

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms

from deeprelax_ase.calculators.identity import M3GNET_WEIGHTS
from deeprelax_ase.errors import StructureFileError
from deeprelax_ase.models.registry import DEFAULT_MODEL, M3GNET_RELAX_MODEL
from deeprelax_ase.optimizers import finish_atoms
from deeprelax_ase.prediction.allowed_strain import AllowedStrain
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.prediction.result import COLUMNS, RelaxationResult
from deeprelax_ase.prediction.status import UNRELAXED
from deeprelax_ase.screening.options import RelaxOptions
from deeprelax_ase.screening.rows import OUTPUT, atoms_of, structures_table
from deeprelax_ase.screening.table_relaxer import TableRelaxer
from tests.screening.conftest import assert_repeats_as_given, layers, some_crystals

SPRINGS = "tests.screening.test_table_relaxer:springs"
SAME_MINIMA = "tests.screening.test_table_relaxer:SameMinima"


def springs() -> LennardJones:
    return LennardJones(sigma=2.5, epsilon=0.1, rc=8.0, smooth=True)


class SameMinima(LennardJones):
    """Tells that its minima are those of M3GNet."""

    weights_digest = M3GNET_WEIGHTS


class Broken(LennardJones):
    def calculate(self, *arguments: object, **more: object) -> None:
        raise RuntimeError("no licence")


class FullDisk(LennardJones):
    def calculate(self, *arguments: object, **more: object) -> None:
        raise OSError(ENOSPC, "No space left on device")


class CountingPredictor(Predictor):
    """Notes how it is asked."""

    asked: list[str]

    def predict(self, *arguments, **more):
        self.asked.append("one")
        return super().predict(*arguments, **more)

    def predict_many(self, *arguments, **more):
        self.asked.append("many")
        return super().predict_many(*arguments, **more)


@pytest.fixture
def finishing(quick: RelaxOptions) -> RelaxOptions:
    return replace(quick, max_uncertainty=1e-9, on_uncertain="finish", calculator=SPRINGS, steps=200)


@pytest.mark.parametrize(
    ("change", "model"),
    [
        ({}, DEFAULT_MODEL),
        ({"calculator": SPRINGS}, DEFAULT_MODEL),
        ({"calculator": SAME_MINIMA}, M3GNET_RELAX_MODEL),
        ({"calculator": SAME_MINIMA, "on_uncertain": "finish"}, M3GNET_RELAX_MODEL),
        ({"calculator": SAME_MINIMA, "model": DEFAULT_MODEL}, DEFAULT_MODEL),
    ],
)
def test_the_model_is_the_one_for_the_minima_of_the_calculator(quick: RelaxOptions, change: dict, model: str) -> None:
    options = replace(quick, **change)
    assert TableRelaxer(options).predictor.model_name == options.predictor().model_name == model


@pytest.mark.parametrize("change", [{}, {"max_uncertainty": 1e-9, "on_uncertain": "skip"}])
def test_layers_keep_what_is_out_of_their_plane(quick: RelaxOptions, change: dict) -> None:
    """Whether they are predicted, or left as they are."""
    given = layers()
    made = list(atoms_of(TableRelaxer(replace(quick, **change))(structures_table(given))))
    for atoms, before in zip(made, given, strict=True):
        assert_repeats_as_given(atoms, before)
        assert atoms.info["deeprelax_status"] not in UNRELAXED
        if "on_uncertain" in change:
            np.testing.assert_array_equal(atoms.cell.array, before.cell.array)
            np.testing.assert_array_equal(atoms.positions, before.positions)
        else:
            assert not np.allclose(atoms.cell.array, before.cell.array)


def test_layers_are_finished_in_the_cell_that_they_were_given_in(quick: RelaxOptions) -> None:
    """As the optimizer and ``deeprelax relax`` do: a filter carries the third vector along with the plane."""
    _, given, *_ = layers()
    relaxer = TableRelaxer(replace(quick, calculator=SPRINGS, steps=2))
    (made,) = atoms_of(relaxer(structures_table([given])))
    _, wanted = finish_atoms(given, relaxer.predictor, springs(), steps=2)
    assert made.pbc.tolist() == [True, True, False]
    np.testing.assert_allclose(made.cell.array, wanted.cell.array, rtol=0, atol=1e-9)
    np.testing.assert_allclose(made.positions, wanted.positions, rtol=0, atol=1e-9)


def test_a_layer_without_volume_is_refused_a_finish(quick: RelaxOptions) -> None:
    """As the optimizer and ``deeprelax relax`` do."""
    table = TableRelaxer(replace(quick, calculator=SPRINGS))(structures_table(layers()[:1]))
    (row,) = table.to_pylist()
    assert row["status"] == "refused"
    assert row["reason"].startswith("the cell has no vector out of the plane")


def test_rows_are_records(quick: RelaxOptions) -> None:
    crystals = some_crystals(2)
    table = TableRelaxer(quick)(structures_table(crystals))
    assert table.schema.equals(OUTPUT)
    assert table.column_names == ["index", "id", "source", *COLUMNS]
    for row, atoms, crystal in zip(table.to_pylist(), atoms_of(table), crystals, strict=True):
        result = RelaxationResult.from_columns(row)
        assert result.status == "accepted"
        np.testing.assert_array_equal(result.relaxed.positions, atoms.positions)
        np.testing.assert_array_equal(atoms.numbers, crystal.numbers)
        assert {"id", "index", "deeprelax_version"} <= set(atoms.info)
        assert result.info.items() <= atoms.info.items()


def test_the_network_runs_once_where_something_is_finished(finishing: RelaxOptions) -> None:
    predictor = CountingPredictor(device="cpu", members=1, recycles=1)
    predictor.asked = []
    table = TableRelaxer(finishing, predictor)(structures_table(some_crystals(3)))
    assert set(table.column("status").to_pylist()) <= {"converged", "not converged"}
    assert predictor.asked == ["many"]


def test_what_belongs_to_a_prediction_leaves_with_it(finishing: RelaxOptions) -> None:
    calibrated = replace(finishing, members=None, recycles=None, max_uncertainty=None, max_error=1e-9)
    told = TableRelaxer(replace(calibrated, on_uncertain="keep", calculator="none"))(
        structures_table(some_crystals(1))
    ).to_pylist()[0]
    assert told["status"] == "uncertain"
    assert told["error"] > 0
    (row,) = TableRelaxer(calibrated)(structures_table(some_crystals(1))).to_pylist()
    assert row["status"] in ("converged", "not converged")
    for name in ("error", "error_bound", "volume_error", "volume_error_bound", "ood", "unchanged"):
        assert row[name] is None
    assert row["uncertainty"] == pytest.approx(told["uncertainty"])
    assert row["jump"] in ("kept", "rejected")
    assert row["force_calls"] >= row["steps"] > 0
    assert np.isfinite(row["energy"])
    assert row["calculator"] == SPRINGS
    assert row["force_calls"] > 0


def test_a_finish_that_fails_leaves_the_prediction(finishing: RelaxOptions) -> None:
    broken = replace(finishing, calculator="tests.screening.test_table_relaxer:Broken")
    (row,) = TableRelaxer(broken)(structures_table(some_crystals(1))).to_pylist()
    assert row["status"] == "uncertain"
    assert row["reason"].endswith("failed, so it stays as predicted: RuntimeError: no licence")
    assert row["energy"] is None


def test_a_calculator_finishes_all_unless_told_otherwise(quick: RelaxOptions) -> None:
    table = structures_table(some_crystals(2))
    finished = TableRelaxer(replace(quick, calculator=SPRINGS, steps=5))(table).to_pylist()
    assert {row["calculator"] for row in finished} == {SPRINGS}
    trusted = TableRelaxer(replace(quick, calculator=SPRINGS, on_uncertain="finish"))(table).to_pylist()
    assert [(row["status"], row["calculator"]) for row in trusted] == [("accepted", None)] * 2
    (row,) = TableRelaxer(replace(quick, calculator="tests.screening.test_table_relaxer:Broken"))(table[:1]).to_pylist()
    assert row["status"] == "failed"
    assert row["reason"].endswith("Broken failed: RuntimeError: no licence")


def test_a_jump_alone(quick: RelaxOptions) -> None:
    (row,) = TableRelaxer(replace(quick, calculator=SPRINGS, finish="none"))(
        structures_table(some_crystals(1))
    ).to_pylist()
    assert row["status"] == ("jump rejected" if row["jump"] == "rejected" else "accepted")
    assert row["steps"] == 1


@pytest.mark.parametrize("on_uncertain", ["keep", "skip"])
def test_what_comes_of_uncertain_ones(quick: RelaxOptions, on_uncertain: str) -> None:
    crystals = some_crystals(2)
    relaxer = TableRelaxer(replace(quick, max_uncertainty=1e-9, on_uncertain=on_uncertain))
    rows = relaxer(structures_table(crystals)).to_pylist()
    for row, crystal in zip(rows, crystals, strict=True):
        assert row["status"] == "uncertain"
        assert row["unchanged"] is (on_uncertain == "skip")
        assert np.array_equal(row["cell"], crystal.cell.array.ravel()) is (on_uncertain == "skip")


def test_rows_tell_who_is_at_fault(quick: RelaxOptions) -> None:
    unread, helium = StructureFileError("cannot be read"), some_crystals(1)[0]
    helium.symbols[0] = "Xe"
    rows = TableRelaxer(quick)(structures_table([unread, helium, Atoms("H2")])).to_pylist()
    assert [row["status"] for row in rows] == ["failed", "refused", "refused"]


def test_tables_hold_no_errors(quick: RelaxOptions) -> None:
    with pytest.raises(ValueError, match="on_uncertain='raise' would end all"):
        TableRelaxer(replace(quick, on_uncertain="raise"))
    with pytest.raises(ValueError, match="'newton' cannot finish"):
        TableRelaxer(replace(quick, calculator=SPRINGS, finish="newton"))


BATCHED = "tests.batched_emt:springs"


@pytest.mark.parametrize(
    "change",
    [
        {},
        *(pytest.param(given, marks=pytest.mark.slow) for given in ({"finish": "fast"}, {"finish": "none"})),
        {"relax_cell": False},
    ],
    ids=str,
)
def test_a_potential_in_batches_finishes_as_its_calculator_does(finishing: RelaxOptions, change: dict) -> None:
    table = structures_table([*some_crystals(3), *layers()[:2], StructureFileError("cannot be read"), Atoms("H2")])
    expected = TableRelaxer(replace(finishing, **change))(table).to_pylist()
    made = TableRelaxer(replace(finishing, **change, calculator=BATCHED))(table).to_pylist()
    for row, wanted in zip(made, expected, strict=True):
        for name in ("status", "jump", "jump_reason", "id", "model", "unchanged"):
            assert row[name] == wanted[name], name
        if change.get("finish") == "fast":  # from far away under these forces, last digits decide which way it goes
            continue
        assert row["steps"] == wanted["steps"]
        if wanted["energy"] is not None:
            assert row["energy"] == pytest.approx(wanted["energy"], abs=1e-4)
            assert row["calculator"] == BATCHED
        for name in ("positions", "cell"):
            assert (row[name] is None) is (wanted[name] is None)
            if row[name] is not None:
                np.testing.assert_allclose(row[name], wanted[name], rtol=0, atol=5e-3)


@pytest.mark.parametrize(
    ("name", "told"),
    [("raises", "RuntimeError: no licence"), ("too_large", "it needs more memory"), ("no_number", "are not finite")],
)
def test_a_potential_in_batches_that_fails_costs_its_crystal(
    quick: RelaxOptions, finishing: RelaxOptions, name: str, told: str
) -> None:
    given = sorted(some_crystals(4), key=len)
    given[3] *= (1 + 8 // len(given[3]), 1, 1)
    table, calculator = structures_table(given), f"tests.batched_emt:{name}"
    *_, failed = TableRelaxer(replace(quick, calculator=calculator))(table).to_pylist()
    assert failed["status"] == "failed"
    assert f"{name} failed: " in failed["reason"]
    assert told in failed["reason"]
    first, *_, last = TableRelaxer(replace(finishing, calculator=calculator))(table).to_pylist()
    assert last["status"] == "uncertain"
    assert "failed, so it stays as predicted: " in last["reason"]
    assert told in last["reason"]
    assert first["status"] in ("converged", "not converged")


@pytest.mark.parametrize("calculator", ["tests.batched_emt:full_disk", "tests.screening.test_table_relaxer:FullDisk"])
def test_a_full_disk_is_no_crystals_fault(quick: RelaxOptions, calculator: str) -> None:
    """It ends the run, which goes on when there is room: else all that comes after it would have failed for good."""
    given = [atoms * (1 + 8 // len(atoms), 1, 1) for atoms in some_crystals(2)]
    with pytest.raises(OSError, match="No space left on device"):
        TableRelaxer(replace(quick, calculator=calculator))(structures_table(given))


@pytest.mark.parametrize(
    ("relax_cell", "told"), [(None, True), (False, False), (AllowedStrain(constant_volume=True), False)]
)
def test_energies_of_minima_are_told_where_nothing_is_held(quick: RelaxOptions, relax_cell, told: bool) -> None:
    free, fixed = some_crystals(2)
    fixed.set_constraint(FixAtoms([0]))
    relaxer = TableRelaxer(replace(quick, relax_cell=relax_cell))
    rows = relaxer(structures_table([free, fixed])).to_pylist() + relaxer(structures_table([free])).to_pylist()
    found = [row["energy_relaxed_potential"] for row in rows]  # the last one goes column by column
    assert found == ["Nequix-OAM-1" if told else None, None, "Nequix-OAM-1" if told else None]
    assert [row["energy_relaxed"] is None for row in rows] == [potential is None for potential in found]
