"""A long screening that is killed again and again, and goes on each time: nothing lost, nothing twice, memory flat.

python benchmarks/interrupted.py candidates.parquet --out screened --kills 3 --json benchmarks/results/interrupted.json
python benchmarks/interrupted.py candidates.parquet --out screened --json FILE -- --recycles 1 --members 1 --no-symmetry

Options after ``--`` are those of ``deeprelax screen``. Its first process is killed with SIGKILL each time that an equal
share of the crystals is done; then the same command starts again. In the end every index must be there exactly once.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from files import write_json
from rich.console import Console

from deeprelax_ase.evaluation.machine import environment
from deeprelax_ase.screening.manifest import Folder

#: Seconds between two looks at a run.
_LOOK = 0.5


def run(command: list[str], journal: Path, stop_at: int | None) -> dict[str, Any]:
    """Run ``command`` until it ends, or until so many crystals are done: then it is killed.

    Returns:
        seconds, crystals that are done in the end, and the most memory in GB in each tenth of that time.
    """
    start, memory = time.perf_counter(), []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            time.sleep(_LOOK)
            memory.append(used(process.pid) / 1e9)
            if stop_at is not None and done(journal) >= stop_at:
                process.send_signal(signal.SIGKILL)
                break
        told = process.communicate()[1]
    if stop_at is None and process.returncode not in (0, 1):
        raise SystemExit(told)
    tenths = [round(float(part.max()), 2) for part in np.array_split(memory, 10) if len(part)]
    return {"seconds": round(time.perf_counter() - start, 1), "done": done(journal), "memory_GB": tenths}


def done(journal: Path) -> int:
    """Crystals that the journal knows; a line that is being written does not count."""
    if not journal.exists():
        return 0
    whole = [line for line in journal.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    return sum(json.loads(line)["rows"] for line in whole if '"rows"' in line)


def used(pid: int) -> int:
    """Bytes of a process and of those that it started, shared ones counted in proportion."""
    total = 0
    for process in [pid, *children(pid)]:
        with suppress(OSError):
            text = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="utf-8")
            total += 1024 * int(next(line for line in text.splitlines() if line.startswith("Pss:")).split()[1])
    return total


def children(pid: int) -> list[int]:
    """Processes that ``pid`` started itself."""
    with suppress(OSError):
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text(encoding="utf-8").split()]
    return []


def check(folder: Folder, total: int) -> dict[str, int]:
    """How many rows have each status, once it is clear that each index is there exactly once.

    Raises:
        SystemExit: it is not.
    """
    times, statuses = np.zeros(total, dtype=int), Counter[str]()
    for table in folder.tables(["index", "status"]):
        np.add.at(times, table.column("index").to_numpy(), 1)
        statuses.update(table.column("status").to_pylist())
    if not (times == 1).all():
        raise SystemExit(f"{(times == 0).sum()} crystals are missing, {(times > 1).sum()} are there more than once")
    return dict(statuses)


def main() -> None:
    """Run, kill, go on, check, and write the report."""
    arguments, options = _parser().parse_known_args()
    options = [option for option in options if option != "--"]
    console = Console()
    journal = arguments.out / "journal.jsonl"
    if journal.exists():
        raise SystemExit(f"{arguments.out} holds a screening already")
    command = [sys.executable, "-m", "deeprelax_ase.cli", "screen", *map(str, arguments.inputs)]
    command += ["--out", str(arguments.out), "--quiet", *options]
    report: dict[str, Any] = {"environment": environment(), "options": options, "runs": []}
    report["cores"] = len(os.sched_getaffinity(0))
    report["gpus"] = torch.cuda.device_count()
    for kill in range(arguments.kills + 1):
        goal = arguments.number * (kill + 1) // (arguments.kills + 1) if kill < arguments.kills else None
        report["runs"].append(run(command, journal, goal))
        console.print(report["runs"][-1])
    report["crystals"] = arguments.number
    report["seconds"] = sum(one["seconds"] for one in report["runs"])
    report["statuses"] = check(Folder(arguments.out), arguments.number)
    report["output_GB"] = sum(file.stat().st_size for file in arguments.out.rglob("*.parquet")) / 1e9
    console.print({name: report[name] for name in ("crystals", "seconds", "statuses", "output_GB")})
    write_json(arguments.json, report)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", type=Path, nargs="+", help="what to screen")
    parser.add_argument("--number", type=int, required=True, help="of crystals in it")
    parser.add_argument("--out", type=Path, required=True, help="folder, not there yet")
    parser.add_argument("--kills", type=int, default=3, help="how often (default %(default)s)")
    parser.add_argument("--json", type=Path, required=True, help="file of the report")
    return parser


if __name__ == "__main__":
    main()
