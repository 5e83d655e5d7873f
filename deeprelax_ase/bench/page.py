"""What was measured, as a page of Markdown."""

from __future__ import annotations

from typing import Any


def markdown(found: dict[str, Any], title: str) -> str:
    """One table with speed and accuracy side by side, the fastest first; then uncertainty, force calls, environment."""
    parts = [f"# {title}", _head(found), table(found)]
    if uncertainty := found.get("uncertainty"):
        parts.append(_uncertainty(uncertainty))
    if calls := found.get("force_calls"):
        saved = 1 - calls["jumped"] / calls["unrelaxed"]
        parts.append(
            f"Force calls of {calls['from']}: {calls['unrelaxed']:.1f} from the unrelaxed crystal, "
            f"{calls['jumped']:.1f} after the jump, {saved:.0%} fewer."
        )
    machine = ", ".join(f"{name} {value}" for name, value in found["environment"].items())
    return "\n\n".join([*parts, f"Measured with {machine}."]) + "\n"


def _head(found: dict[str, Any]) -> str:
    size = found["atoms"] / found["crystals"]
    return (
        f"{found['crystals']:,} crystals of {size:.1f} atoms on average, predictions on {found['device']}, all in one "
        f"run. Iterative relaxations end at {found['fmax']:g} eV/Å or after {found['steps']} steps. Errors are from "
        "the relaxed crystals of the pairs, coordinates as mean absolute Cartesian components."
    )


def table(found: dict[str, Any]) -> str:
    """Speed and accuracy of each row, the fastest first."""
    lines = [
        "| | crystals/s | force calls | converged | coordinates (Å) | median (Å) | volume |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    rows = found["rows"].items()
    for name, row in sorted(rows, key=lambda item: -item[1].get("crystals_per_second", 0.0)):
        if "failed" in row:
            lines.append(f"| {name} | not measured: {_cell(row['failed'])} | | | | | |")
            continue
        rate = "" if name == "nothing done" else f"{row['crystals_per_second']:.3g}"
        calls = f"{row['calls']:.1f} | {row['converged']:.0%}" if row.get("converged") is not None else " | "
        errors = f"{row['coordinates']:.3f} | {row['coordinates_median']:.4f} | {row['relative_volume']:.1%}"
        failed = f" ({row['crystals_failed']} failed)" if row.get("crystals_failed") else ""
        lines.append(f"| {name}{failed} | {rate} | {calls} | {errors} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    """In one line of a table."""
    return " ".join(text.split()).replace("|", "/")[:120]


def _uncertainty(found: dict[str, Any]) -> str:
    lines = [
        f"Calibrated errors of the predictions; bounds aim at {found['aimed coverage']:.0%}, and "
        f"{found['outside']:.0%} of the crystals are unlike what the model knows:",
        "",
        "| | mean error | expected | within the bound | rank correlation |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, title in (("coordinates", "coordinates (Å)"), ("relative_volume", "volume")):
        row = found[name]
        numbers = f"{row['mean error']:.3f} | {row['mean expected']:.3f} | {row['coverage']:.0%}"
        lines.append(f"| {title} | {numbers} | {row['rank correlation']:.2f} |")
    return "\n".join(lines)
