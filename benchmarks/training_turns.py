"""How fast training is in two trees of the package, in turns on one machine: before and after a change.

python benchmarks/training_turns.py BEFORE AFTER pairs_universal.npz --json benchmarks/results/training_turns.json

BEFORE and AFTER are folders with ``deeprelax_ase`` and ``benchmarks``, called by their commits. Each has a process that
trains without end, on the same crystals in the same order. It compiles everything first; then it waits for its turn
every some steps, so that what else the machine does meets both. What is found is written after every turn, beside the
measurements that the file holds already.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

#: Rows of training_speed.py. An end marks the network without torch.compile.
ROWS = ("end-to-end, 256 channels", "paper's")
PLAIN = ", not compiled"

#: Steps between two looks at the clock, when the log waits for the device; those after a pause are not counted.
EVERY = 10


def main() -> None:
    """Run both, gather and write what they found."""
    given = _parser().parse_args()
    begin = time.monotonic()
    trees = {"before": given.before.resolve(), "after": given.after.resolve()}
    report = {"environment": {}, **{name: tree.name for name, tree in trees.items()}, "runs": []}
    for row in given.rows:
        with TemporaryDirectory() as folder:
            for run in _in_turns(Path(folder), trees, row, given, begin + given.seconds):
                report["environment"] = run.pop("environment")
                report["runs"].append(run)
                print(json.dumps(run), flush=True)
                if given.json:
                    _write(report, given.json)
        print(row, json.dumps(ratios(report["runs"], row)), flush=True)


def ratios(runs: list[dict[str, Any]], row: str) -> dict[str, float]:
    """Median step times of the trees, ms, over the turns that both have had, and the ratio of their speeds."""
    of_row = [run for run in runs if run["row"] == row]
    turns = min(sum(run["tree"] == tree for run in of_row) for tree in ("before", "after"))
    if not turns:
        return {}
    times = {
        tree: median(ms for run in of_row if run["tree"] == tree and run["round"] < turns for ms in run["step_ms"])
        for tree in ("before", "after")
    }
    return {**times, "ratio": times["before"] / times["after"]}


def _in_turns(folder: Path, trees: dict[str, Path], row: str, given: argparse.Namespace, deadline: float) -> Any:
    """The turns of both processes, as they come; those after the ``deadline`` are left out."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import training_turns; "
    code += "training_turns.take_turns(*sys.argv[1:4], [int(size) for size in sys.argv[4:8]], *sys.argv[8:])"
    sizes = [given.warm, given.steps, given.rounds, given.atoms_per_batch or 0]
    rest = [given.device, *(str(file.resolve()) for file in given.data)]
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(folder), name, row, *map(str, sizes), str(tree), *rest])
        for name, tree in trees.items()
    ]
    try:
        for turn in range(given.rounds):
            for name in trees:
                file = folder / f"{name} {turn}.json"
                while not file.exists():
                    if any(process.poll() for process in processes):
                        sys.exit("one of the trees failed")
                    if time.monotonic() > deadline:
                        print(f"{row}: time is up before turn {turn} of {name}", flush=True)
                        return
                    time.sleep(0.02)
                yield json.loads(file.read_text(encoding="utf-8"))
    finally:
        for process in processes:
            process.kill()
            process.wait()


def take_turns(folder: str, name: str, row: str, sizes: list[int], tree: str, device: str, *files: str) -> None:
    """What the process of one tree does: compile, then train for some steps whenever it is its turn."""
    sys.path[:0] = [tree, f"{tree}/benchmarks"]
    speed: Any = import_module("training_speed")  # the tree's own
    import torch

    from deeprelax_ase.data import load_pairs
    from deeprelax_ase.training import train

    warm, steps, rounds, atoms = sizes
    pairs = load_pairs(files, dtype=torch.float32).in_split("train").to(device)
    config, settings = speed.runs(not row.endswith(PLAIN))[row.removesuffix(PLAIN)]
    settings = replace(settings, max_steps=warm + rounds * steps + EVERY, log_every=EVERY)
    settings = replace(settings, atoms_per_batch=atoms or settings.atoms_per_batch)
    observe = _turns(Path(folder), name, row, warm, steps, speed.environment())
    with TemporaryDirectory() as out:
        train(pairs, config, settings, out, device=device, observe=observe)


def _turns(
    folder: Path, name: str, row: str, warm: int, steps: int, environment: dict[str, Any]
) -> Callable[[dict[str, Any]], None]:
    """What looks at the records of the log: it measures the steps between them, and waits for the turns."""
    first, other = name == "before", "after" if name == "before" else "before"
    measured: list[tuple[float, float]] = []
    begin = last = time.perf_counter()

    def observe(record: dict[str, Any]) -> None:
        nonlocal last
        done = record["step"] - warm
        if done > EVERY and done % steps != EVERY:
            measured.append(((time.perf_counter() - last) / EVERY, record["crystals_per_second"]))
        if done == 0:
            print(f"{name}: {row}: warm after {time.perf_counter() - begin:.0f} s", flush=True)
            (folder / f"{name} is warm").touch()
            _wait_for(folder / f"{other} is warm")
        if done > 0 and done % steps == 0:
            turn = done // steps - 1
            seconds = sum(time for time, _ in measured)
            crystals = sum(time * speed for time, speed in measured)
            found = {"tree": name, "round": turn, "row": row, "crystals_per_second": round(crystals / seconds, 1)}
            found |= {"step_ms": [round(1000 * time, 3) for time, _ in measured], "environment": environment}
            measured.clear()
            part = folder / f"{name} {turn}.part"
            part.write_text(json.dumps(found), encoding="utf-8")
            part.replace(part.with_suffix(".json"))
        if done >= 0 and done % steps == 0:
            turn = done // steps
            if turn or not first:
                _wait_for(folder / f"{other} {turn - 1 if first else turn}.json")
        last = time.perf_counter()

    return observe


def _wait_for(file: Path) -> None:
    while not file.exists():
        time.sleep(0.02)


def _write(report: dict[str, Any], file: Path) -> None:
    """Put the ``report`` into the list in ``file``, in place of one of the same trees."""
    held = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    kept = [one for one in held if (one["before"], one["after"]) != (report["before"], report["after"])]
    file.write_text(json.dumps([*kept, report], indent=1) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="folder of the tree that takes the first turn")
    parser.add_argument("after", type=Path, help="folder of the other tree")
    parser.add_argument("data", nargs="+", type=Path, help="npz files of relaxation pairs")
    parser.add_argument("--rows", nargs="+", default=ROWS, help=f"rows of training_speed.py; {PLAIN!r} may follow")
    parser.add_argument("--rounds", type=int, default=4, help="turns of each tree (default %(default)s)")
    parser.add_argument("--warm", type=int, default=40, help="steps before them (default %(default)s)")
    parser.add_argument("--steps", type=int, default=60, help="in a turn (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=3600, help="after which no turn counts (default %(default)s)")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--atoms-per-batch", type=int, help="instead of the usual ones")
    parser.add_argument("--json", type=Path, help="list of measurements, to which the figures are added")
    return parser


if __name__ == "__main__":
    main()
