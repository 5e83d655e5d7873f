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

#: Runs the command as bash does when a key is pressed, and says what of the heavy libraries that took.
SCRIPT = """
import sys
from deeprelax_ase.cli import main
try:
    main()
finally:
    print('heavy:', *{'torch', 'ase', 'dgl', 'matgl', 'scipy', 'pymatgen'} & set(sys.modules))
"""


def completed(words: str, *, shell: str = "bash") -> list[str]:
    place = len(words.split(" ")) - 1
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "_DEEPRELAX_COMPLETE": f"complete_{shell}"}
    environment |= {"COMP_WORDS": words.replace(" ", "\n"), "COMP_CWORD": str(place)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, text=True, capture_output=True, check=True, timeout=60
    )
    *found, heavy = done.stdout.splitlines()
    assert heavy == "heavy:", heavy
    return [word for word in found if word]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("deeprelax sc", {"screen"}),
        ("deeprelax relax POSCAR --on-unc", {"--on-uncertain"}),
        ("deeprelax relax POSCAR --on-uncertain s", {"skip"}),
        ("deeprelax relax POSCAR --calculator m", {"m3gnet", "matgl:"}),
        ("deeprelax label a.xyz --finish fas", {"fast"}),
        ("deeprelax screen a.xyz --model DeepRelax-M", {"DeepRelax-M3GNet"}),
        ("deeprelax evaluate DeepRelax-PBE-", {"DeepRelax-PBE-v0"}),
        ("deeprelax bench --split v", {"validation"}),
    ],
)
def test_bash_completes_without_the_heavy_libraries(words, wanted):
    assert set(completed(words)) == wanted


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


@pytest.mark.parametrize(
    ("command", "option", "known"),
    [("bench", "--baseline", set(BASELINES)), ("candidates", "--kind", set(CandidateSettings().shares))],
)
def test_words_are_those_that_the_work_knows(command, option, known):
    assert set(completed(f"deeprelax {command} {option} ")) == known
