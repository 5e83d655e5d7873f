"""What only a process of its own shows of the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ase.build import bulk

from deeprelax_ase import __version__


class TestProcess:
    """What only a process of its own shows."""

    @staticmethod
    def run(code: str, **options) -> subprocess.CompletedProcess[str]:
        root = Path(__file__).resolve().parents[2]
        command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(root)!r})\n{code}"]
        return subprocess.run(command, text=True, capture_output=True, check=False, timeout=120, **options)

    def test_help_starts_without_the_heavy_libraries(self):
        asked = [["--version"], ["--help"], ["relax", "--help"], ["relax"], ["train", "--help"], ["finetune", "--help"]]
        heavy = {"torch", "lightning", "dgl", "matgl", "ase", "pymatgen", "scipy", "yaml"}
        result = self.run(
            "from deeprelax_ase.cli import main\n"
            f"for arguments in {asked}:\n"
            "    sys.argv = ['deeprelax', *arguments]\n"
            "    try:\n        main()\n"
            "    except SystemExit as end:\n        code = end.code\n"
            f"    print('heavy:', *{heavy} & set(sys.modules), 'code:', code)"
        )
        told = [line for line in result.stdout.splitlines() if line.startswith("heavy:")]
        assert told == [f"heavy: code: {code}" for code in (0, 0, 0, 2, 0, 0)]
        assert result.stdout.startswith(f"deeprelax {__version__}\n")
        assert "deeprelax finetune" in result.stdout
        assert "Traceback" not in result.stderr

    def test_table_relaxer_a_file_starts_without_what_it_does_not_need(self, tmp_path):
        """Torch's compiler and sympy take longer to import than all the rest, spglib longer than the prediction."""
        bulk("MgO", "rocksalt", a=4.3).write(tmp_path / "POSCAR", format="vasp")
        idle = {"torch._dynamo", "sympy", "spglib", "pandas", "pymatgen", "pyarrow", "rich.markdown"}
        idle |= {"matgl", "dgl", "ray", "lightning", "jaxtyping", "beartype"}
        result = self.run(
            "sys.argv = ['deeprelax', 'relax', 'POSCAR', '-o', 'CONTCAR']\n"
            "from deeprelax_ase.cli import main\n"
            f"try:\n    main()\nfinally:\n    print('idle:', *{idle} & set(sys.modules))",
            cwd=tmp_path,
        )
        assert result.stdout.splitlines()[-1] == "idle:", result.stderr
        assert (tmp_path / "CONTCAR").exists()

    @pytest.mark.parametrize("module", ["typer", "numpy", "deeprelax_ase.cli.relax"])
    def test_an_interruption_of_the_start_is_no_traceback(self, module):
        result = self.run(
            "class Interrupted:\n"
            "    def find_spec(self, name, *rest):\n"
            f"        if name == {module!r}:\n            raise KeyboardInterrupt\n"
            "sys.meta_path.insert(0, Interrupted())\n"
            "sys.argv = ['deeprelax', 'relax', 'POSCAR']\n"
            "from deeprelax_ase.cli import main\nmain()"
        )
        assert (result.returncode, result.stdout, result.stderr) == (130, "", "interrupted\n")

    @pytest.mark.parametrize(("chosen", "policy"), [(None, "passive"), ("active", "active")])
    def test_threads_do_not_spin_unless_the_user_wants_them_to(self, chosen, policy, monkeypatch):
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
        if chosen:
            monkeypatch.setenv("OMP_WAIT_POLICY", chosen)
        result = self.run(
            "import os\nsys.argv = ['deeprelax', '--version']\nfrom deeprelax_ase.cli import main\n"
            "try:\n    main()\nfinally:\n    print(os.environ['OMP_WAIT_POLICY'])"
        )
        assert result.stdout.splitlines()[-1] == policy

    def test_a_reader_that_goes_away_is_no_error_message(self):
        result = self.run(
            "import os\n"
            "sys.argv = ['deeprelax', '--help']\n"
            "reader, writer = os.pipe()\nos.close(reader)\nos.dup2(writer, 1)\n"
            "from deeprelax_ase.cli import main\nmain()"
        )
        assert "Traceback" not in result.stderr
        assert "BrokenPipe" not in result.stderr

    def test_who_calls_it_ends_with_a_code_of_its_own(self):
        result = self.run(
            "sys.argv = ['deeprelax', '--version']\n"
            "from deeprelax_ase.cli import main\n"
            "try:\n    main()\nexcept SystemExit:\n    sys.exit(3)"
        )
        assert result.returncode == 3, result.stderr

    def test_an_error_that_nobody_foresaw_is_told_in_full(self):
        result = self.run(
            "from deeprelax_ase import cli\n"
            "def broken(**options):\n    raise RuntimeError('a fault of ours')\n"
            "cli.app = broken\ncli.main()"
        )
        assert result.returncode == 1
        assert "RuntimeError: a fault of ours" in result.stderr
