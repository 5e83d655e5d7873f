"""Progress on terminals, in logs and pipes, and in notebooks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from deeprelax_ase import progress as module
from deeprelax_ase.progress import INTERVAL, is_live, progress, silent, told_count, told_speed, track
from tests.notebooks import run_notebook

ROOT = Path(__file__).resolve().parents[1]

#: Counts to five, and tells how that goes after every item.
SCRIPT = """
import time
from deeprelax_ase import progress
progress.Lines.interval = {interval}
for _ in progress.track(range(5), "counting"):
    time.sleep(0.02)
print("done")
"""


@pytest.fixture(autouse=True)
def no_hints(monkeypatch: pytest.MonkeyPatch) -> None:
    """What CI systems and notebooks set."""
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", module.OF_A_KERNEL):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def piped(interval: float, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT.format(interval=interval)]
    paths = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
    env = {**os.environ, "PYTHONPATH": paths, **environment}
    return subprocess.run(command, env=env, text=True, capture_output=True, check=True, timeout=60)


@pytest.mark.parametrize(
    ("speed", "told"), [(0.70213, "0.702"), (9.256, "9.26"), (999.4, "999"), (999.6, "1,000"), (689000.0, "689,000")]
)
def test_speeds_are_told_for_people(speed: float, told: str) -> None:
    assert told_speed(speed) == told


def test_counts_are_told_for_people() -> None:
    assert [told_count(n, "crystal") for n in (0, 1, 2345)] == ["0 crystals", "1 crystal", "2,345 crystals"]


class TestPipe:
    def test_short_work_is_silent(self):
        done = piped(INTERVAL)
        assert (done.stdout, done.stderr) == ("done\n", "")

    @pytest.mark.parametrize("environment", [{}, {"FORCE_COLOR": "1"}], ids=["plain", "colours forced"])
    def test_long_work_has_lines_without_control_characters(self, environment):
        done = piped(0.0, **environment)
        assert done.stdout == "done\n"
        lines = done.stderr.splitlines()
        assert [re.sub(r", [\d.e+,]+/s(, 0:00:\d\d left)?$", "", line) for line in lines] == [
            f"counting: {n} of 5" for n in range(1, 6)
        ]
        assert "\x1b" not in done.stderr
        assert "\r" not in done.stderr

    def test_lines_come_now_and_then(self, monkeypatch):
        clock = iter(range(0, 10_000, 10))  # seconds: two looks at the clock are ten apart
        monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
        file = StringIO()
        assert list(track(range(12), "counting", console=Console(file=file))) == list(range(12))
        assert 1 < len(file.getvalue().splitlines()) < 6

    def test_total_rate_and_time_left(self, monkeypatch):
        """A hundred seconds for the first ten of a hundred items: nine hundred for the others."""
        monkeypatch.setattr(module.Lines, "interval", 0.0)
        clock, file = iter(range(0, 100_000, 10)), StringIO()
        with progress(Console(file=file)) as bar:
            monkeypatch.setattr(bar, "get_time", lambda: float(next(clock)))
            task = bar.add_task("counting", total=100)
            for _ in range(10):
                bar.advance(task)
        last = file.getvalue().splitlines()[-1]
        told = re.fullmatch(r"counting: 10 of 100, ([\d.]+)/s, (\d+):(\d\d):(\d\d) left", last)
        assert told is not None, last
        rate, seconds = float(told[1]), sum(int(told[k]) * 60 ** (4 - k) for k in (2, 3, 4))
        assert seconds == pytest.approx(90 / rate, rel=0.05)
        assert rate < 0.2

    def test_a_total_that_is_unknown(self, monkeypatch):
        monkeypatch.setattr(module.Lines, "interval", 0.0)
        file = StringIO()
        list(track(iter(range(2)), "counting", console=Console(file=file)))
        assert file.getvalue().splitlines()[0] == "counting: 1"

    def test_shares_are_told_in_per_cent(self, monkeypatch):
        monkeypatch.setattr(module.Lines, "interval", 0.0)
        file = StringIO()
        with progress(Console(file=file), share=True) as bar:
            bar.update(bar.add_task("training", total=1.0), completed=0.25)
        list(track(range(1), "counting", console=Console(file=file)))  # one item is no share
        assert [line.partition(", ")[0] for line in file.getvalue().splitlines()] == [
            "training: 25%",
            "counting: 1 of 1",
        ]


class TestTerminal:
    def shown(self, **options) -> str:
        file = StringIO()
        console = Console(file=file, force_terminal=True, width=100)
        with progress(console, **options) as bar:
            task = bar.add_task("counting", total=4)
            for _ in range(4):
                bar.advance(task)
            bar.refresh()
        return file.getvalue()

    def test_a_bar_that_goes_when_the_work_is_done(self):
        output = self.shown()
        assert "counting" in output
        assert "4/4" in output
        assert re.search(r"[\d.e+,]+/s", output)
        assert output.endswith("\x1b[1A\x1b[2K")  # up, and erased

    def test_a_share_has_no_rate(self):
        assert "/s" not in self.shown(share=True)

    def test_silence(self):
        assert self.shown(visible=False) == ""

    def test_silence_from_outside(self):
        file = StringIO()
        with silent(False):
            assert "counting" in self.shown()
        with silent(), silent(False):
            assert self.shown() == ""
            assert list(track(range(3), console=Console(file=file, force_terminal=True))) == [0, 1, 2]
        assert file.getvalue() == ""
        assert "counting" in self.shown()

    def test_a_shell_command_of_a_notebook_has_no_terminal(self, monkeypatch):
        terminal = Console(file=StringIO(), force_terminal=True)
        assert is_live(terminal)
        monkeypatch.setenv(module.OF_A_KERNEL, "1")
        assert not is_live(terminal)
        assert self.shown() == ""

    def test_a_dumb_one_has_lines(self, monkeypatch):
        monkeypatch.setenv("TERM", "dumb")
        assert not is_live(Console(file=StringIO(), force_terminal=True))


def test_items_pass_through_and_errors_too():
    def failing():
        yield 1
        raise RuntimeError("broken")

    items = track(failing(), total=2, console=Console(file=StringIO(), force_terminal=True))
    assert next(items) == 1
    with pytest.raises(RuntimeError, match="broken"):
        next(items)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("nbclient") is None or find_spec("ipykernel") is None, reason="needs nbclient, ipykernel")
@pytest.mark.filterwarnings("ignore")  # of others: event loops, old schemas
class TestNotebook:
    """A notebook that is really run."""

    @pytest.fixture(scope="class")
    def cells(self, tmp_path_factory):
        import nbformat

        folder = tmp_path_factory.mktemp("notebook")
        sources = [
            "import time\n"
            "from ase.build import bulk\n"
            "from deeprelax_ase import DeepRelaxOptimizer, Predictor\n"
            "from deeprelax_ase.progress import track\n"
            "predictor = Predictor(recycles=1, members=1, device='cpu')",
            "crystals = [bulk('MgO', 'rocksalt', a=4 + 0.05 * n) for n in range(20)]\n"
            "for prediction in track(predictor.predict_many(crystals, atoms_per_batch=4), total=len(crystals)):\n"
            "    time.sleep(0.05)",
            "prediction",
            "from ase.calculators.emt import EMT\n"
            "atoms = bulk('Cu', a=3.8); atoms.calc = EMT()\n"
            "optimizer = DeepRelaxOptimizer(atoms, predictor=predictor, logfile=None)\n"
            "optimizer.run(); optimizer",
            "from ase.io import write\n"
            "write('set.extxyz', crystals[:2])\n"
            f"!{sys.executable} -m deeprelax_ase.cli relax set.extxyz",
        ]
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", f"{ROOT}:{os.environ.get('PYTHONPATH', '')}")
            patch.setenv("OMP_NUM_THREADS", "1")
            run_notebook(notebook, folder)
        nbformat.validate(notebook)
        return notebook.cells

    def test_progress_is_one_output_that_tells_how_it_ended(self, cells):
        (output,) = cells[1].outputs
        assert output.output_type == "display_data"
        assert "relaxing" in output.data["text/html"]
        assert "20/20" in output.data["text/html"]
        assert "20/20" in output.data["text/plain"]

    def test_predictions_and_optimizers_are_tables(self, cells):
        for cell, told in ((cells[2], "uncertainty"), (cells[3], "converged")):
            (output,) = cell.outputs
            assert output.output_type == "execute_result"
            assert output.data["text/html"].startswith("<table>")
            assert told in output.data["text/html"]
        assert "<DeepRelaxOptimizer Cu, 1 atom: jump " in cells[3].outputs[0].data["text/plain"]

    def test_shell_commands_leave_no_control_characters(self, cells):
        text = "".join(output.text for output in cells[4].outputs)
        assert "2 accepted of 2; " in text
        assert "\x1b[2K" not in text
        assert "\x1b[1A" not in text
