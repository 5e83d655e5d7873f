"""The page of benchmarks/screening.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_HEAD = """# Throughput

```sh
python benchmarks/screening.py prototypes.npz --json benchmarks/results/screening.json
python benchmarks/screening.py --json benchmarks/results/screening.json --page benchmarks/throughput.md
```

Crystals as a search for materials
makes them (`benchmarks/candidates.py`: similar elements in known prototypes), of 50 and 200 atoms as supercells.
"1 x 1" is one recycle of one network, the fastest; "3 x 4" is `DeepRelax-PBE` as it ships.
"""


def write_page(results: Path, page: Path) -> None:
    """Write the figures of all machines, from ``screening.json`` in the folder ``results``."""
    parts = [_HEAD.strip()]
    for machine, found in json.loads((results / "screening.json").read_text(encoding="utf-8")).items():
        parts.append(f"## {machine}")
        if not found.get("symmetry", True):
            parts.append("Without the search for symmetry, which takes 1 to 3 ms of a core for each crystal.")
        parts += [_batches(label, rows) for label, rows in found.get("batches", {}).items()]
        parts += [_growth(found["growth"])] if "growth" in found else []
        parts += [_whole(found["whole"])] if "whole" in found else []
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _rate(row: dict[str, Any]) -> str:
    """Crystals a second, to three digits."""
    rate = float(f"{row['crystals_per_second']:.3g}")
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:g}"


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
