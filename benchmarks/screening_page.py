"""The page of benchmarks/screening.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deeprelax_ase.evaluation.benchmark_page import table

_HEAD = """# Throughput

```sh
python benchmarks/screening.py prototypes.npz --json benchmarks/results/screening.json
python benchmarks/screening.py --json benchmarks/results/screening.json --page benchmarks/throughput.md
```

[What the figures say](README.md#throughput) stands beside the other benchmarks. Crystals as a search for materials
makes them (`benchmarks/candidates.py`: similar elements in known prototypes), of 50 and 200 atoms as supercells.
"1 x 1" is one pass of one network, the fastest; "3 x 4" is `DeepRelax-PBE` as it ships.
"""

_INTERRUPTED = """## Killed and gone on with

```sh
python benchmarks/candidates.py prototypes.npz --number 1000000 --atoms 10 --out candidates.parquet
python benchmarks/interrupted.py candidates.parquet --number 1000000 --out screened \\
    --json benchmarks/results/interrupted.json -- {options}
```
"""

_ITERATIVE = """## Against iterative relaxation

```sh
python benchmarks/against_iterative.py pairs_universal.npz --under nequix --potential nequix-oam-1.pt
python benchmarks/against_iterative.py pairs_universal.npz --under m3gnet --number 60
```

Test crystals of the universal pairs, in one run on one device; errors are from the relaxed crystals of the pairs.
"""


def write_page(results: Path, page: Path) -> None:
    """Write the figures of all machines, from the JSON files in the folder ``results``."""
    parts = [_HEAD.strip()]
    for machine, found in _read(results / "screening.json").items():
        parts.append(f"## {machine}")
        if not found.get("symmetry", True):
            parts.append("Without the search for symmetry, which takes 1 to 3 ms of a core for each crystal.")
        parts += [_batches(label, rows) for label, rows in found.get("batches", {}).items()]
        parts += [_growth(found["growth"])] if "growth" in found else []
        parts += [_whole(found["whole"])] if "whole" in found else []
    if interrupted := _read(results / "interrupted.json"):
        parts.append(_interrupted(interrupted))
    if iterative := _read(results / "against_iterative.json"):
        parts.append(_ITERATIVE.strip())
        parts += [_iterative(device, found) for device, found in iterative.items()]
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _rate(row: dict[str, Any]) -> str:
    """Crystals a second, to three digits."""
    rate = float(f"{row['crystals_per_second']:.3g}")
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:g}"


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _batches(label: str, rows: dict[str, list[dict[str, Any]]]) -> str:
    lines = [
        f"`Predictor.predict_many`, {label}; milliseconds are of one crystal, at the batch that is the fastest:",
        "",
        "| atoms | crystals/s, by atoms of a batch | graph (ms) | network (ms) | geometry (ms) |",
        "| ---: | --- | ---: | ---: | ---: |",
    ]
    for atoms, found in rows.items():
        best = max(found, key=lambda row: row["crystals_per_second"])["milliseconds"]
        rates = ", ".join(f"{row['atoms_per_batch']:,}: {_rate(row)}" for row in found)
        stages = " | ".join(f"{best[stage]:.3g}" for stage in ("graph", "network", "geometry"))
        lines.append(f"| {atoms} | {rates} | {stages} |")
    return "\n".join(lines)


def _growth(found: dict[str, Any]) -> str:
    lines = [
        "One crystal, 1 x 1:",
        "",
        "| atoms of one crystal | seconds | ms an atom | peak memory (GB) |",
        "| ---: | ---: | ---: | ---: |",
    ]
    for row in found["rows"]:
        each = 1e3 * row["seconds"] / row["atoms"]
        lines.append(f"| {row['atoms']:,} | {row['seconds']:.3g} | {each:.3g} | {row['peak_memory_GB']:.3g} |")
    exponent = found["exponent_from_100_atoms"]
    return "\n".join([*lines, "", f"From 100 atoms on, the time grows as the power {exponent:.2f} of their number."])


def _whole(rows: list[dict[str, Any]]) -> str:
    stages = list(rows[0]["milliseconds"])
    heads = " | ".join(f"{stage} (ms)" for stage in stages)
    lines = [
        f"`deeprelax screen` of {rows[0]['crystals']:,} ten-atom crystals, 1 x 1, from files to Parquet, start of the",
        "processes included; milliseconds are of one crystal in its process (relax holds graph, network and geometry):",
        "",
        f"| from | processes | seconds | crystals/s | {heads} |",
        "| --- | ---: | ---: | ---: |" + " ---: |" * len(stages),
    ]
    for row in rows:
        times = " | ".join(f"{row['milliseconds'][stage]:.3g}" for stage in stages)
        rate = f"{row['seconds']:.1f} | {_rate(row)}"
        lines.append(f"| {row['format']} | {row['workers'] or 'this one'} | {rate} | {times} |")
    return "\n".join(lines)


def _interrupted(found: dict[str, Any]) -> str:
    kills, gpu = len(found["runs"]) - 1, found["environment"]["gpu"]
    where = f"{found['gpus']} {gpu}" if found["gpus"] else "CPU"
    lines = [
        _INTERRUPTED.strip().format(options=" ".join(found["options"])),
        "",
        f"{found['crystals']:,} ten-atom crystals on {where} with {found['cores']} cores, killed with SIGKILL {kills}",
        f"times: {found['seconds']:.0f} s in all, every crystal exactly once, {found['output_GB']:.2g} GB of results.",
        "Memory is that of all processes; each run starts them anew.",
        "",
        "| run | seconds | crystals done in the end | memory by tenths of the run (GB) |",
        "| ---: | ---: | ---: | --- |",
    ]
    for number, run in enumerate(found["runs"], start=1):
        memory = ", ".join(f"{value:.3g}" for value in run["memory_GB"])
        lines.append(f"| {number} | {run['seconds']:.0f} | {run['done']:,} | {memory} |")
    return "\n".join(lines)


def _iterative(device: str, found: dict[str, Any]) -> str:
    size = found["atoms"] / found["crystals"]
    title = (
        f"{found['crystals']:,} crystals of {size:.1f} atoms, fmax {found['fmax']} eV/Å ({device.split(', ', 1)[1]}):"
    )
    return f"{title}\n\n{table(found)}"
