"""``deeprelax relax`` against a stand-in predictor: options, files, messages, exit codes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read, write
from rich.console import Console
from typer.testing import CliRunner, Result

from deeprelax_ase import cli
from deeprelax_ase.cli import relax as command
from deeprelax_ase.errors import CalculatorError, ModelError
from deeprelax_ase.io.source import read_frames
from deeprelax_ase.models import DEFAULT_MODEL
from deeprelax_ase.uncertainty.calibration import CalibratedError
from tests.stand_in import SHRINKAGE, StandInPredictor

ERROR = CalibratedError(coordinates=0.03, coordinates_bound=0.08, volume=0.02, volume_bound=0.05, ood=False)

#: What the command line makes its predictions with.
PREDICTOR = "deeprelax_ase.prediction.predictor.Predictor"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The models and devices that the command line asked for; it gets the stand-in."""
    asked = []

    def load(model, *, device, **options):
        asked.append((model, device, *options.items()))
        return StandInPredictor()

    monkeypatch.setattr(PREDICTOR, load)
    return asked


@pytest.fixture
def deeprelax(asked) -> Callable[..., Result]:
    """Runs the command line."""
    return lambda *arguments: CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture
def crystals() -> list[Atoms]:
    made = [bulk("Cu", "fcc", a=3.6 + 0.1 * k, cubic=True) for k in range(3)]
    for k, atoms in enumerate(made):
        atoms.info["id"] = f"crystal {k}"
    return made


@pytest.fixture
def mixed(crystals: list[Atoms]) -> list[Atoms]:
    """Six frames, of which the second, fourth and last cannot be relaxed."""
    molecule, helium = Atoms("H2", [[0, 0, 0], [0, 0, 0.7]]), bulk("He", "fcc", a=4.2)
    wire = crystals[0].copy()
    wire.pbc = (True, False, False)
    return [crystals[0], molecule, crystals[1], helium, crystals[2], wire]


class TestRelax:
    def test_one_crystal(self, deeprelax, asked, crystals):
        write("POSCAR", crystals[0])
        result = deeprelax("relax", "POSCAR", "-o", "CONTCAR")
        assert result.exit_code == 0, result.output
        np.testing.assert_allclose(read("CONTCAR").cell.lengths(), 3.6 * SHRINKAGE)
        assert asked == [(DEFAULT_MODEL, "auto")]

    def test_default_output_and_info(self, deeprelax, crystals):
        write("set.extxyz", crystals)
        assert deeprelax("relax", "set.extxyz").exit_code == 0
        assert [atoms.info for atoms in read("relaxed.extxyz", index=":")] == [
            {
                "id": f"crystal {k}",
                "deeprelax_model": "stand-in",
                "deeprelax_status": "accepted",
                "deeprelax_uncertainty": 0.04,
            }
            for k in range(3)
        ]

    def test_several_inputs_in_order(self, deeprelax, crystals):
        write("set.extxyz", crystals)
        write("one.vasp", crystals[0])
        assert deeprelax("relax", "set.extxyz@1:", "one.vasp", "set.extxyz@0", "-o", "out.traj").exit_code == 0
        lengths = [round(atoms.cell.lengths()[0] / SHRINKAGE, 6) for atoms in read("out.traj", index=":")]
        assert lengths == [3.7, 3.8, 3.6, 3.6]

    def test_model_and_device(self, deeprelax, asked, crystals):
        write("POSCAR", crystals[0])
        deeprelax("relax", "POSCAR", "--model", "My-Model", "--device", "cpu")
        assert asked == [("My-Model", "cpu")]

    def test_recycles_and_members(self, deeprelax, asked, crystals):
        write("POSCAR", crystals[0])
        deeprelax("relax", "POSCAR", "--recycles", "2", "--members", "1")
        assert asked == [(DEFAULT_MODEL, "auto", ("recycles", 2), ("members", 1))]

    def test_fixed_cell(self, deeprelax, crystals):
        write("set.extxyz", crystals[0])
        deeprelax("relax", "set.extxyz", "--fixed-cell")
        assert read("relaxed.extxyz").cell.array.tolist() == crystals[0].cell.array.tolist()

    def test_the_report(self, deeprelax, crystals):
        write("set.extxyz", crystals)
        result = deeprelax("relax", "set.extxyz")
        lines = result.stdout.splitlines()
        assert lines[0].split() == ["crystal", "formula", "volume", "uncertainty", "(Å)", "status"]
        assert lines[1].split() == ["set.extxyz@0", "Cu", "-8.7%", "0.040", "accepted"]
        assert len(lines) == 5
        assert lines[4].startswith("3 accepted of 3; ")
        assert lines[4].endswith(" crystals/s; written to relaxed.extxyz")
        assert result.stderr == ""

    def test_a_long_report_is_one_line(self, deeprelax, crystals):
        write("set.extxyz", crystals * 20)
        result = deeprelax("relax", "set.extxyz")
        assert result.stdout.startswith("60 accepted of 60; ")
        assert result.stdout.count("\n") == 1

    def test_quiet(self, deeprelax, mixed):
        write("set.extxyz", mixed)
        result = deeprelax("relax", "set.extxyz", "-q")
        assert result.stdout == ""
        assert len(result.stderr.splitlines()) == 3


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
        assert head.split() == ["crystal", "formula", "volume", "error", "(Å)", "volume", "error", "status"]
        assert first.split() == ["set.extxyz@0", "Cu", "-8.7%", "0.030", "2.0%", "uncertain"]
        assert second.split() == ["set.extxyz@1", "Cu", "-8.7%", "0.030", "2.0%", "accepted"]
        assert told.startswith("2 accepted, 1 uncertain of 3; median expected error 0.030 Å, of volumes 2.0%; ")
        atoms = read("relaxed.extxyz", index="0")
        assert atoms.cell.lengths()[0] == pytest.approx(3.6 * SHRINKAGE)
        assert atoms.info["deeprelax_status"] == "uncertain"
        assert atoms.info["deeprelax_reason"] == "the crystal is unlike those that the model knows"

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

    def test_they_alone_are_finished(self, deeprelax):
        emt = ("--calculator", "ase.calculators.emt:EMT", "--on-uncertain", "finish")
        result = deeprelax("relax", "set.extxyz", *emt)
        assert result.exit_code == 0, result.output
        assert "2 accepted, 1 converged of 3" in result.stdout
        assert [atoms.info["deeprelax_status"] for atoms in read("relaxed.extxyz", index=":")] == [
            *("converged", "accepted", "accepted")
        ]


class TestFailures:
    def test_bad_frames_do_not_stop_the_others(self, deeprelax, mixed):
        write("set.extxyz", mixed)
        result = deeprelax("relax", "set.extxyz", "-o", "out.extxyz")
        assert result.exit_code == 1
        found = read("out.extxyz", index=":")
        assert [atoms.info["deeprelax_status"] for atoms in found] == ["accepted", "refused"] * 3
        assert "3 accepted, 3 refused of 6" in result.stdout
        failures = result.stderr.splitlines()
        assert [line.split(":")[0] for line in failures] == ["set.extxyz@1", "set.extxyz@3", "set.extxyz@5"]
        assert "the structure has no periodic cell" in failures[0]
        assert "was not trained on He" in failures[1]
        assert "pbc=[True, False, False]" in failures[2]

    def test_failed_crystals_are_written_as_they_were_with_the_reason(self, deeprelax, mixed):
        write("set.extxyz", mixed)
        deeprelax("relax", "set.extxyz", "-o", "out.extxyz")
        for atoms, initial in list(zip(read("out.extxyz", index=":"), read("set.extxyz", index=":"), strict=True))[
            1::2
        ]:
            assert atoms == initial
            assert "deeprelax_uncertainty" not in atoms.info
            assert atoms.info["deeprelax_status"] == "refused"
            assert atoms.info["deeprelax_reason"]

    def test_a_damaged_frame_is_reported(self, deeprelax, crystals):
        write("set.extxyz", crystals)
        lines = Path("set.extxyz").read_text().splitlines(keepends=True)
        lines[8] = "Qq 0 0 0\n"
        Path("set.extxyz").write_text("".join(lines))
        result = deeprelax("relax", "set.extxyz")
        assert result.exit_code == 1
        assert result.stderr.startswith("set.extxyz@1 cannot be read (")
        assert [atoms.info["id"] for atoms in read("relaxed.extxyz", index=":")] == ["crystal 0", "crystal 2"]
        assert "2 accepted, 1 failed of 3" in result.stdout

    @pytest.mark.filterwarnings("ignore::UserWarning:ase")
    def test_an_unreadable_file_does_not_stop_the_others(self, deeprelax, crystals):
        Path("broken.cif").write_text("data_x\n_cell_length_a nothing\n")
        write("fine.cif", crystals[0])
        result = deeprelax("relax", "broken.cif", "fine.cif")
        assert result.exit_code == 1
        assert result.stderr.startswith("broken.cif")
        assert len(read("relaxed.extxyz", index=":")) == 1

    def test_disordered_cif(self, deeprelax):
        site = "Cu1 Cu 0.7 0 0 0\nAu1 Au 0.3 0 0 0\n"
        Path("alloy.cif").write_text(
            "data_alloy\n_cell_length_a 3.8\n_cell_length_b 3.8\n_cell_length_c 3.8\n_cell_angle_alpha 90\n"
            "_cell_angle_beta 90\n_cell_angle_gamma 90\n_symmetry_space_group_name_H-M 'P 1'\nloop_\n_atom_site_label\n"
            "_atom_site_type_symbol\n_atom_site_occupancy\n_atom_site_fract_x\n_atom_site_fract_y\n"
            f"_atom_site_fract_z\n{site}"
        )
        result = deeprelax("relax", "alloy.cif")
        assert result.exit_code == 1
        assert "Make an ordered structure first" in result.stderr

    def test_brackets_in_messages_are_no_markup(self, deeprelax):
        write("set.extxyz", Atoms("Cu", cell=[3, 3, 9], pbc=(True, False, False)))
        result = deeprelax("relax", "set.extxyz")
        assert "pbc=[True, False, False]" in result.stderr


class TestUsage:
    """Mistakes that are told before any work is done, and before any file is touched."""

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["nowhere.cif"], "nowhere.cif: no such file or folder. Check the name."),
            (["set.extxyz", "nowhere.cif"], "nowhere.cif: no such file"),
            (["set.extxyz@first"], "the index 'first' is not understood"),
            (["set.extxyz", "-o", "set.extxyz"], "set.extxyz would overwrite the input set.extxyz"),
            (["set.extxyz@0:2", "-o", "set.extxyz"], "would overwrite the input"),
            (["set.extxyz", "-o", "POSCAR"], "vasp holds one crystal, and there are several"),
            (["set.extxyz", "-o", "no/where.cif"], "the folder no does not exist. Make it first."),
            (["set.extxyz", "-o", "out.docx"], "ASE knows no format for out.docx"),
            (["set.extxyz", "--calculator", "gpaw"], "Unknown calculator 'gpaw'"),
            (["set.extxyz", "--calculator", "nowhere:make"], "nowhere"),
            (["set.extxyz", "--fmax", "0.01"], "give one with --calculator"),
            (["set.extxyz", "--steps", "3"], "give one with --calculator"),
            (["set.extxyz", "--finish", "fast"], "give one with --calculator"),
            (["set.extxyz", "-c", "ase.calculators.emt:EMT", "--finish", "newton"], "finish='newton' cannot finish"),
            (["set.extxyz", "--on-uncertain", "finish"], "needs a calculator; give one with --calculator"),
            (["set.extxyz", "--on-uncertain", "raise"], "'raise' is not one of"),
            (["set.extxyz", "-c", "ase.calculators.emt:EMT", "--max-error", "0.1"], "Add --on-uncertain finish"),
            (["set.extxyz", "-c", "ase.calculators.emt:EMT", "--on-uncertain", "skip"], "Add --on-uncertain finish"),
            (["set.extxyz", "--max-error", "0.1"], "no calibrated errors to hold against max_error"),
            (["set.extxyz", "--max-volume-error", "-1"], "greater than or"),
            (["set.extxyz", "-c", "os:system"], "'os:system' makes no calculator (TypeError"),
            (["set.extxyz", "--device", "tpu"], "tpu"),
            (["set.extxyz", "-c", "chgnet", "--fmax", "-1"], "greater than or equal to 0"),
            ([], "INPUT"),
        ],
    )
    def test_nothing_is_done(self, deeprelax, folder, crystals, arguments, message):
        write("set.extxyz", crystals)
        before = Path("set.extxyz").read_bytes()
        result = deeprelax("relax", *arguments)
        assert result.exit_code == 2, result.output
        assert message in " ".join(result.stderr.split())
        assert result.stdout == ""
        assert [path.name for path in folder.iterdir()] == ["set.extxyz"]
        assert Path("set.extxyz").read_bytes() == before

    def test_an_unknown_model(self, deeprelax, monkeypatch, crystals):
        def load(model, *, device):
            raise ModelError(f"Unknown model {model!r}, must be one of ['A']")

        monkeypatch.setattr(PREDICTOR, load)
        write("set.extxyz", crystals)
        Path("relaxed.extxyz").write_text("an earlier result")
        result = deeprelax("relax", "set.extxyz", "--model", "B", "--overwrite")
        assert result.exit_code == 2
        assert result.stderr == "Error: Unknown model 'B', must be one of ['A']\n"
        assert Path("relaxed.extxyz").read_text() == "an earlier result"

    def test_one_file_each_is_offered_and_works(self, deeprelax, crystals):
        write("set.extxyz", crystals)
        assert "POSCAR-%04d" in deeprelax("relax", "set.extxyz", "-o", "POSCAR").stderr
        assert deeprelax("relax", "set.extxyz", "-o", "POSCAR-%04d").exit_code == 0
        assert len(list(Path().glob("POSCAR-000?"))) == 3


class TestCalculator:
    def test_finish(self, deeprelax, crystals):
        write("set.extxyz", crystals)
        result = deeprelax("relax", "set.extxyz", "--calculator", "ase.calculators.emt:EMT", "--fmax", "0.01")
        assert result.exit_code == 0, result.output
        for atoms in read("relaxed.extxyz", index=":"):
            assert atoms.info["deeprelax_status"] == "converged"
            assert np.abs(atoms.get_forces()).max() < 0.01
            assert atoms.cell.lengths()[0] == pytest.approx(3.59, abs=0.02)

    def test_not_converged_is_told_by_the_exit_code(self, deeprelax, crystals):
        write("set.extxyz", crystals)
        result = deeprelax("relax", "set.extxyz", "-c", "ase.calculators.emt:EMT", "--steps", "1", "--fmax", "1e-6")
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


def test_interrupted(deeprelax, monkeypatch, crystals):
    class Interrupted(StandInPredictor):
        def predict_many(self, structures, *, relax_cell=True):
            yield from list(super().predict_many(structures, relax_cell=relax_cell))[:2]
            raise KeyboardInterrupt

    monkeypatch.setattr(PREDICTOR, lambda *arguments, **options: Interrupted())
    write("set.extxyz", crystals)
    result = deeprelax("relax", "set.extxyz", "-o", "out.cif")
    assert result.exit_code == 130
    assert result.stderr == "interrupted: 2 crystals are in out.cif\n"
    assert len(read("out.cif", index=":")) == 2


def test_full_disk(deeprelax, crystals):
    Path(f".part-{os.getpid()}-relaxed.extxyz").symlink_to("/dev/full")
    write("set.extxyz", crystals)
    result = deeprelax("relax", "set.extxyz")
    assert result.exit_code == 1
    assert "relaxed.extxyz cannot be written: [Errno 28] No space left on device" in result.stderr


def test_results_of_before_are_replaced_if_asked_for_once_something_is_written(deeprelax, crystals):
    write("relaxed.extxyz", crystals)
    Path("bad.cif").write_text("data_broken\n_cell_length_a nothing\n")
    write("good.vasp", crystals[0])
    refused = deeprelax("relax", "good.vasp")
    assert refused.exit_code == 2
    assert "relaxed.extxyz exists already. Give another name, or replace it with --overwrite" in refused.stderr
    assert deeprelax("relax", "bad.cif", "--overwrite").exit_code == 1
    assert len(read("relaxed.extxyz", index=":")) == 3
    assert deeprelax("relax", "good.vasp", "--overwrite").exit_code == 0
    assert len(read("relaxed.extxyz", index=":")) == 1


@pytest.mark.parametrize("name", ["out.extxyz", "out.traj", "out.db", "out.json"])
def test_numbers_of_no_element_cost_themselves(deeprelax, crystals, name):
    crystals[1].arrays["numbers"][0] = 268
    write("set.traj", crystals)
    result = deeprelax("relax", "set.traj", "-o", name)
    assert result.exit_code == 1
    assert "268] are those of no element" in result.stderr
    assert re.match(r"2 accepted, 1 (refused|failed) of 3", result.stdout.splitlines()[-1])
    assert [f.atoms.info["deeprelax_status"] for f in read_frames(name) if f.atoms and 268 not in f.atoms.numbers] == [
        *("accepted", "accepted")
    ]


def test_folders_and_names_of_files(deeprelax, crystals):
    Path("in").mkdir()
    for number, atoms in enumerate(crystals):
        write(f"in/mp-{number}.cif", atoms)
    assert deeprelax("relax", "in@1:", "-o", "out.extxyz").exit_code == 0
    assert [atoms.info["name"] for atoms in read("out.extxyz", index=":")] == ["mp-1", "mp-2"]
    assert deeprelax("relax", "in", "-o", "in/out.extxyz").exit_code == 2
