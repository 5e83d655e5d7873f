"""How fast training is, and how long the GPU waits for it.

python benchmarks/training_speed.py pairs_universal.npz pairs_xmno.npz --json benchmarks/results/training_speed.json

Trains the end-to-end network of 8.9 million parameters (and the paper's) for some seconds each with Lightning, and once
more for a few steps under torch's profiler: the GPU is idle where no kernel runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any

import torch
from shared import options
from torch.profiler import ProfilerActivity, profile

from deeprelax_ase.data import RelaxationPairs, load_pairs
from deeprelax_ase.evaluation.results import environment, write_json
from deeprelax_ase.nn import ABLATIONS
from deeprelax_ase.training import TrainingSettings, train
from deeprelax_ase.training.settings import E3_NETWORK, E3_TRAINING

#: Channels of the end-to-end network that make 8.9 million parameters.
WIDE = 256


def runs(compiled: bool) -> dict[str, tuple[Any, TrainingSettings]]:
    """Network and settings of each row."""
    wide = replace(E3_NETWORK, channels=WIDE)
    settings = replace(E3_TRAINING, compile=compiled, log_every=10)
    plain = TrainingSettings(atoms_per_batch=8000, log_every=10, compile=compiled)
    still = replace(plain.augmentation, interpolated=0, relaxed=0, strained=0, rattled=0, rewrapped=0)
    return {
        "end-to-end, 256 channels": (wide, settings),
        "end-to-end, 256 channels, pairs moved batch by batch": (wide, replace(settings, resident="never")),
        "end-to-end, 192 channels": (E3_NETWORK, settings),
        "paper's": (ABLATIONS["DeepRelax"], plain),
        "paper's, without augmentation, graphs kept": (ABLATIONS["DeepRelax"], replace(plain, augmentation=still)),
        "paper's, without augmentation, graphs rebuilt": (
            ABLATIONS["DeepRelax"],
            replace(plain, augmentation=still, keep_graphs=False),
        ),
    }


def speed(
    pairs: RelaxationPairs, config: Any, settings: TrainingSettings, device: str, *, steps: int, warm: int
) -> dict:
    """Crystals per second over ``steps`` steps after ``warm`` ones, and the share of the time that the GPU is idle."""
    records: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        limited = replace(settings, max_steps=warm + steps, log_every=warm)
        network = train(pairs, config, limited, folder, device=device, observe=records.append)
    timed = [record["crystals_per_second"] for record in records if record["step"] > warm]
    row: dict[str, Any] = {
        "parameters": sum(p.numel() for p in network.parameters()),
        "crystals_per_second": sum(timed) / len(timed),
        "atoms_per_crystal": float(pairs.counts.double().mean()),
    }
    if device == "cuda":
        row["idle_share"] = idle_share(pairs, config, settings, device)
        row["peak_memory_GB"] = torch.cuda.max_memory_allocated() / 1e9
    return row


def idle_share(
    pairs: RelaxationPairs, config: Any, settings: TrainingSettings, device: str, *, steps: int = 40
) -> float:
    """Share of the time of ``steps`` steps, once everything is compiled, during which no kernel ran.

    The profiler slows the host down, so that a GPU that waits for it waits longer than it otherwise would.
    """
    profiled = profile(activities=[ProfilerActivity.CUDA])

    def observe(record: dict[str, Any]) -> None:
        if record["step"] == steps:
            profiled.start()
        elif record["step"] == 2 * steps:
            profiled.stop()

    with TemporaryDirectory() as folder:
        limited = replace(settings, max_steps=2 * steps + 1, log_every=steps)
        train(pairs, config, limited, folder, device=device, observe=observe)
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profiled.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
    )
    return idle(spans, spans[0][0], max(stop for _, stop in spans))


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
    given = options(
        __doc__,
        "data",
        "--device",
        "--json",
        device={"default": "cuda" if torch.cuda.is_available() else "cpu"},
        steps={"type": int, "default": 200, "help": "that are timed (default %(default)s)"},
        warm={"type": int, "default": 40, "help": "steps before them (default %(default)s)"},
        no_compile={"dest": "compile", "action": "store_false"},
    ).parse_args()
    pairs = load_pairs(given.data, dtype=torch.float32).in_split("train")
    report: dict[str, Any] = {"environment": environment(), "runs": {}}
    for name, (config, settings) in runs(given.compile).items():
        here = pairs.to("cpu" if settings.resident == "never" else given.device)
        row = speed(here, config, settings, given.device, steps=given.steps, warm=given.warm)
        report["runs"][name] = row
        print(name, row, flush=True)
        write_json(given.json, report)


if __name__ == "__main__":
    main()
