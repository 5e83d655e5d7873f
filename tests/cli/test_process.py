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

    @pytest.mark.parametrize("arguments", [["--help"], ["relax", "--help"], ["--version"], ["relax"]])
    def test_help_starts_without_the_heavy_libraries(self, arguments):
        result = self.run(
            f"sys.argv = ['deeprelax', *{arguments}]\n"
            "from deeprelax_ase.cli import main\n"
            "try:\n    main()\n"
            "finally:\n    print('heavy:', *{'torch', 'dgl', 'matgl', 'ase', 'pymatgen', 'scipy'} & set(sys.modules))"
        )
        assert result.stdout.splitlines()[-1] == "heavy:"
        assert "Traceback" not in result.stderr

    def test_table_relaxer_a_file_starts_without_what_it_does_not_need(self, tmp_path):
        """Torch's compiler and sympy take longer to import than all the rest, spglib longer than the prediction."""
        bulk("MgO", "rocksalt", a=4.3).write(tmp_path / "POSCAR", format="vasp")
        idle = {"torch._dynamo", "sympy", "spglib", "pandas", "pymatgen", "pyarrow", "matgl", "rich.markdown"}
        result = self.run(
            "sys.argv = ['deeprelax', 'relax', 'POSCAR', '-o', 'CONTCAR']\n"
            "from deeprelax_ase.cli import main\n"
            f"try:\n    main()\nfinally:\n    print('idle:', *{idle} & set(sys.modules))",
            cwd=tmp_path,
        )
        assert result.stdout.splitlines()[-1] == "idle:", result.stderr
        assert (tmp_path / "CONTCAR").exists()

    def test_version(self):
        result = self.run("sys.argv = ['deeprelax', '--version']\nfrom deeprelax_ase.cli import main\nmain()")
        assert result.stdout == f"deeprelax {__version__}\n"
        assert result.returncode == 0

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
