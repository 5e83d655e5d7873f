"""What shells complete, and how soon."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deeprelax_ase.cli import completion
from deeprelax_ase.evaluation.baselines import BASELINES
from deeprelax_ase.labelling import CandidateSettings
from deeprelax_ase.models import available_models
from deeprelax_ase.optimizers.finish import resolve_finish

ROOT = Path(__file__).resolve().parents[2]

#: Runs the command as bash does whenever a key is pressed, and says what of the heavy libraries that took.
SCRIPT = """
import os, sys
from deeprelax_ase.cli import main
for words in sys.argv[1:]:
    os.environ.update(COMP_WORDS=words.replace(' ', '\\n'), COMP_CWORD=str(words.count(' ')))
    try:
        main()
    except SystemExit:
        print('end of', words)
print('heavy:', *{'torch', 'ase', 'dgl', 'matgl', 'scipy', 'pymatgen'} & set(sys.modules))
"""

COMPLETIONS = {
    "deeprelax sc": {"screen"},
    "deeprelax relax POSCAR --on-unc": {"--on-uncertain"},
    "deeprelax relax POSCAR --on-uncertain s": {"skip"},
    "deeprelax relax POSCAR --calculator m": {"m3gnet", "matgl:"},
    "deeprelax label a.xyz --finish fas": {"fast"},
    "deeprelax screen a.xyz --model DeepRelax-M": {"DeepRelax-M3GNet"},
    "deeprelax evaluate DeepRelax-PBE-": {"DeepRelax-PBE-v0"},
    "deeprelax bench --split v": {"validation"},
    "deeprelax bench --baseline ": set(BASELINES),
    "deeprelax candidates --kind ": set(CandidateSettings().shares),
}


def test_bash_completes_without_the_heavy_libraries():
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "_DEEPRELAX_COMPLETE": "complete_bash"}
    command = [sys.executable, "-c", SCRIPT, *COMPLETIONS]
    told = subprocess.run(command, env=environment, text=True, capture_output=True, check=True, timeout=60).stdout
    for words, wanted in COMPLETIONS.items():
        found, _, told = told.partition(f"end of {words}\n")
        assert set(filter(None, found.splitlines())) == wanted, words
    assert told == "heavy:\n"


def test_finishes_are_those_that_finish():
    for name in set(completion.FINISHES) - {"none"}:
        resolve_finish(name)
    with pytest.raises(ValueError, match="cannot finish") as told:
        resolve_finish("none of them")
    for name in ("BFGS", "FIRE2", "PreconLBFGS", "fast"):
        assert name in str(told.value)
        assert name.lower() in completion.FINISHES


def test_models_are_all_models():
    assert set(completion.models("")) == {card.name for card in available_models()}
    assert completion.models("deeprelax-m") == ["DeepRelax-M3GNet"]
