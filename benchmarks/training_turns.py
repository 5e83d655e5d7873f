"""How fast training is in two trees of the package, in turns on one machine: before and after a change.

python benchmarks/training_turns.py BEFORE AFTER pairs_universal.npz --json benchmarks/results/training_turns.json

BEFORE and AFTER are folders with ``deeprelax_ase`` and ``benchmarks``, called by their commits. Each has a process,
which compiles everything first; then one trains for some hundred steps while the other waits, so that what else the
machine does meets both.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

#: Rows of training_speed.py, with how many steps are timed, and how many come before them.
ROWS = {"end-to-end, 256 channels": (160, 40), "paper's": (60, 40)}


def main() -> None:
    """Run both, gather and write what they found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="folder of the tree that takes the first turn")
    parser.add_argument("after", type=Path, help="folder of the other tree")
    parser.add_argument("data", nargs="+", type=Path, help="npz files of relaxation pairs")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        trees = {"before": given.before.resolve(), "after": given.after.resolve()}
        files = [str(file.resolve()) for file in given.data]
        code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import training_turns; "
        code += "training_turns.take_turns(*sys.argv[1:3], sys.argv[3], int(sys.argv[4]), sys.argv[5:])"
        processes = [
            subprocess.Popen([sys.executable, "-c", code, folder, name, str(tree), str(given.rounds), *files])
            for name, tree in trees.items()
        ]
        while any(process.poll() is None for process in processes):
            time.sleep(0.1)
            if any(process.poll() for process in processes):  # the other would wait for its turn
                for process in processes:
                    process.kill()
                sys.exit("one of the trees failed")
        found = {name: json.loads((Path(folder) / f"{name}.json").read_text()) for name in trees}
    runs = [run for tree in found.values() for run in tree["runs"]]
    names = {name: tree.name for name, tree in trees.items()}
    report = {"environment": found["after"]["environment"], **names, "runs": runs}
    print(json.dumps(report["runs"], indent=1))
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def take_turns(folder: str, name: str, tree: str, rounds: int, files: list[str]) -> None:
    """What the process of one tree does: compile, then time its rows whenever it is its turn."""
    sys.path[:0] = [tree, f"{tree}/benchmarks"]
    import torch

    spec = spec_from_file_location("training_speed", f"{tree}/benchmarks/training_speed.py")
    assert spec is not None
    assert spec.loader is not None
    speed: Any = module_from_spec(spec)
    spec.loader.exec_module(speed)
    speed.idle_share = lambda *args, **options: None  # that is another question, and takes as long again
    from deeprelax_ase.data import load_pairs

    pairs = load_pairs(files, dtype=torch.float32).in_split("train").to("cuda")
    settings, turns, runs = speed.runs(True), Path(folder), []
    for row in ROWS:
        speed.speed(pairs, *settings[row], "cuda", steps=20, warm=20)
    (turns / f"{name} is warm").touch()
    first, other = name == "before", "after" if name == "before" else "before"
    _wait_for(turns / f"{other} is warm")
    for turn in range(rounds):
        if turn or not first:
            _wait_for(turns / f"{name} {turn}")
        for row, (steps, warm) in ROWS.items():
            found = speed.speed(pairs, *settings[row], "cuda", steps=steps, warm=warm)
            runs.append({"tree": name, "round": turn, "row": row, "crystals_per_second": found["crystals_per_second"]})
        (turns / f"{other} {turn if first else turn + 1}").touch()
    (turns / f"{name}.json").write_text(json.dumps({"environment": speed.environment(), "runs": runs}))


def _wait_for(file: Path) -> None:
    while not file.exists():
        time.sleep(0.02)


if __name__ == "__main__":
    main()
