"""``deeprelax relax`` where predictions are uncertain, or a calculator finishes them."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.constraints import FixCom, FixedPlane
from ase.io import read, write
from rich.console import Console

from deeprelax_ase.cli import relax as command
from deeprelax_ase.errors import CalculatorError
from deeprelax_ase.uncertainty.calibration import CalibratedError
from deeprelax_ase.uncertainty.relaxed_energy import RelaxedEnergy
from tests.cli.conftest import PREDICTOR
from tests.stand_in import SHRINKAGE, StandInPredictor

#: One crystal after the other, and many at once.
EMTS = ("ase.calculators.emt:EMT", "tests.batched_emt:emt")

ERROR = CalibratedError(coordinates=0.03, coordinates_bound=0.08, volume=0.02, volume_bound=0.05, ood=False)


class TestUncertain:
    """One crystal of three is unlike those that the model knows."""

    @pytest.fixture(autouse=True)
    def doubtful(self, asked, monkeypatch, crystals):
        class Doubtful(StandInPredictor):
            def predict(self, structure, **options):
                made = super().predict(structure, **options)
                return replace(made, error=replace(ERROR, ood=bool(made.initial.cell[0, 0] < 3.65)))

        monkeypatch.setattr(PREDICTOR, lambda *arguments, **options: Doubtful(error=ERROR))
        write("set.extxyz", crystals)

    def test_they_are_handed_out_and_told(self, deeprelax):
        result = deeprelax("relax", "set.extxyz")
        assert result.exit_code == 1
        assert result.stderr == ""
        head, first, second, _, doubt, told = result.stdout.splitlines()
        assert doubt == "set.extxyz@0: the crystal is unlike those that the model knows"
        assert head.split() == ["crystal", "formula", "volume", "error", "(Å)", "status"]
        assert first.split() == ["set.extxyz@0", "Cu", "-8.7%", "±", "2.0%", "0.030", "uncertain"]
        assert second.split() == ["set.extxyz@1", "Cu", "-8.7%", "±", "2.0%", "0.030", "accepted"]
        assert told.startswith("2 accepted, 1 uncertain of 3; median expected error 0.030 Å, of volumes 2.0%; ")
        atoms = read("relaxed.extxyz", index="0")
        assert atoms.cell.lengths()[0] == pytest.approx(3.6 * SHRINKAGE)
        assert atoms.info["deeprelax_status"] == "uncertain"
        assert atoms.info["deeprelax_reason"] == "the crystal is unlike those that the model knows"

    def test_energies_are_told_where_the_model_tells_them(self, deeprelax, monkeypatch):
        class Told(StandInPredictor):
            def predict(self, structure, **options):
                energy = RelaxedEnergy(energy=-3.7251, bound=0.0912, potential="Nequix-OAM-1")
                return replace(super().predict(structure, **options), energy=energy)

        monkeypatch.setattr(PREDICTOR, lambda *given, **options: Told(error=ERROR))
        head, *rows, told = deeprelax("relax", "set.extxyz").stdout.splitlines()
        assert head.split()[-2:] == ["eV/atom", "status"]
        assert [row.split()[-2:] for row in rows] == [["-3.725", "accepted"]] * 3
        assert "; energies of Nequix-OAM-1, median bound 0.09 eV/atom; " in told

    def test_names_are_whole_in_80_columns(self, deeprelax, crystals, monkeypatch):
        monkeypatch.setenv("COLUMNS", "80")
        write("a_very_long_name_of_candidates.extxyz", crystals)
        under = ("-c", EMTS[0], "--on-uncertain", "finish", "--steps", "1")
        result = deeprelax("relax", "a_very_long_name_of_candidates.extxyz", *under)
        *rows, _ = result.stdout.splitlines()
        names = "".join(row.split()[0] for row in rows[1:] if not row.startswith(" "))
        assert names == "".join(f"…_of_candidates.extxyz@{k}" for k in range(3))  # on two lines each
        assert max(map(len, rows)) <= 80

    def test_of_many_the_reasons_are_counted_by_kind(self, deeprelax, crystals):
        write("many.extxyz", crystals * 20)
        result = deeprelax("relax", "many.extxyz", "--max-error", "0.02")
        assert result.exit_code == 1
        *reasons, told = result.stdout.splitlines()
        assert sum(int(line.partition(" uncertain: ")[0]) for line in reasons) == 60
        assert "its expected error … Å is above --max-error … Å" in " ".join(reasons)
        assert told.startswith("60 uncertain of 60; ")

    def test_limits(self, deeprelax):
        for limit, value in (("--max-error", "0.02"), ("--max-volume-error", "0.01"), ("--max-uncertainty", "0.01")):
            assert "3 uncertain of 3" in deeprelax("relax", "set.extxyz", "--overwrite", limit, value).stdout

    @pytest.mark.filterwarnings("default:.*is uncertain")
    def test_a_warning(self, deeprelax):
        result = deeprelax("relax", "set.extxyz", "--on-uncertain", "warn")
        assert result.exit_code == 1
        (line,) = result.stderr.splitlines()
        assert line.startswith("Note: set.extxyz@0 is uncertain: the crystal is unlike")

    def test_they_are_left_as_they_are(self, deeprelax):
        assert deeprelax("relax", "set.extxyz", "--on-uncertain", "skip").exit_code == 1
        first, second, _ = read("relaxed.extxyz", index=":")
        assert first.cell.lengths()[0] == pytest.approx(3.6)
        assert first.info["deeprelax_status"] == "uncertain"
        assert second.cell.lengths()[0] == pytest.approx(3.7 * SHRINKAGE)

    def test_they_end_it_where_that_is_wanted(self, deeprelax, crystals):
        """What came before the first of them is written; where it is the first crystal, there is no file."""
        write("set.extxyz", [*crystals[1:], crystals[0], crystals[1]])
        result = deeprelax("relax", "set.extxyz", "--on-uncertain", "raise")
        assert result.exit_code == 1
        assert result.stdout == ""
        told = "Error: set.extxyz@2 is uncertain: the crystal is unlike those that the model knows (expected error"
        assert result.stderr.startswith(told)
        assert result.stderr.endswith(" What came before it is in relaxed.extxyz: 2 crystals.\n")
        written = read("relaxed.extxyz", index=":")
        assert [atoms.info["deeprelax_status"] for atoms in written] == ["accepted", "accepted"]
        write("set.extxyz", crystals)
        first = deeprelax("relax", "set.extxyz", "--on-uncertain", "raise", "-o", "first.extxyz")
        assert (first.exit_code, Path("first.extxyz").exists()) == (1, False)
        write("set.extxyz", crystals[1:])
        assert deeprelax("relax", "set.extxyz", "--on-uncertain", "raise", "--overwrite").exit_code == 0

    @pytest.mark.parametrize("name", EMTS)
    def test_they_alone_are_finished(self, deeprelax, name):
        emt = ("--calculator", name, "--on-uncertain", "finish")
        result = deeprelax("relax", "set.extxyz", *emt)
        assert result.exit_code == 0, result.output
        assert "2 accepted, 1 converged of 3" in result.stdout
        assert [atoms.info["deeprelax_status"] for atoms in read("relaxed.extxyz", index=":")] == [
            *("converged", "accepted", "accepted")
        ]


class TestCalculator:
    @pytest.mark.parametrize("name", EMTS)
    def test_finish(self, deeprelax, crystals, name):
        write("set.extxyz", crystals)
        result = deeprelax("relax", "set.extxyz", "--calculator", name, "--fmax", "0.01")
        assert result.exit_code == 0, result.output
        for atoms in read("relaxed.extxyz", index=":"):
            assert atoms.info["deeprelax_status"] == "converged"
            assert atoms.info["deeprelax_calculator"] == name
            assert np.abs(atoms.get_forces()).max() < 0.01
            assert atoms.cell.lengths()[0] == pytest.approx(3.59, abs=0.02)

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            (["--fmax", "0"], "--fmax 0 eV/Å is a force that no relaxation ends at"),
            (["--fmax", "nan"], "Invalid value for '--fmax'"),
            (["--pressure", "1e9"], "Invalid value for '--pressure'"),
        ],
    )
    @pytest.mark.parametrize("command", [["relax"], ["screen", "-o", "screened", "--workers", "0"]])
    def test_what_no_relaxation_ends_at_is_refused(self, deeprelax, crystals, command, options, told):
        write("set.extxyz", crystals)
        result = deeprelax(*command, "set.extxyz", "-c", EMTS[0], *options)
        assert result.exit_code == 2
        assert told in result.stderr
        assert [path.name for path in Path().iterdir()] == ["set.extxyz"]

    @pytest.mark.parametrize("name", EMTS)
    def test_a_collapse_tells_the_pressure(self, deeprelax, crystals, name):
        write("set.extxyz", crystals[:1])
        result = deeprelax("relax", "set.extxyz", "-c", name, "--pressure", "9000", "--finish", "fire")
        assert result.exit_code == 1
        told = " ".join(result.stderr.split())
        assert "the cell has collapsed" in told
        assert "under a pressure of 9000 GPa" in told

    @pytest.mark.parametrize("name", EMTS)
    def test_not_converged_is_told_by_the_exit_code(self, deeprelax, crystals, name):
        write("set.extxyz", crystals)
        result = deeprelax("relax", "set.extxyz", "-c", name, "--steps", "1", "--fmax", "1e-6")
        assert result.exit_code == 1
        assert result.stdout.splitlines()[-1].startswith("3 not converged of 3; 1 jump rejected, 6 force calls; ")
        assert len(read("relaxed.extxyz", index=":")) == 3

    def test_jumps_and_calls_are_told(self, deeprelax, crystals):
        tight = bulk("Cu", "fcc", a=3.55, cubic=True)  # below the minimum under EMT, and the stand-in shrinks it
        write("set.extxyz", [crystals[2], tight])
        result = deeprelax("relax", "set.extxyz", "--calculator", "ase.calculators.emt:EMT", "--fmax", "0.01")
        head, first, second, told = result.stdout.splitlines()
        assert head.split() == ["crystal", "formula", "volume", "force", "calls", "status"]
        assert first.split()[-1] == "converged"
        assert second.split()[-3:] == ["converged,", "jump", "rejected"]
        calls = [int(first.split()[3]), int(second.split()[3])]
        assert told.startswith(f"2 converged of 2; 1 jump rejected, {sum(calls)} force calls; ")

    def test_what_goes_one_by_one_where_others_go_in_batches(self, deeprelax, crystals):
        crystals[0].set_constraint(FixCom())
        crystals[1].set_constraint(FixedPlane([0], (0, 0, 1)))
        write("set.traj", crystals)
        relax = (
            "relax",
            "set.traj",
            "-o",
            "relaxed.traj",
            "--calculator",
        )  # which holds FixCom, as extended XYZ does not
        for name, told in zip(EMTS, ("", "1 crystal was finished one by one"), strict=True):
            result = deeprelax(*relax, name, "--overwrite")
            assert result.exit_code == 0, result.output
            assert told in result.stderr
            assert ("one by one" in result.stderr) == bool(told)
            assert not deeprelax(*relax, name, "--overwrite", "--quiet").stderr
            again = deeprelax(*relax, name, "--overwrite", "--restart", "kept")
            assert ("--restart finishes crystals one by one" in again.stderr) == bool(told)

    def test_progress_on_a_terminal(self, deeprelax, monkeypatch, crystals):
        shown = StringIO()
        monkeypatch.setattr(command, "errors", lambda: Console(file=shown, force_terminal=True, width=120))
        write("set.extxyz", crystals)
        deeprelax("relax", "set.extxyz", "--calculator", "ase.calculators.emt:EMT")
        assert "relaxing set.extxyz@2, step" in shown.getvalue()
        assert "3/3" in shown.getvalue()
        assert "/s" in shown.getvalue()

    def test_the_jump_alone(self, deeprelax, crystals):
        write("set.extxyz", [crystals[2], bulk("Cu", "fcc", a=3.55, cubic=True)])
        emt = ("--calculator", "ase.calculators.emt:EMT", "--finish", "none")
        result = deeprelax("relax", "set.extxyz", *emt, "--fmax", "1e-6")
        assert result.exit_code == 1
        assert "set.extxyz@1: jump rejected: it raises the energy" in result.stderr
        assert result.stdout.splitlines()[-1].startswith("1 accepted, 1 jump rejected of 2; 1 jump rejected, 4 force ")

    def test_a_calculator_that_cannot_be_made_again_ends_the_run(self, deeprelax, monkeypatch, crystals):
        class Broken(EMT):
            def calculate(self, *args, **kwargs):
                raise RuntimeError("broken")

        made = []

        def get_calculator(name, *, device):
            if made:
                raise CalculatorError("only once")
            made.append((name, device))
            return Broken()

        monkeypatch.setattr("deeprelax_ase.calculators.registry.get_calculator", get_calculator)
        write("set.extxyz", crystals)
        result = deeprelax("relax", "set.extxyz", "-c", "special", "--device", "cpu")
        assert result.exit_code == 1
        assert result.stderr == "set.extxyz@0: RuntimeError: broken\nError: only once\n"
        assert made == [("special", "cpu")]
        assert len(read("relaxed.extxyz", index=":")) == 1

    def test_none_in_any_case(self, deeprelax, crystals):
        write("set.extxyz", crystals)
        assert deeprelax("relax", "set.extxyz", "-c", "None").exit_code == 0
        assert read("relaxed.extxyz").info["deeprelax_status"] == "accepted"
