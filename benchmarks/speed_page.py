"""The page of times, made of what latency.py and training_speed.py found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shared import read, table

from deeprelax_ase.models.card import ModelCard
from deeprelax_ase.models.registry import WEIGHTS


def write_page(results: Path, page: Path) -> None:
    """Write the page of the JSON files in ``results``."""
    latency, training = read(results, "latency", "training_speed")
    parts = ["# Times", _latency(latency), _training(training)]
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _latency(found: dict[str, Any]) -> str:
    rows = [
        [name, f"{row['median_ms']:.0f}", f"{row['ratio_to_potential']:.2f}", f"{row['peak_memory_MiB']:.0f}"]
        for name, row in found["results"].items()
    ]
    memory = "peak memory of the process (MiB)"
    heading = ["ten atoms, one thread", "median (ms)", "ratio to a call of M3GNet", memory]
    return f"""## One relaxation

```sh
DEEPRELAX_M3GNET=path/to/M3GNet-MP-2021.2.8-PES python benchmarks/latency.py --json benchmarks/results/latency.json
```

One rattled ten-atom crystal on one CPU thread, in turn with an M3GNet energy+forces+stress call of the same crystal;
medians of 40 rounds in processor time, the ratio taken round by round.

{table(heading, rows)}

{_start(found["start"])}"""


def _start(found: dict[str, Any]) -> str:
    commands = next(iter(found.values()))["seconds"]
    rows = [[name, *(f"{measured['seconds'][name]:.2f}" for measured in found.values())] for name in commands]
    return f"""A process from start to end, in processor time on one thread, median of turns (`--parts start`):

{table(["seconds", *found], rows)}"""


def _training(found: dict[str, Any]) -> str:
    rows = [
        [name, machine, *_told(row)]
        for machine, measured in found["machines"].items()
        for name, row in measured["runs"].items()
    ]
    heading = ["network", "on one", "parameters", "crystals a second", "GPU idle, profiled", "not profiled"]
    heading.append("seconds before the first step")
    shipped = ModelCard.read(WEIGHTS / "DeepRelax-PBE.json").parameters
    return f"""## Training

```sh
python benchmarks/training_speed.py pairs_universal.npz pairs_xmno.npz --json benchmarks/results/training_speed.json
```

Graphs are kept where nothing augments them. Steps of both networks are recorded as CUDA graphs, and the next batch is
prepared meanwhile; before, that of the paper's was not, whose kernels the host launched one by one. The shipped
network, of {shipped / 1e6:.1f} million parameters, came later and is no row of this table. The GPU is idle where no
kernel runs: under torch's profiler, which slows the host down, and without it, by what the kernels of a profiled step
take of one that is not:

{table(heading, sorted(rows), "llr")}

{_gradients(found["gradients"])}"""


def _gradients(found: dict[str, dict[str, float]]) -> str:
    """How far the gradients of recorded steps are from others, over their own length."""
    told = "; ".join(
        f"{name}: {row['unrecorded']:.1g} and {row['plain']:.1g} of their length" for name, row in found.items()
    )
    steps = min(int(row["steps"]) for row in found.values())
    return f"""Recorded steps give the gradients of the same step not recorded, and of one that neither pads batches nor
prepares them ahead. On an H200 in float32, from random weights, the largest difference of {steps} steps was, by a
script that is not kept: {told}."""


def _told(row: dict[str, Any]) -> list[str]:
    forms = {"parameters": ",", "crystals_per_second": ",.0f", "idle_share": ".1%"}
    forms |= {"idle_share_without_profiler": ".1%", "seconds_before": ".0f"}
    return [format(row[name], form) if name in row else "" for name, form in forms.items()]
