"""How fast training is, and how long the GPU waits for it.

python benchmarks/training_speed.py pairs_universal.npz pairs_xmno.npz --json benchmarks/results/training_speed.json

Trains each network for some steps, the end-to-end one of 8.9 million parameters first: some that compile and record,
some that are timed, and some under torch's profiler. The GPU is idle where no kernel runs: under the profiler, which
slows the host down, and without it, by what the kernels of a profiled step take of one that is not.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any

import torch
from shared import options, read
from torch.profiler import ProfilerActivity, profile

from deeprelax_ase.data import RelaxationPairs, load_pairs
from deeprelax_ase.evaluation.results import environment, write_json
from deeprelax_ase.nn import ABLATIONS
from deeprelax_ase.training import TrainingSettings, train
from deeprelax_ase.training.settings import E3_NETWORK, E3_TRAINING

#: Channels of the end-to-end network that make 8.9 million parameters.
WIDE = 256

#: Steps under the profiler.
PROFILED = 40

_PAPER = TrainingSettings(atoms_per_batch=8000)
_STILL = replace(_PAPER.augmentation, interpolated=0, relaxed=0, strained=0, rattled=0, rewrapped=0)

#: Network and settings of each row; each once more with its network compiled.
ROWS: dict[str, tuple[Any, TrainingSettings]] = {
    "paper's": (ABLATIONS["DeepRelax"], _PAPER),
    "paper's, without augmentation": (ABLATIONS["DeepRelax"], replace(_PAPER, augmentation=_STILL)),
    "end-to-end, 256 channels": (replace(E3_NETWORK, channels=WIDE), E3_TRAINING),
    "end-to-end, 192 channels": (E3_NETWORK, E3_TRAINING),
    "end-to-end, 192 channels, pairs moved batch by batch": (E3_NETWORK, replace(E3_TRAINING, resident="never")),
}
COMPILED = ", compiled"


def speed(
    pairs: RelaxationPairs, config: Any, settings: TrainingSettings, device: str, *, steps: int, warm: int
) -> dict[str, Any]:
    """Crystals per second over ``steps`` steps after ``warm`` ones, and the share of the time that the GPU is idle."""
    profiled = profile(activities=[ProfilerActivity.CUDA]) if device == "cuda" else None
    moments, rates = {}, []

    def observe(record: dict[str, Any]) -> None:
        step = record["step"]
        moments[step] = time.perf_counter()
        if warm < step <= warm + steps:
            rates.append(record["crystals_per_second"])
        if profiled and step == warm + steps:
            profiled.start()
        elif profiled and step == warm + steps + PROFILED:
            profiled.stop()

    if profiled:
        torch.cuda.reset_peak_memory_stats()
    with TemporaryDirectory() as folder:
        limited = replace(settings, max_steps=warm + steps + PROFILED + 1, log_every=PROFILED)
        begun = time.perf_counter()
        network = train(pairs, config, limited, folder, device=device, observe=observe)
    row: dict[str, Any] = {
        "parameters": sum(p.numel() for p in network.parameters()),
        "crystals_per_second": sum(rates) / len(rates),
        "seconds_before": moments[warm] - begun - warm / steps * (moments[warm + steps] - moments[warm]),
        "atoms_per_crystal": float(pairs.counts.double().mean()),
    }
    if profiled:
        span, share = idle_share(profiled)
        kernels = 1e3 * (1 - share) * span / PROFILED
        row |= {"idle_share": share, "kernels_ms_per_step": kernels}
        row["ms_per_step"] = 1e3 * (moments[warm + steps] - moments[warm]) / steps
        row["idle_share_without_profiler"] = max(0.0, 1 - kernels / row["ms_per_step"])
        row["peak_memory_GB"] = torch.cuda.max_memory_allocated() / 1e9
    return row


def idle_share(profiled: profile) -> tuple[float, float]:
    """Seconds from the first kernel to the last, and the share of them during which none ran."""
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profiled.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
    )
    begin, end = spans[0][0], max(stop for _, stop in spans)
    return 1e-6 * (end - begin), idle(spans, begin, end)


def idle(spans: Sequence[tuple[float, float]], begin: float, end: float) -> float:
    """Share of the time from ``begin`` to ``end`` that none of the ``spans``, sorted by their starts, covers."""
    covered, reached = 0.0, begin
    for start, stop in spans:
        start, stop = max(start, reached), min(stop, end)
        if stop > start:
            covered += stop - start
            reached = stop
    return 1 - covered / (end - begin)


def main() -> None:
    """Time everything, print and write it."""
    names = [*ROWS, *(name + COMPILED for name in ROWS)]
    given = options(
        __doc__,
        "data",
        "--device",
        "--json",
        device={"default": "cuda" if torch.cuda.is_available() else "cpu"},
        steps={"type": int, "default": 3 * PROFILED, "help": f"that are timed, in {PROFILED}s (default %(default)s)"},
        warm={"type": int, "default": PROFILED, "help": "steps before them (default %(default)s)"},
        rows={"nargs": "+", "choices": names, "default": names, "metavar": "ROW", "help": "to measure (default all)"},
        name={"default": "", "help": "of the machine and of what is measured, as the page has it"},
    ).parse_args()
    pairs = load_pairs(given.data, dtype=torch.float32).in_split("train")
    report = read(given.json.parent, given.json.stem) if given.json.exists() else {}
    name = given.name or (torch.cuda.get_device_name() if given.device == "cuda" else "CPU")
    found = report.setdefault("machines", {}).setdefault(name, {"environment": environment(), "runs": {}})
    for row in given.rows:
        config, settings = ROWS[row.removesuffix(COMPILED)]
        settings = replace(settings, compile=row.endswith(COMPILED))
        here = pairs.to("cpu" if settings.resident == "never" else given.device)
        found["runs"][row] = speed(here, config, settings, given.device, steps=given.steps, warm=given.warm)
        print(row, found["runs"][row], flush=True)
        write_json(given.json, report)


if __name__ == "__main__":
    main()
