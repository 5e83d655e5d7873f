"""What single pages of docs tell of measured figures; ``readme_page.py`` puts it between their comments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import screening_page
import taught
from floor import SYMMETRIC
from model_card_failures import percent
from shared import read, table
from time_to_minimum_page import other_weights, saved


def _minima(results: Path) -> str:
    """In which minima the jump and what finishes it end."""
    runs = read(results, "other_minima")["runs"]
    fire, fast, alone = (
        runs[name] for name in ("the jump, FIRE", "the jump, the fast finish", "the unrelaxed crystal, the fast finish")
    )
    before = fire["FIRE's"]

    def ends(row: dict[str, float]) -> str:
        return f"{percent(row['higher'], 0)} higher and {percent(row['lower'], 0)} lower"

    return (
        f"{fire['crystals']} test crystals, by more than 1 meV/atom against FIRE from the unrelaxed crystal: FIRE "
        f"after the jump ends {ends(fire)}, in {fire['calls']:.1f} instead of {before:.1f} calls; the fast finish "
        f"after it {ends(fast)}, in {fast['calls']:.1f}; the fast finish without a jump {ends(alone)}"
    )


def _share_of_calls(results: Path) -> str:
    """The calls that the jump leaves, over the finishes."""
    found = read(results, "force_calls")["figures"]["0.05"].values()
    shares = [of["ratio_of_means"]["calls"] for of in found]
    crystals = next(iter(found))["crystals"]
    span = f"{percent(min(shares), 0)} to {percent(max(shares), 0)}"
    return f"{span} of the calls ({len(shares)} optimizers, one by one, {crystals} crystals)"


def _informed(results: Path) -> str:
    """Calls of FIRE with the steps that read forces."""
    calls = read(results, "force_calls")["figures"]["0.05"]["fire"]["calls"]["with"]
    return f"{calls['mean']:.1f} calls (median {calls['median']:.0f})"


def _rates(results: Path) -> str:
    """Screenings from files to files on one GPU, the fastest of each kind."""
    machines = read(results, "screening")
    found = machines["1 NVIDIA H200, 16 cores"]["whole"] + machines[screening_page.LATEST]["whole"]
    most = max(row["crystals"] for row in found)
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for row in sorted((row for row in found if row["crystals"] == most), key=lambda row: row["seconds"]):
        best.setdefault((row["one_shot"], row["format"]), row)
    cells = [
        [
            *(preset, {"parquet": "Parquet", "extxyz": "extended XYZ"}[form], f"{row['crystals']:,}"),
            *(str(row["workers"]), f"{row['seconds_to_first_block']:.1f}", f"{row['seconds']:.1f}"),
            f"{float(format(row['crystals_per_second'], '.3g')):,.0f}",
        ]
        for (preset, form), row in sorted(best.items())
    ]
    heading = "`--one-shot` | from | crystals | processes | first block after (s) | seconds | crystals/s"
    return table(heading, cells, "llr")


def _graphs(results: Path) -> str:
    """Times of the two backends."""
    found = read(results, "graphs")
    rows = [
        [name, f"{row['torch']:.1f}", f"{row['matgl']:.1f}", f"{row['ratio']:.2f}"]
        for name, row in found["results_ms"].items()
    ]
    first = [found["first_graph"][name] for name in ("torch", "matgl")]
    rows.append(["the first of a process", *(f"{1e3 * row['seconds']:,.0f}" for row in first), ""])
    rows.append(["peak memory of that process (MiB)", *(f"{row['peak_memory_MiB']:.0f}" for row in first), ""])
    return table("crystals | torch (ms) | MatGL (ms) | ratio", rows)


def _saddles(results: Path) -> str:
    """How many symmetric starts end lower once they are moved."""
    found = read(results, "floor")["moved"][SYMMETRIC]
    return f"{percent(found['lower'], 0)} of {found['crystals']:,} symmetric crystals"


def _latency(results: Path) -> str:
    """One shot on a CPU."""
    latency, before = read(results, "latency", "peak_memory")
    found = latency["results"]
    call = found["m3gnet energy+forces+stress"]["median_ms"]
    default, fast = (found[f"DeepRelax-PBE{name}"] for name in ("", ", fast"))
    calls, memory = default["ratio_to_potential"], default["peak_memory_MiB"]
    return (
        f"in M3GNet energy+forces+stress calls ({call:.0f} ms each in the same run): {calls:.1f} for the default, "
        f'{fast["ratio_to_potential"]:.1f} for `one_shot="fast"`; {memory:.0f} MiB at most for a process, '
        f"{next(iter(before['MiB'].values())):.0f} MiB with the default before this one"
    )


def _other_bounds(results: Path) -> str:
    """How many errors of the other model lie within their bounds."""
    of = read(results, "coverage-M3GNet")["test"]["all"]
    return " and ".join(percent(of[f"{what} coverage"]) for what in ("coordinates", "volume"))


def _ranks(results: Path) -> str:
    """Rank correlations of expected and true errors."""
    told = []
    for name in ("PBE", "M3GNet"):
        of = read(results, f"coverage-{name}")["test"]["all"]
        both = [f"{of[f'{what} rank correlation']:.2f}" for what in ("coordinates", "volume")]
        told.append(f"{both[0]} (coordinates) and {both[1]} (volumes) for `DeepRelax-{name}`")
    return ", ".join(told)


def _unmoved(results: Path) -> str:
    """What becomes of crystals that are relaxed already."""
    of = read(results, "accuracy-PBE")["results"]["pairs_universal, DFT-labelled"]
    moves, swells = (of[f"already_relaxed_{what}"]["predicted"] for what in ("moves", "swells"))
    return f"by {moves:.3f} Å, and its volume changes by {percent(swells)}"


def _doubtful(results: Path) -> dict[str, Any]:
    """Errors of volumes of crystals that are doubtful by their geometry, by doubt."""
    return read(results, "geometry_limits")["doubtful"]


def _molecules_off(results: Path) -> str:
    found = _doubtful(results)["molecules"]
    return f"{percent(found['predicted'], 0)} off, where they began {percent(found['start'], 0)} off"


def _chains_off(results: Path) -> str:
    found = _doubtful(results)
    chains, others = (percent(found[which]["predicted"], 0) for which in ("chains", "none of these"))
    return f"{chains} off, those of other crystals {others}"


def _doubted(results: Path) -> str:
    """How many ordinary crystals and layers are doubted, and refused, by their geometry."""
    kinds = read(results, "geometry_limits")["kinds"]
    others, layers = kinds["all others"], kinds["layers"]
    each = [f"{percent(others['molecular'])} are doubted as molecules"]
    each += [f"{percent(others[key])} as {name}" for key, name in (("stringy", "chains"), ("parted", "layers"))]
    both, relaxed = (percent(kinds[name]["any doubt"]) for name in ("all others", "all others, relaxed"))
    refused = percent(layers["wire"] + layers["molecule"])
    return (
        f"of {others['crystals']:,} unrelaxed training crystals that are no layers and no slabs {', '.join(each)}; "
        f"{both} together, {relaxed} once relaxed. Of layers {percent(layers['any doubt'])} are doubted, and {refused} "
        "refused"
    )


def _nearest(results: Path) -> str:
    """How near the atoms of relaxed crystals come."""
    found = read(results, "geometry_limits")["nearest"]
    least = {element: share for element, share in found["least"].items() if share is not None}
    low, high = min(least, key=least.__getitem__), max(least, key=least.__getitem__)
    refused = found["relaxed crystals that would be refused"]
    number, of = (refused["training"] + refused["validation and test"], refused["of"] + refused["of them"])
    span = f"from {least[low]:.2f} ({low}) to {least[high]:.2f} ({high})"
    return f"{span}; {number} of {of:,} relaxed crystals would be refused"


def _minimum_rows(results: Path, name: str) -> dict[str, Any]:
    """Rows of relaxations to 0.05 eV/Å in ``time_to_minimum-NAME.json``, by method."""
    rows = read(results, f"time_to_minimum-{name}")["rows"]
    return {row["method"]: row for row in rows if row["fmax"] in (None, 0.05) and "failed" not in row}


def _ratio(rows: dict[str, Any], method: str = "jump, fast") -> str:
    return f"{rows[method]['seconds'] / rows['fast']['seconds']:.2f}"


def _most_done(rows: dict[str, Any]) -> str:
    """When nine of ten crystals are done, with the jump and without."""
    jump, alone = (rows[method]["done"]["0.9"] for method in ("jump, fast", "fast"))
    return f"90 % are done after {1e3 * jump:.3g} and {1e3 * alone:.3g} ms a crystal, {jump / alone:.2f}"


def _minimum_m3gnet(results: Path) -> str:
    cuda, cpu = (_minimum_rows(results, f"M3GNet-{device}") for device in ("cuda", "cpu"))
    quick = _ratio(cpu, "quick jump, fast")
    return f"{_most_done(cuda)}. On one CPU thread all take {_ratio(cpu)} of `fast` alone, {quick} from the quick jump"


def _minimum_nequix(results: Path) -> str:
    rows = _minimum_rows(results, "Nequix-cuda")
    return (
        f"{_ratio(rows)} of `fast` alone on the GPU by the mean of {rows['fast']['crystals']} crystals, which ends "
        f"with the slowest of them (from the quick jump of one network it is {_ratio(rows, 'quick jump, fast')}); "
        f"{_most_done(rows)}"
    )


def _flagged(results: Path) -> str:
    """Ordinary crystals that novelty flags."""
    found = [read(results, f"novelty-{name}")["kinds"]["universal test"]["flagged"] for name in ("PBE", "M3GNet")]
    return f"{percent(found[0])} (`DeepRelax-PBE`) and {percent(found[1])} (`DeepRelax-M3GNet`) of ordinary crystals"


def _many(results: Path) -> str:
    """Of relaxations of more crystals than a GPU takes at once."""
    found, shares = _many_shares(results)
    told = f"Of {found['crystals']:,} crystals, which enter as others leave, {', '.join(shares)}"
    return f"{told}{other_weights(found)}. {saved(found)}"


def _many_under(results: Path) -> str:
    """The same in a clause."""
    found, shares = _many_shares(results)
    return f"among {found['crystals']:,} crystals {shares[0]} and {shares[1]}{other_weights(found)}"


def _many_shares(results: Path) -> tuple[dict[str, Any], list[str]]:
    found = read(results, "time_to_minimum-M3GNet-many-cuda")
    took = {row["method"]: row["seconds"] for row in found["rows"] if row["fmax"] == 0.05}
    others = {"`fast` alone": "fast", "our FIRE": "fire", "TorchSim's FIRE": "TorchSim's fire"}
    return found, [f"{took['jump, fast'] / took[method]:.2f} of {name}" for name, method in others.items()]


#: What makes each part; all but the tables stand within a sentence.
PARTS: dict[str, Callable[[Path], str]] = {
    "many": _many,
    "many-under": _many_under,
    "minima": _minima,
    "share-of-calls": _share_of_calls,
    "informed": _informed,
    "rates": _rates,
    "graphs": _graphs,
    "saddles": _saddles,
    "latency": _latency,
    "other-bounds": _other_bounds,
    "ranks": _ranks,
    "unmoved": _unmoved,
    "taught": taught.part,
    "taught-nequix": lambda results: taught.part(results, "taught-Nequix"),
    "molecules-off": _molecules_off,
    "chains-off": _chains_off,
    "doubted": _doubted,
    "nearest": _nearest,
    "minimum-m3gnet": _minimum_m3gnet,
    "minimum-nequix": _minimum_nequix,
    "flagged": _flagged,
}
INLINE = tuple(name for name in PARTS if name not in ("rates", "graphs", "taught", "taught-nequix"))
