"""The results of a benchmark as a page of Markdown."""

from __future__ import annotations

from typing import Any

from deeprelax_ase.progress import told_speed


def markdown(found: dict[str, Any], title: str) -> str:
    """One table with speed and accuracy side by side, the fastest first; then uncertainty, force calls, environment."""
    parts = [f"# {title}", _head(found), *found.get("notes", []), table(found)]
    if uncertainty := found.get("uncertainty"):
        parts.append(_uncertainty(uncertainty))
    if calls := found.get("force_calls"):
        saved = 1 - calls["jumped"] / calls["unrelaxed"]
        parts.append(
            f"Force calls of {calls['from']}: {calls['unrelaxed']:.1f} from the unrelaxed crystal, "
            f"{calls['jumped']:.1f} after the jump, {saved:.0%} fewer. Calls that judge a jump "
            "are not counted."
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


#: Columns of errors: title, key and how it is written; those that no row has are left out.
_ERRORS = (
    ("coordinates (Å)", "coordinates", ".3f"),
    ("median (Å)", "coordinates_median", ".4f"),
    ("bonds (Å)", "bond_length", ".3f"),
    ("lattice (Å)", "lattice", ".3f"),
    ("volume", "relative_volume", ".1%"),
)


def table(found: dict[str, Any]) -> str:
    """Speed and accuracy of each row, the fastest first."""
    rows = sorted(found["rows"].items(), key=lambda item: -item[1].get("crystals_per_second", 0.0))
    errors = [column for column in _ERRORS if any(column[1] in row for _, row in rows)]
    titles = ["", "crystals/s", "force calls", "converged", *(title for title, _, _ in errors)]
    lines = [_line(titles), _line(["---", *["---:"] * (len(titles) - 1)])]
    for name, row in rows:
        if "failed" in row:
            lines.append(_line([name, f"not measured: {_cell(row['failed'])}", *[""] * (len(titles) - 2)]))
            continue
        rate = "" if name == "nothing done" else told_speed(row["crystals_per_second"])
        known = row.get("converged") is not None
        calls = [f"{row['calls']:.1f}", f"{row['converged']:.0%}"] if known else ["", ""]
        failed = f" ({row['crystals_failed']} failed)" if row.get("crystals_failed") else ""
        values = [format(row[key], spec) if key in row else "" for _, key, spec in errors]
        lines.append(_line([f"{name}{failed}", rate, *calls, *values]))
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    """A row of a table; empty cells as the pages have them."""
    return "|" + "|".join(f" {cell} " for cell in cells) + "|"


def _cell(text: str) -> str:
    """Shorten ``text`` to a cell of a table."""
    return " ".join(text.split()).replace("|", "/")[:120]


def _uncertainty(found: dict[str, Any]) -> str:
    lines = [
        f"Calibrated errors of the predictions; bounds aim at {found['aimed coverage']:.0%}, and "
        f"{found['ood']:.0%} of the crystals are unlike what the model knows:",
        "",
        "| | mean error | expected | within the bound | rank correlation |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, title in (("coordinates", "coordinates (Å)"), ("relative_volume", "volume")):
        row = found[name]
        numbers = f"{row['error']:.3f} | {row['expected']:.3f} | {row['coverage']:.0%}"
        rank = "" if row["rank correlation"] is None else f"{row['rank correlation']:.2f}"
        lines.append(f"| {title} | {numbers} | {rank} |")
    for name, title in (("coordinates", "coordinates (Å)"), ("relative_volume", "volume")):
        if bins := found[name].get("bins"):
            pairs = ", ".join(f"{part['expected']:.3f} / {part['error']:.3f}" for part in bins)
            lines += ["", f"Expected / true error of the {title}, bins of equally many crystals: {pairs}."]
    return "\n".join(lines)
