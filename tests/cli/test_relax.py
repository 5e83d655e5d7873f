"""``deeprelax relax`` against a stand-in predictor: options, files, messages, exit codes."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import read, write

from deeprelax_ase.errors import ModelError
from deeprelax_ase.io.source import read_frames
from deeprelax_ase.models import DEFAULT_MODEL
from tests.cli.conftest import PREDICTOR
from tests.stand_in import SHRINKAGE, StandInPredictor


class TestRelax:
    def test_one_crystal(self, deeprelax, asked, crystals):
        write("POSCAR", crystals[0])
        result = deeprelax("relax", "POSCAR", "-o", "CONTCAR")
        assert result.exit_code == 0, result.output
        np.testing.assert_allclose(read("CONTCAR").cell.lengths(), 3.6 * SHRINKAGE)
        assert asked == [(DEFAULT_MODEL, "auto", ("one_shot", "default"))]

    @pytest.mark.parametrize(
        ("inputs", "output", "told"),
        [
            ("set.extxyz@a:b:c", "x.extxyz", "set.extxyz@a:b:c: the index 'a:b:c'"),  # ":b:" is a picture to rich
            ("", "x.extxyz", "the name of an input is empty"),
            ("set.extxyz", "", "the name of the output is empty"),
        ],
    )
    def test_odd_names_are_told_as_they_are(self, deeprelax, crystals, inputs, output, told):
        write("set.extxyz", crystals)
        result = deeprelax("relax", inputs, "-o", output)
        assert result.exit_code == 2
        assert told in result.output.replace("\n", " ")

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

    def test_names_of_files_are_kept(self, deeprelax, crystals):
        for name, atoms in zip(("a.vasp", "POSCAR", "b.cif.gz"), crystals, strict=True):
            write(name, atoms, format="cif" if "cif" in name else "vasp")
        write("set.extxyz", crystals)
        Path("out").mkdir()
        given = ("a.vasp", "POSCAR", "b.cif.gz", "set.extxyz@1:", "a.vasp")
        assert deeprelax("relax", *given, "-o", "out/%s.vasp").exit_code == 0
        names = {
            "a.vasp": 3.6,
            "POSCAR.vasp": 3.7,
            "b.vasp": 3.8,
            "set-1.vasp": 3.7,
            "set-2.vasp": 3.8,
            "a-5.vasp": 3.6,
        }
        found = {file.name: read(file).cell.lengths()[0] / SHRINKAGE for file in Path("out").iterdir()}
        assert found == pytest.approx(names)
        again = deeprelax("relax", "a.vasp", "-o", "out/%s.vasp")
        assert (again.exit_code, "exists already" in again.stderr) == (2, True)

    def test_model_and_device(self, deeprelax, asked, crystals):
        write("POSCAR", crystals[0])
        deeprelax("relax", "POSCAR", "--model", "My-Model", "--device", "cpu")
        assert asked == [("My-Model", "cpu", ("one_shot", "default"))]

    def test_recycles_and_members(self, deeprelax, asked, crystals):
        write("POSCAR", crystals[0])
        deeprelax("relax", "POSCAR", "--recycles", "2", "--members", "1")
        deeprelax("relax", "POSCAR", "--one-shot", "fast", "--overwrite")
        most = (DEFAULT_MODEL, "auto", ("one_shot", "default"), ("recycles", 2), ("members", 1))
        assert asked == [most, (DEFAULT_MODEL, "auto", ("one_shot", "fast"))]

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

    @pytest.mark.parametrize("seconds", [0.0, 1e9], ids=["log of long work", "of short work"])
    def test_a_log_tells_the_total_of_long_work(self, deeprelax, crystals, monkeypatch, seconds):
        monkeypatch.setattr("deeprelax_ase.cli.relax.INTERVAL", seconds)
        monkeypatch.setattr("deeprelax_ase.progress.Lines.interval", seconds)
        write("set.extxyz", crystals)
        told = [line.partition(",")[0] for line in deeprelax("relax", "set.extxyz").stderr.splitlines()]
        assert told[-1:] == ([] if seconds else ["relaxing: 3 of 3"])

    def test_quiet(self, deeprelax, mixed):
        write("set.extxyz", mixed)
        result = deeprelax("relax", "set.extxyz", "-q")
        assert result.stdout == ""
        assert len(result.stderr.splitlines()) == 3


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
            (["set.extxyz", "-c", "ase.calculators.emt:EMT", "--finish", "newton"], "--finish newton cannot finish"),
            (["set.extxyz", "--on-uncertain", "finish"], "needs a calculator; give one with --calculator"),
            (["set.extxyz", "--on-uncertain", "drop"], "'drop' is not one of"),
            (["set.extxyz", "-c", "ase.calculators.emt:EMT", "--on-uncertain", "raise"], "Add --on-uncertain finish"),
            (["set.extxyz", "-c", "ase.calculators.emt:EMT", "--max-error", "0.1"], "Add --on-uncertain finish"),
            (["set.extxyz", "-c", "ase.calculators.emt:EMT", "--on-uncertain", "skip"], "Add --on-uncertain finish"),
            (["set.extxyz", "--max-error", "0.1"], "no calibrated errors to hold against --max-error"),
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
        def load(model, **options):
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
        assert "POSCAR-%s" in deeprelax("relax", "set.extxyz", "-o", "POSCAR").stderr
        assert deeprelax("relax", "set.extxyz", "-o", "POSCAR-%04d").exit_code == 0
        assert len(list(Path().glob("POSCAR-000?"))) == 3


def test_interrupted(deeprelax, monkeypatch, crystals):
    class Interrupted(StandInPredictor):
        def predict_many(self, structures, *, relax_cell=True):
            yield from list(super().predict_many(structures, relax_cell=relax_cell))[:2]
            raise KeyboardInterrupt

    monkeypatch.setattr(PREDICTOR, lambda *arguments, **options: Interrupted())
    write("set.extxyz", crystals)
    result = deeprelax("relax", "set.extxyz", "-o", "out.cif")
    assert result.exit_code == 130
    assert result.stderr == "interrupted: 2 crystals written to out.cif\n"
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


def test_files_that_are_left_out_are_counted(deeprelax, crystals):
    with zipfile.ZipFile("set.zip", "w") as archive:
        write("a.cif", crystals[0])
        archive.write("a.cif")
        archive.writestr("[README].md", "nothing")
    result = deeprelax("relax", "set.zip", "-o", "out.extxyz")
    assert result.exit_code == 0
    summary, unread = result.stdout.splitlines()[-2:]
    assert summary.startswith("1 accepted of 1")
    assert unread.startswith("1 file is left out")
    assert unread.endswith("set.zip:[README].md")
    assert "left out" not in deeprelax("relax", "a.cif", "-o", "out2.extxyz").stdout
