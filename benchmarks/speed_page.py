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
        [name, f"{row['parameters']:,}", f"{row['crystals_per_second']:,.0f}", f"{row['idle_share']:.0%}"]
        for name, row in found["runs"].items()
    ]
    gpu, plain = found["environment"]["gpu"], found["not_compiled"]
    later = "; ".join(f"{name}, idle {share:.1%} on one {plain['gpu']}" for name, share in plain["idle_share"].items())
    shipped = ModelCard.read(WEIGHTS / "DeepRelax-PBE.json").parameters
    return f"""## Training

```sh
python benchmarks/training_speed.py pairs_universal.npz pairs_xmno.npz --steps 100 --warm 30 \\
    --json benchmarks/results/training_speed.json
```

{gpu}. The shipped network, of {shipped / 1e6:.1f} million parameters, came later and is no row of this table:

{table(["network", "parameters", "crystals a second", "GPU idle"], rows)}

Not compiled, and profiled alone: {later}. The step of
the end-to-end network is recorded as a CUDA graph, that of the paper's is not: its batches have no fixed shapes, and
the host launches each kernel."""
