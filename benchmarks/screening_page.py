"""The page of benchmarks/screening.py and benchmarks/device_limits.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import device_limits_page
from shared import read, table

#: The machine of the latest whole screenings.
LATEST = "1 NVIDIA H200, 32 cores, compiled modules of Python kept"

_HEAD = """# Throughput

```sh
python benchmarks/screening.py prototypes.npz --json benchmarks/results/screening.json
python benchmarks/device_limits.py prototypes.npz --json benchmarks/results/device_limits.json
python benchmarks/pages.py
```

Crystals as a search for materials
makes them (`benchmarks/candidates.py`: similar elements in known prototypes), of 50 and 200 atoms as supercells.
"2 x 1" is two recycles of one network of 14.9 million parameters, today's default; "1 x 1" is one recycle; "3 x 4" was
the default of the first end-to-end weights, four members of 5.1 million parameters. The figures of the H100 are of
those weights; before and now on the H200 were measured on one machine within ten minutes, before with fewer crystals,
most of whose time is the start. Rows with a rate in their middle half, between the first and the third quarter of the
crystals, came later, when processes started sooner. One and two GPUs with 32 cores were measured in one run, in
which processes started more slowly: Python could not keep the modules that it had compiled, and importing torch took 4
seconds. Where it could, crystals were 80,000 three times over. The last row of an H200 is of fewer crystals, 80,000
once, from when processes start before the command loads torch. Four GPUs were not to be had.
"""


#: Rates of whole screenings that not all rows tell, by heading: between the first and the third quarter of the
#: crystals, which leaves out the start, and of a command, which has its interpreter's start too.
_RATES: dict[str, Callable[[dict[str, Any]], float | None]] = {
    "in the middle half (crystals/s)": lambda row: row.get("crystals_per_second_in_the_middle"),
    "as a command (crystals/s)": lambda row: (
        row.get("seconds_as_command") and row["crystals"] / row["seconds_as_command"]
    ),
}


def write_page(results: Path, page: Path) -> None:
    """Write the figures of all machines, from ``screening.json`` in the folder ``results``."""
    parts = [_HEAD.strip()]
    for machine, found in read(results, "screening").items():
        parts.append(f"## {machine}")
        if not found.get("symmetry", True):
            parts.append("Without a search for symmetry.")
        parts += [_batches(label, rows) for label, rows in found.get("batches", {}).items()]
        parts += [_growth(found["growth"])] if "growth" in found else []
        parts += [_whole(found["whole"])] if "whole" in found else []
        parts += [_linear(shares)] if (shares := shares_of_linear(machine, read(results, "screening"))) else []
    parts.append(device_limits_page.section(read(results, "device_limits")))
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _rate(row: dict[str, Any]) -> str:
    return _digits(row["crystals_per_second"])


def _digits(rate: float | None) -> str:
    """Crystals a second, to three digits."""
    if rate is None or math.isnan(rate):
        return ""
    rate = float(f"{rate:.3g}")
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:g}"


def shares_of_linear(machine: str, machines: dict[str, Any]) -> dict[str, float]:
    """Of several GPUs, the share by preset of as many times the rate of one GPU of the same ``machine``."""
    number, _, kind = machine.partition(" ")
    if not number.isdigit() or number == "1" or (alone := machines.get(f"1 {kind}")) is None:
        return {}

    def rates(rows: list[dict[str, Any]], preset: str) -> list[float]:
        return [row["crystals_per_second"] for row in rows if row["one_shot"] == preset]

    several = machines[machine]["whole"]
    presets = dict.fromkeys(row["one_shot"] for row in several)
    return {p: max(rates(several, p)) / (int(number) * max(rates(alone["whole"], p))) for p in presets}


def _linear(shares: dict[str, float]) -> str:
    told = ", ".join(f"{share:.2f} ({preset})" for preset, share in shares.items())
    return f"Of as many times the rate of one: {told}."


def _batches(label: str, rows: dict[str, list[dict[str, Any]]]) -> str:
    stages, cells = ("graph", "network", "geometry"), []
    for atoms, found in rows.items():
        best = max(found, key=lambda row: row["crystals_per_second"])["milliseconds"]
        rates = ", ".join(f"{row['atoms_per_batch']:,}: {_rate(row)}" for row in found)
        cells.append([atoms, rates, *(f"{best[stage]:.3g}" for stage in stages)])
    heading = ["atoms", "crystals/s, by atoms of a batch", *(f"{stage} (ms)" for stage in stages)]
    said = f"`Predictor.predict_many`, {label}; milliseconds are of one crystal, at the batch that is the fastest:"
    return f"{said}\n\n{table(heading, cells, 'rlr')}"


def _growth(found: dict[str, Any]) -> str:
    cells = []
    for row in found["rows"]:
        values = row["seconds"], 1e3 * row["seconds"] / row["atoms"], row["peak_memory_GB"]
        cells.append([f"{row['atoms']:,}", *(f"{value:.3g}" for value in values)])
    shown = table("atoms of one crystal | seconds | ms an atom | peak memory (GB)", cells, "r")
    power = f"From 100 atoms on, the time grows as the power {found['exponent_from_100_atoms']:.2f} of their number."
    return f"One crystal, {found.get('preset', '1 x 1')}:\n\n{shown}\n\n{power}"


def _whole(rows: list[dict[str, Any]]) -> str:
    stages = list(rows[0]["milliseconds"])
    told = {name: rate for name, rate in _RATES.items() if any(map(rate, rows))}
    cells = [
        [
            *(row["format"], row.get("one_shot", "1 x 1"), f"{row['crystals']:,}", str(row["workers"] or "this one")),
            *(f"{row[key]:.1f}" if key in row else "" for key in ("seconds_to_first_block", "seconds")),
            *(_digits(rate(row)) for rate in told.values()),
            *(_rate(row), *(f"{row['milliseconds'][stage]:.3g}" for stage in stages)),
        ]
        for row in rows
    ]
    heading = ["from", "one shot", "crystals", "processes", "first block after (s)", "seconds", *told, "crystals/s"]
    return f"""`deeprelax screen` of ten-atom crystals, from files to Parquet, from the call on, start of the
processes included; milliseconds are of one crystal in its process (relax holds graph, network and geometry):

{table([*heading, *(f"{stage} (ms)" for stage in stages)], cells, "llr")}"""
