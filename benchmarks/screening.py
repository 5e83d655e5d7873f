"""How many crystals a second, where the time goes, and how time and memory grow with the crystal.

python benchmarks/screening.py prototypes.npz --json benchmarks/results/screening.json

measures on this machine and adds to the file. On a CPU time is the processor's, so that a busy machine tells the same.
Crystals are those of benchmarks/candidates.py, of 5, 10 and 20 atoms; larger ones are supercells of theirs.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from itertools import pairwise, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from candidates import SIZES, candidates, crystals, write
from shared import options, read

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.evaluation.results import environment, write_json
from deeprelax_ase.prediction.parallel import map_in_processes
from deeprelax_ase.prediction.predictor import Predictor
from deeprelax_ase.prediction.record import Prediction
from deeprelax_ase.screening.folder import Folder
from deeprelax_ase.screening.options import RelaxOptions
from deeprelax_ase.screening.rows import atoms_of
from deeprelax_ase.screening.run import Progress, screen

#: Atoms of the cells that the growth of time and memory is measured on.
GROWTH = (10, 30, 100, 300, 1000, 3000, 10_000)

#: What can be measured alone.
PARTS = ("batches", "growth", "whole")

#: Files that the crystals of a whole screening are in.
_FILES = 8


def batches(predictor: Predictor, given: list[Crystal], sizes: list[int]) -> list[dict[str, Any]]:
    """Crystals a second for batches of so many atoms, and the milliseconds of each stage for a crystal."""
    list(predictor.predict_many(given[:2]))
    rows = []
    for size in sizes:
        start, begun = _clock(predictor.device), time.perf_counter()
        made = list(predictor.predict_many(given, atoms_per_batch=size))
        spent, elapsed = _clock(predictor.device) - start, time.perf_counter() - begun
        sound, share = [p for p in made if isinstance(p, Prediction)], spent / elapsed
        stages = {s: 1e3 * share * sum(p.timings[s] for p in sound) / len(sound) for s in sound[0].timings}
        rows.append({"atoms_per_batch": size, "crystals_per_second": len(made) / spent, "milliseconds": stages})
    return rows


def growth(predictor: Predictor, prototypes: Path, most: int) -> dict[str, Any]:
    """Seconds and bytes for one crystal of more and more atoms, and the exponents that fit them."""
    rows = []
    for atoms in (n for n in GROWTH if n <= most):
        (given,) = crystals(prototypes, atoms, 1)
        predictor.predict(given)
        if predictor.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        start = _clock(predictor.device)
        predictor.predict(given)
        spent = _clock(predictor.device) - start
        rows.append({"atoms": atoms, "seconds": spent, "peak_memory_GB": _memory(predictor.device) / 1e9})
    large = [row for row in rows if row["atoms"] >= 100]
    logs = np.log([[row["atoms"], row["seconds"]] for row in large])
    return {
        "preset": _preset(predictor),
        "rows": rows,
        "exponent_from_100_atoms": float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0]),
    }


def _clock(device: torch.device) -> float:
    """Seconds: of the processor on a CPU, where others may be at work too."""
    return time.perf_counter() if device.type == "cuda" else time.process_time()


def _preset(predictor: Predictor) -> str:
    """``2 x 1`` for two recycles of one network."""
    return f"{predictor.recycles} x {predictor.model.card.members}"


def _memory(device: torch.device) -> int:
    """Most bytes so far: of the process on a CPU, of torch's tensors on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def whole(files: list[Path], number: int, kind: str, options: RelaxOptions, **how: Any) -> dict[str, Any]:
    """A screening of ``number`` ten-atom crystals, from ``files`` of a ``kind`` to Parquet: its rates and stages.

    From the call on, and where there are worker processes once more as a command, its interpreter's start included.
    """
    with TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        moments = [(time.perf_counter(), 0)]  # of the start, its look at the inputs, and each block

        def observe(progress: Progress) -> None:
            moments.append((time.perf_counter(), progress.done))

        screen(files, out, options, observe=observe, **how)
        begun, spent = moments[0][0], time.perf_counter() - moments[0][0]
        lines = Folder(out).done().values()
        as_command = _command(files, Path(folder) / "again", options, **how) if how["workers"] else None
    stages = {s: 1e3 * sum(line["seconds"][s] for line in lines) / number for s in next(iter(lines))["seconds"]}
    row = {"format": kind, "workers": how["workers"], "crystals": number, "seconds": spent}
    row |= {"one_shot": options.one_shot, "seconds_to_first_block": moments[2][0] - begun}
    row |= {"crystals_per_second_in_the_middle": middle_rate(moments), "seconds_as_command": as_command}
    return {**row, "crystals_per_second": number / spent, "milliseconds": stages}


def _command(files: list[Path], out: Path, options: RelaxOptions, *, workers: int, block_size: int) -> float:
    """Seconds of ``deeprelax screen``, from the start of its interpreter to the end of its process."""
    chosen = {"workers": workers, "block-size": block_size, "one-shot": options.one_shot, "device": options.device}
    words = [word for name, value in chosen.items() for word in (f"--{name}", str(value))]
    words += ["--quiet", *(["--compile"] if options.compile else []), "--out", str(out), *map(str, files)]
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "deeprelax_ase.cli", "screen", *words], check=False)
    if done.returncode not in (0, 1):  # 1: some crystals are uncertain
        raise SystemExit(f"deeprelax screen ended with {done.returncode}")
    return time.perf_counter() - begun


def middle_rate(moments: list[tuple[float, int]]) -> float:
    """Crystals a second between the first and the third quarter: without the start, and the end of some processes.

    Args:
        moments: times, and crystals that were done by then; the last one at the end.
    """
    first, third = (next(m for m in moments if m[1] >= share * moments[-1][1]) for share in (0.25, 0.75))
    return (third[1] - first[1]) / (third[0] - first[0]) if third[0] > first[0] else float("nan")


def _files(folder: Path, prototypes: Path, number: int) -> list[Path]:
    """``number`` candidates in Parquet files of the ``folder``, made by several processes unless they are there."""
    cuts = [number * n // _FILES for n in range(_FILES + 1)]
    parts = [
        (prototypes, last - first, seed, folder / f"{number}-{seed}.parquet")
        for seed, (first, last) in enumerate(pairwise(cuts))
    ]
    list(map_in_processes(_writer, [part for part in parts if not part[-1].exists()]))
    return [part[-1] for part in parts]


def _writer(device: str) -> Callable[[list[tuple[Path, int, int, Path]]], list[Path]]:
    return lambda parts: [_file(part) for part in parts]


def _file(part: tuple[Path, int, int, Path]) -> Path:
    prototypes, number, seed, file = part
    write(candidates(prototypes, number, seed=seed, atoms=10), file, number)
    return file


def _as_extxyz(files: list[Path]) -> list[Path]:
    list(map_in_processes(_converter, [file for file in files if not file.with_suffix(".extxyz").exists()]))
    return [file.with_suffix(".extxyz") for file in files]


def _converter(device: str) -> Callable[[list[Path]], list[Path]]:
    return lambda files: [_extxyz(file) for file in files]


def _extxyz(file: Path) -> Path:
    import ase.io  # here, as each process of a screening imports this script before anything else

    made = file.with_suffix(".extxyz")
    with made.open("w", encoding="utf-8") as stream:
        for atoms in atoms_of(pq.ParquetFile(file).read()):
            ase.io.write(stream, atoms, format="extxyz")
    return made


def main() -> None:
    """Measure, and add to the file."""
    given = _arguments()
    report = read(given.json.parent, given.json.stem) if given.json.exists() else {}
    name = given.name or _machine(given.device)
    report[name] = {**report.get(name, {}), **_measured(given)}
    write_json(given.json, report)


def _machine(device: str) -> str:
    if device == "cpu":
        return f"CPU, {torch.get_num_threads()} thread(s), in processor time"
    return f"{torch.cuda.device_count()} {torch.cuda.get_device_name()}, {len(os.sched_getaffinity(0))} cores"


def _measured(given: Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {"environment": environment(), "symmetry": False}
    options = {"device": given.device}
    if "batches" in given.parts:
        found["batches"] = _batches(given, options)
    if "growth" in given.parts:
        found["growth"] = growth(Predictor(**options), given.prototypes, given.largest)
    if "whole" in given.parts:
        found["whole"] = list(_whole(given, options))
    return found


def _whole(given: Namespace, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    with TemporaryDirectory() as folder:
        place = given.candidates or Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        files = _files(place, given.prototypes, given.number)
        for preset, kind, workers in product(given.one_shot, given.formats, given.workers):
            chosen = RelaxOptions(**options, one_shot=preset, compile=given.compile)
            of_kind = files if kind == "parquet" else _as_extxyz(files)
            row = whole(of_kind, given.number, kind, chosen, workers=workers, block_size=given.block_size)
            print(row, flush=True)
            yield row


def _batches(given: Namespace, options: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, dict[str, Any]] = {}
    for recycles, members in ((1, 1), (None, None)):
        predictor = Predictor(**options, recycles=recycles, members=members)
        label = _preset(predictor)
        for atoms in given.sizes:
            number = max(2, given.atoms // atoms // (1 if recycles else 4))
            made = crystals(given.prototypes, atoms, number)
            rows = batches(predictor, made, [n for n in given.batches if n >= atoms])
            found.setdefault(label, {})[str(atoms)] = rows
            print(label, atoms, rows, flush=True)
    return found


def _arguments() -> Namespace:
    return options(
        __doc__,
        "prototypes",
        "--device",
        "--json",
        prototypes={"type": Path, "help": "npz file of prototypes"},
        device={"default": "cuda" if torch.cuda.is_available() else "cpu"},
        atoms={"type": int, "default": 800, "help": "of the crystals in each row (default %(default)s)"},
        batches={"type": int, "nargs": "+", "default": [50, 200, 800], "help": "atoms of a batch"},
        largest={"type": int, "default": 10_000, "help": "most atoms of one crystal (default %(default)s)"},
        number={"type": int, "default": 600, "help": "crystals of a whole screening (default %(default)s)"},
        workers={"type": int, "nargs": "+", "default": [0, 1, 2], "help": "processes of that"},
        block_size={"type": int, "default": 50, "help": "of that (default %(default)s)"},
        candidates={"type": Path, "help": "folder of their files, made there if need be (default a temporary one)"},
        formats={"nargs": "+", "choices": ("parquet", "extxyz"), "default": ["parquet"], "help": "of its inputs"},
        one_shot={"nargs": "+", "default": ["default"], "help": "presets of whole screenings"},
        compile={"action": "store_true", "help": "its networks compiled"},
        parts={"nargs": "+", "choices": PARTS, "default": PARTS, "help": "what to measure (default all)"},
        sizes={"type": int, "nargs": "+", "default": list(SIZES), "help": "atoms of the crystals of batches"},
        name={"default": "", "help": "of the machine and of what is measured, as the page has it"},
    ).parse_args()


if __name__ == "__main__":
    main()
