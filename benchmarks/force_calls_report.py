"""The report of ``force_calls.py``: tables in Markdown, and a picture of each crystal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shared import table
from time_to_minimum_page import other_weights

NAMES = {"fire": "FIRE", "bfgs": "BFGS (alpha = 30)", "lbfgs": "LBFGS (alpha = 30)", "fast": '`finish="fast"`'}


def report(
    results: dict[str, Any],
    picture: Path | None,
    dft: Sequence[dict[str, Any]] = (),
    times: dict[str, Any] | None = None,
) -> str:
    """Markdown of the ``results``, those under ``dft``, and ``times``; draws the ``picture``, if one is wanted."""
    parts = [
        "# Force calls of a relaxation, with and without the jump",
        f"{_crystals(results)} crystals of the {results['split']} split, relaxed under {results['potential']}, "
        f"positions and cell (`FrechetCellFilter`), by the optimizer alone and by `DeepRelaxOptimizer` with the jump "
        f"of `{results['model']}`{other_weights(results)} and the same optimizer as its finish. Written by "
        f"`benchmarks/force_calls.py`; "
        f"{results['environment']['workers']} processes of one thread each.",
    ]
    for fmax, finishes in results["figures"].items():
        parts += [f"## fmax = {fmax} eV/Å", _calls(finishes), _fair(finishes), _energies(finishes)]
    if picture is not None:
        draw(results, picture)
        parts.append(f"![Force calls of each crystal with the jump against those without]({picture.name})")
    parts += [] if times is None else [_times(times)]
    parts += [_dft(each) for each in dft]
    lost = results["failures"]
    parts.append("## Not converged\n\n" + ("\n".join(f"- {line}" for line in lost) if lost else "None."))
    return "\n\n".join(parts) + "\n"


def _crystals(results: dict[str, Any]) -> int:
    finishes = next(iter(results["figures"].values()))
    return next(iter(finishes.values()))["crystals"]


def _times(results: dict[str, Any]) -> str:
    """The part of processor time."""
    fmax, finishes = next(iter(results["figures"].items()))
    return f"""## Time, fmax = {fmax} eV/Å

{_crystals(results)} crystals chosen likewise, under {results["potential"]} with the jump of
`{results["model"]}`{other_weights(results)}: seconds of one thread of the processor, the network's among them, and the
calls of these crystals.

{_calls(finishes)}"""


def _dft(results: dict[str, Any]) -> str:
    """The part of what was relaxed under DFT."""
    fmax, finishes = next(iter(results["figures"].items()))
    return f"""## Under {results["potential"]}, fmax = {fmax} eV/Å

Of {results["chosen"]} crystals of 6 to 20 atoms over the kinds those that came to an end in the time there was, the
cheapest first, with the jump of `{results["model"]}`{other_weights(results)}.

{_calls(finishes)}

{_energies(finishes)}

Calls of each crystal, without: with the jump. {" ".join(_each(finish, of) for finish, of in finishes.items())}"""


def _each(finish: str, figures: dict[str, Any]) -> str:
    calls = figures["per_crystal"]
    each = zip(calls["calls_without"], calls["calls_with"], strict=True)
    return f"{NAMES.get(finish, finish)}: {', '.join(f'{old}: {new}' for old, new in each)}."


def _calls(finishes: dict[str, Any]) -> str:
    timed = all("seconds" in of for of in finishes.values())
    header = ["", "calls without: mean (median, 90 %)", "with the jump", "ratio"]
    header += ["seconds without", "with", "ratio"] * timed + ["fewer calls with", "compared"]
    rows = []
    for finish, of in finishes.items():
        spreads = [of["calls"][key] for key in ("without", "with")]
        calls = [f"{s['mean']:.1f} ({s['median']:g}, {s['p90']:.0f})" for s in spreads]
        ratios = {what: f"**{ratio:.2f}**" for what, ratio in of["ratio_of_means"].items()}
        seconds = [f"{of['seconds'][key]['mean']:.2f}" for key in ("without", "with") if timed]
        share = f"{100 * of['fewer_calls']:.0f} %"
        seconds += [ratios["seconds"]] if timed else []
        rows.append([NAMES.get(finish, finish), *calls, ratios["calls"], *seconds, share, str(of["compared"])])
    return table(header, rows, "l")


def _fair(finishes: dict[str, Any]) -> str:
    lines = []
    units = {"calls": "calls", "seconds": "s"}
    for what in next(iter(finishes.values()))["ratio_of_means"]:
        unit = units[what]
        old, new = (min(finishes, key=lambda f: finishes[f][what][side]["mean"]) for side in ("without", "with"))
        before, after = finishes[old][what]["without"]["mean"], finishes[new][what]["with"]["mean"]
        lines.append(
            f"{NAMES.get(old, old)} is the best without a jump ({before:.1f} {unit}), {NAMES.get(new, new)} with one "
            f"({after:.1f} {unit}): {after / before:.2f}."
        )
    return "Best against best (each over the crystals of its own row): " + " ".join(lines)


def _energies(finishes: dict[str, Any]) -> str:
    header = ["final energy, with the jump against without", "same (1 meV/atom)", "lower", "higher", "mean (meV/atom)"]
    rows = [
        [
            NAMES.get(finish, finish),
            *(f"{100 * of['energy'][key]:.0f} %" for key in ("same", "lower", "higher")),
            f"{1e3 * of['energy']['mean']:+.1f}",
            f"{100 * of['taken_back']:.0f} %",
        ]
        for finish, of in finishes.items()
    ]
    return table([*header, "jumps rejected"], rows, "l")


def draw(results: dict[str, Any], picture: Path) -> None:
    """A point for each crystal: calls with the jump against calls without, and how they are distributed."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "deeprelax"  # the same figures give the same file
    import matplotlib.pyplot as plt

    fmax, finishes = next(iter(results["figures"].items()))
    figure, axes = plt.subplots(2, len(finishes), figsize=(3.2 * len(finishes), 6.2), squeeze=False)
    for (above, below), (finish, of) in zip(axes.T, finishes.items(), strict=True):
        old, new = of["per_crystal"]["calls_without"], of["per_crystal"]["calls_with"]
        above.loglog(old, new, ".", alpha=0.6)
        largest = max([*old, *new])
        above.loglog([1, largest], [1, largest], "-", color="grey", linewidth=0.8)
        above.set(title=NAMES.get(finish, finish).strip("`"), xlabel="calls without the jump", ylabel="calls with it")
        for values, label in ((old, "without"), (new, "with")):
            ordered = sorted(values)
            below.step(ordered, [(k + 1) / len(ordered) for k in range(len(ordered))], label=label, where="post")
        below.set(xscale="log", xlabel="calls", ylabel="share of crystals done")
        below.legend()
    figure.suptitle(f"fmax = {fmax} eV/Å")
    figure.tight_layout()
    figure.savefig(picture, metadata={"Date": None})
    plt.close(figure)
