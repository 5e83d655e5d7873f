"""What the device allows and what a prediction takes of it, of what device_limits.py found."""

from __future__ import annotations

from typing import Any

from shared import table

_HEAD = """## What the device allows

Ten-atom crystals, predicted in memory (`Predictor.predict_many`) at the batch that is the fastest. FLOPs are counted by
torch, bytes are those of the tensors that each operation reads and writes; both are of the network and the geometry
around it. "At the ceilings" is the time that these take at the rates of a large product and of a large copy in the
same run: all FLOPs in plain float32, or as the three products of tf32 that linear maps now run as, and then all bytes.
"Before" is before the network had kernels of its own for all layers, measured in another run on a machine of the same
kind."""

#: Of predictions.
PRESETS = ("default", "fast")

#: How often all FLOPs are done, and at which rate.
_PRODUCTS = ((1, "float32_TFLOP_per_s"), (3, "tf32_TFLOP_per_s"))

_RATES = {
    "copy_GB_per_s": "copy, read and written (GB/s)",
    "gather_GB_per_s": "gather of rows of 1 kB (GB/s)",
    "float32_TFLOP_per_s": "float32 product (TFLOP/s)",
    "tf32_TFLOP_per_s": "tf32 product (TFLOP/s)",
    "bfloat16_TFLOP_per_s": "bfloat16 product (TFLOP/s)",
}


def section(report: dict[str, Any]) -> str:
    """The part of the page, from what is in ``device_limits.json``."""
    precisions = [_precisions(name, found["precisions"]) for name, found in report.items()]
    return "\n\n".join([_HEAD, _ceilings(report), _counted(report), _kinds(report), *precisions, _left(report)])


def _left(report: dict[str, Any]) -> str:
    """What is left on the table, of the last of ``report``."""
    *_, (name, found) = report.items()
    kernels, counted, rates = found["default"]["kernels"], found["default"]["counted"], found["ceilings"]
    floor, three = (1e3 * counted["GFLOP"] * n / rates[key] for n, key in _PRODUCTS)
    product = kernels["kinds"]["matrix products"]
    return f"""What is left, {name}: matrix products take {product:.0f} of {kernels["us_per_crystal"]:.0f} µs. Plain
float32 would take {floor:.0f} µs for all FLOPs: they run as three products of tf32 on the tensor cores, which would
take {three:.0f} µs at the rate of a large one (theirs are narrow, and are split on the way), and keep the accuracy of
float32 (below it, one product of tf32 or bfloat16 costs accuracy, and saves little where the other kernels stay). The
device waits for the host in {kernels["idle_share"]:.0%} of the time of one process: two or three processes fill that.
Messages read and write {counted["MB_by_operation"]["sum over neighbours"]:.0f} MB a crystal where
{counted["MB_of_messages_at_least"]:.0f} would do if each row of a neighbour were read once."""


def _ceilings(report: dict[str, Any]) -> str:
    rows = [[label, *(f"{found['ceilings'][key]:,.0f}" for found in report.values())] for key, label in _RATES.items()]
    return table(["ceiling", *report], rows)


def _counted(report: dict[str, Any]) -> str:
    rows = []
    for name, found in report.items():
        rates = found["ceilings"]
        for preset in PRESETS:
            if "counted" not in found.get(preset, {}):
                continue
            counted, stages = found[preset]["counted"], found[preset]["stages"]
            best = max(stages, key=lambda row: row["crystals_per_second"])
            plain, three = (1e3 * counted["GFLOP"] * n / rates[key] for n, key in _PRODUCTS)
            moved = 1e3 * counted["MB"] / rates["copy_GB_per_s"]
            rows.append(
                [
                    f"{name}, {preset}",
                    *(f"{counted[key]:.3g}" for key in ("GFLOP", "MB")),
                    *(f"{us:.0f}" for us in (plain, three, moved)),
                    f"{best['us']['network']:.0f}",
                    f"{sum(best['us'].values()):.0f}",
                    f"{best['crystals_per_second']:,.0f}",
                ]
            )
    at = "at the ceilings: float32 (µs) | three tf32 (µs) | bytes (µs)"
    return table(f"a crystal | GFLOP | MB | {at} | network (µs) | with graph and geometry (µs) | crystals/s", rows)


def _kinds(report: dict[str, Any]) -> str:
    named = {
        f"{name}, {preset}": found[preset]["kernels"]
        for name, found in report.items()
        for preset in PRESETS
        if "kernels" in found.get(preset, {})
    }
    kinds = list(dict.fromkeys(kind for found in named.values() for kind in found["kinds"]))
    rows = [[kind, *(f"{found['kinds'].get(kind, 0):.1f}" for found in named.values())] for kind in kinds]
    rows.append(["all", *(f"{found['us_per_crystal']:.1f}" for found in named.values())])
    rows.append(["launches of a profile", *(f"{found['launches']:,}" for found in named.values())])
    rows.append(
        ["share of the time in which the device waits", *(f"{found['idle_share']:.2f}" for found in named.values())]
    )
    return "Where the time on the device goes, µs a crystal:\n\n" + table(["kernels", *named], rows)


def _precisions(name: str, found: dict[str, dict[str, float]]) -> str:
    keys = ["median", "9 in 10", "99 in 100", "most"]
    rows = [[kind, f"{row['us']:.0f}", *(f"{row[key]:.1e}" for key in keys)] for kind, row in found.items()]
    said = f"How far coordinates are from float64's (Å) by the type of matrix products, {name}:"
    return f"{said}\n\n{table(['products', 'network (µs)', *keys], rows)}"
