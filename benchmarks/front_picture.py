"""The picture of README.md and of the first page of docs: what one shot gains, whether it knows, and what it costs.

Drawn of ``kinds-PBE.json``, ``coverage-PBE.json`` and ``time_to_minimum-M3GNet-cuda.json``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kinds import MEAN, STANDARD_ERROR
from shared import RESULTS, read
from time_to_minimum_page import LIMITS

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "_static" / "front.svg"
#: Bars of the first panel, by the names in the results.
SETS = {
    "universal, DFT-labelled": "universal, DFT",
    "xmno, DFT-labelled": "X-Mn-O, DFT",
    MEAN: "nine kinds",
    "layers": "layers",
    "slabs, cell kept": "slabs",
    "ionic": "ionic",
}
#: Points of the second panel, by the names in the results.
KINDS = {
    "kind: bulk": "bulk",
    "kind: oxides": "oxides",
    "kind: layers": "layers",
    "kind: slabs": "slabs",
    "kind: defects": "defects",
    "DFT-labelled": "DFT",
}
#: Methods of the third panel: label, sign, colour, and where the label stands (points).
METHODS = {
    "one shot, default": ("one shot", "o", "tab:blue", (7, -5)),
    "jump, fast": ("jump, then fast", "o", "tab:green", (8, -3)),
    "fast": ("fast alone", "s", "tab:orange", (-30, 8)),
    "fire": ("FIRE", "s", "tab:red", (-8, 8)),
    "TorchSim's fire": ("FIRE (TorchSim)", "D", "tab:red", (8, -3)),
    "fire, one by one": ("FIRE (ASE)", "x", "tab:red", (-62, 6)),
}


def draw(results: Path = RESULTS, picture: Path = PICTURE) -> None:
    """Write ``picture``; the same results give the same file."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    kinds, coverage, times = read(results, "kinds-PBE", "coverage-PBE", "time_to_minimum-M3GNet-cuda")
    with matplotlib.rc_context({"svg.hashsalt": "deeprelax", "font.size": 9}):
        figure, panels = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
        _gain(panels[0], kinds["rows"])
        _expected(panels[1], coverage["test"])
        _cost(panels[2], times["rows"])
        for axes in panels:
            axes.spines[["top", "right"]].set_visible(False)
        figure.patch.set_facecolor("white")  # legible on a dark page too
        figure.savefig(picture, metadata={"Date": None})
        plt.close(figure)


def _gain(axes: Any, rows: dict[str, Any]) -> None:
    """Mean error of the coordinates, before and after, with its standard error."""
    for place, key in enumerate(SETS):
        for shift, side, colour in ((-0.2, "start", "0.75"), (0.2, "end", "tab:blue")):
            of = rows[key][side]
            off = {"xerr": of[STANDARD_ERROR], "error_kw": {"elinewidth": 1, "ecolor": "0.25"}}
            axes.barh(place + shift, of["coordinates mean"], 0.38, color=colour, **off)
    axes.set_yticks(range(len(SETS)), SETS.values())
    axes.invert_yaxis()
    axes.set(xlabel="distance from the relaxed crystal (Å), standard error", title="before (grey), after (blue)")


def _expected(axes: Any, found: dict[str, Any]) -> None:
    """Mean errors that are expected against those that are made."""
    pairs = [[found[key][f"coordinates {what}"] for what in ("expected", "error")] for key in KINDS]
    most = 1.15 * max(map(max, pairs))
    axes.plot([0, most], [0, most], color="0.75", linestyle="--")
    for (expected, error), label in zip(pairs, KINDS.values(), strict=True):
        axes.plot(expected, error, "o", color="tab:blue")
        axes.annotate(label, (expected, error), xytext=(6, -9), textcoords="offset points", fontsize=8)
    share = f"{found['all']['coordinates coverage']:.1%}".replace("%", " %")
    axes.text(0.03, 0.97, f"{share} within the bounds\n(meant: 90 %)", transform=axes.transAxes, va="top")
    axes.locator_params(axis="x", nbins=5)
    axes.set(xlabel="expected error (Å)", ylabel="true error (Å)", title="it knows how far it is off")


def _cost(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Median energy above M3GNet's minimum against time."""
    found = {row["method"]: row for row in rows if row["fmax"] in (None, min(LIMITS))}
    for name, (label, sign, colour, where) in METHODS.items():
        same = found[name.removesuffix(", one by one")]  # ends there, of more crystals
        place = (1e3 * found[name]["seconds"], 1e3 * same["energy"]["median"])
        axes.plot(*place, sign, color=colour)
        axes.annotate(label, place, xytext=where, textcoords="offset points", fontsize=8)
    axes.axhline(1e3 * found["nothing"]["energy"]["median"], color="grey", linestyle=":")
    axes.text(0.97, 0.91, "nothing done", transform=axes.transAxes, ha="right", fontsize=8, color="grey")
    axes.set(
        xscale="log", yscale="log", xlabel="time of a crystal, one H200 (ms)", ylabel="above the minimum (meV/atom)"
    )
    axes.set_title("cost, under M3GNet")


if __name__ == "__main__":
    draw()
