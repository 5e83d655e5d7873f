"""Tables and figures within README.md, benchmarks/README.md and pages of docs, made of what was measured.

Each stands between the comments ``<!-- NAME -->`` and ``<!-- /NAME -->``, by the names of :data:`PARTS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import aims_table
import docs_parts
import numpy as np
from floor import SYMMETRIC
from force_calls import SAME
from force_calls_report import NAMES
from kinds import MEAN
from model_card_failures import above_hundred, percent
from relaxed_energy_page import in_short
from shared import RESULTS, filled, read, table
from time_to_minimum_page import other_weights

ROOT = Path(__file__).resolve().parents[1]
DOCS = ("trust", "dft", "accuracy", "optimizer", "limits", "screening", "graphs", "labels")
PAGES = (
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in DOCS),
    ROOT / "benchmarks" / "README.md",
)

#: Rows of the table of accuracy: title, metric, number format.
_ERRORS = (
    ("coordinates (Å)", "coordinates", ".3f"),
    ("lattice matrix (Å)", "lattice", ".3f"),
    ("cell volume (Å³)", "volume", ".1f"),
    ("relative volume, median", "relative_volume median", ".2%"),
    ("bond lengths (Å)", "bond_length", ".3f"),
    ("match rate", "match", ".3f"),
)
#: Methods of the table of README.md, and what it calls them.
_COMPARED = {
    "nothing": "nothing done",
    "one shot, default": "one shot",
    "jump, fast": 'jump, then `finish="fast"`',
    "fast": "`fast` alone",
    "fire": "FIRE in batches, ours",
    "TorchSim's fire": "FIRE in batches, TorchSim",
    "fire, one by one": "FIRE one by one, ASE",
}
#: What the table calls the kinds' metrics; others were not measured for them.
_OF_KINDS = {
    "coordinates": "coordinates mean",
    "volume": "volume mean",
    "relative_volume median": "relative_volume median",
    "match": "match",
}
#: Kinds of the table of bounds, by their names in the results.
_BOUNDS = {
    "all": "all",
    "kind: bulk": "bulk without oxygen",
    "kind: oxides": "oxides",
    "kind: layers": "layers",
    "kind: slabs": "slabs, cell kept",
    "kind: defects": "defects, cell kept",
    "over 30 atoms": "over 30 atoms",
    "DFT-labelled": "DFT-labelled",
}


def filled_page(text: str, results: Path) -> str:
    """``text`` with every part of :data:`PARTS` that it has a place for.

    Raises:
        ValueError: a place is begun and not ended.
    """
    for name, make in PARTS.items():
        begin = f"<!-- {name} -->"
        if begin in text:
            text = filled(text, begin, f"<!-- /{name} -->", make(results), inline=name in INLINE)
    return text


def write_pages(results: Path = RESULTS) -> None:
    """Fill the pages."""
    for page in PAGES:
        page.write_text(filled_page(page.read_text(encoding="utf-8"), results), encoding="utf-8")


def _accuracy(results: Path) -> str:
    """Errors of DFT-labelled crystals, and of the nine kinds in equal parts."""
    accuracy, kinds = read(results, "accuracy-PBE", "kinds-PBE")
    sets = [accuracy["results"][f"{name}, DFT-labelled"] for name in ("pairs_universal", "pairs_xmno")]
    mean = kinds["rows"][MEAN]
    sizes = [f"{found['crystals']['predicted']:,}" for found in sets] + [f"{mean['crystals']:,}"]
    names = ("universal, DFT", "X-Mn-O, DFT", "the nine kinds")
    heading = ["", *(f"{name} ({size})" for name, size in zip(names, sizes, strict=True))]
    rows = []
    for title, key, form in _ERRORS:
        metric, _, median = key.partition(" ")
        sides = [f"{side}_median" if median else side for side in ("predicted", "unrelaxed")]
        ends = [[found[metric][side] for side in sides] for found in sets]
        if key in _OF_KINDS:
            ends.append([mean[side][_OF_KINDS[key]] for side in ("end", "start")])
        cells = [" / ".join(f"{value:{form}}".replace("%", " %") for value in pair) for pair in ends]
        rows.append([title, *cells, *[""] * (len(names) - len(cells))])
    return table(heading, rows, "l")


def _finishes(results: Path) -> dict[str, Any]:
    """Figures of relaxations under M3GNet to 0.05 eV/Å, by finish."""
    return read(results, "force_calls")["figures"]["0.05"]


def _calls(results: Path) -> str:
    rows = [
        [NAMES[finish], *(f"{of['calls'][side]['mean']:.1f}" for side in ("without", "with"))]
        for finish, of in _finishes(results).items()
    ]
    return table(["", "calls without the jump", "with it"], rows, "l")


def _energies(results: Path) -> str:
    found = [of["energy"] for of in _finishes(results).values()]

    def span(key: str, scale: float) -> str:
        values = [scale * energy[key] for energy in found]
        return f"{min(values):.0f} to {max(values):.0f}"

    return (
        f"final energies differ with the jump by {span('mean', 1e3)} meV/atom in the mean, of which a few crystals in "
        f"other minima make the most (higher in {span('higher', 100)} %, lower in {span('lower', 100)} %)"
    )


def _dft(results: Path) -> str:
    """What was relaxed under DFT, a clause for each finish; the coarse k-points last."""
    found = read(results, "force_calls-gpaw", "force_calls-gpaw-coarse")
    (fmax, fine), (_, coarse) = (next(iter(each["figures"].items())) for each in found)
    told = "; ".join(_saved(finish, of) for finish, of in fine.items())
    names = fine["bfgs"]["per_crystal"]["names"]
    here = [name in names for name in coarse["bfgs"]["per_crystal"]["names"]]
    return (
        f"{found[0]['chosen']} test crystals of 6 to 20 atoms over the kinds, the cheapest first, under GPAW to {fmax} "
        f"eV/Å. Calls without and with the jump, the call before it counted: {told}. With k-points 1/Å instead of "
        f"0.5/Å apart, too coarse to trust forces: {_saved('bfgs', coarse['bfgs'])}; the {sum(here)} of them that are "
        f"among those above {_share(coarse['bfgs'], here):.2f}"
    )


def _saved(finish: str, of: dict[str, Any]) -> str:
    old, new = (of["calls"][side]["mean"] for side in ("without", "with"))
    return (
        f"{NAMES[finish]} {old:.1f} and {new:.1f} ({new / old:.2f}; {_same(of):.2f} where both end in the same "
        f"minimum; {of['compared']} crystals came to an end)"
    )


def _share(of: dict[str, Any], which: Sequence[bool]) -> float:
    """Calls with the jump as a share of those without, of some of the crystals."""
    calls = [np.array(of["per_crystal"][f"calls_{side}"])[np.array(which)].sum() for side in ("with", "without")]
    return float(calls[0] / calls[1])


def _same(of: dict[str, Any]) -> float:
    """The same, of those that end in the same minimum."""
    return _share(of, [abs(change) <= SAME for change in of["per_crystal"]["energy_change"]])


def _gpaw(results: Path) -> str:
    """Calls under DFT, by k-points and finish."""
    rows = []
    for name, spacing in (("gpaw", "0.5/Å"), ("gpaw-coarse", "1/Å")):
        for finish, of in next(iter(read(results, f"force_calls-{name}")["figures"].values())).items():
            calls = [f"{of['calls'][side]['mean']:.1f}" for side in ("without", "with")]
            shares = [f"{share:.2f}" for share in (of["ratio_of_means"]["calls"], _same(of))]
            others = [f"{of['energy'][key] * of['compared']:.0f}" for key in ("lower", "higher")]
            rejected = f"{of['taken_back'] * of['crystals']:.0f}"
            rows.append([spacing, NAMES[finish], str(of["compared"]), *calls, *shares, *others, rejected])
    heading = "k-points apart | finish | crystals | calls without | with the jump | share | share, same minimum"
    return table(f"{heading} | end lower | end higher | jumps rejected", rows, "ll")


def _energy_output(results: Path) -> str:
    """The errors of predicted energies, and the choices that they decide."""
    return in_short(read(results, "relaxed_energy"))


def _mixtures(results: Path) -> str:
    """What mixtures bring to the coordinates."""
    one, three = list(read(results, "mixtures")["rows"].values())[1:]
    return (
        f"fine-tuned alike, coordinates of validation crystals {three['coordinates']:.4f} Å with three and "
        f"{one['coordinates']:.4f} Å with one; the best of the three, which it cannot tell, {three['best']:.4f} Å"
    )


def _coverage(results: Path) -> str:
    """How many errors lie within their bounds, of all test crystals."""
    of = read(results, "coverage-PBE")["test"]["all"]
    shares = [percent(of[f"{what} coverage"]) for what in ("coordinates", "volume")]
    return f"{shares[0]} and {shares[1]} of {of['crystals']:,}"


def _worse(results: Path) -> str:
    """How many end further off than they began."""
    share = percent(read(results, "kinds-PBE")["rows"][MEAN]["further off"])
    return f"Of the nine kinds of crystals {share} end further from their minimum than they began"


def _compared_rows(results: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was measured under M3GNet on a GPU, and its rows to 0.05 eV/Å by method."""
    found = read(results, "time_to_minimum-M3GNet-cuda")
    return found, {row["method"]: row for row in found["rows"] if row["fmax"] in (None, 0.05)}


def _compared(results: Path) -> str:
    """One shot beside relaxations under M3GNet, and calls under CHGNet."""
    found, rows = _compared_rows(results)
    lines = []
    for method, title in _COMPARED.items():
        of = rows[method]
        milliseconds = "" if method == "nothing" else f"{1e3 * of['seconds']:,.{1 if of['seconds'] < 0.1 else 0}f}"
        ends = [f"{of['coordinates']['median']:.3f}", f"{1e3 * of['energy']['median']:.1f}"]
        if 2 * of["crystals"] < found["crystals"]:
            ends = ["", ""]  # of too few to compare
        crystals = "" if of["crystals"] == found["crystals"] else f" ({of['crystals']} crystals)"
        lines.append([title + crystals, milliseconds, f"{of['calls']:.0f}" if "calls" in of else "", *ends])
    heading = (
        f"to M3GNet's minima, {found['crystals']} test crystals{other_weights(found)} | "
        f"ms a crystal, {found['environment']['gpu']} | "
        "mean calls to 0.05 eV/Å | median distance (Å) | median energy above (meV/atom)"
    )
    return table(heading, lines + _chgnet(), "l")


def _compared_under(results: Path) -> str:
    found, rows = _compared_rows(results)
    ours = rows["jump, fast"]["seconds"]
    rivals = {
        "fast": "of `fast` alone",
        "fire": "of our FIRE",
        "TorchSim's fire": "of TorchSim's",
    }
    shares = [f"{ours / rows[name]['seconds']:.2f} {title}" for name, title in rivals.items()]
    return f"{shares[0]}, {shares[1]} and {shares[2]}{other_weights(found)}"


def _chgnet() -> list[list[str]]:
    """Rows of calls under CHGNet, as docs/examples.md prints them."""
    text = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    alone, jumped = (
        re.search(rf"^{name} +([\d.]+) ", text, flags=re.MULTILINE) for name in ("FIRE", "DeepRelax-PBE, then FIRE")
    )
    crystals = re.search(r"^(\d+) crystals; learning", text, flags=re.MULTILINE)
    if not (alone and jumped and crystals):
        raise ValueError(
            "docs/examples.md tells no calls under CHGNet: run `python docs/blocks.py docs/examples.md --record`"
        )
    ways = {"FIRE, ASE": alone, "jump, then FIRE": jumped}
    under = f"under CHGNet (r2SCAN), {crystals[1]} salts"
    return [[f"{under}: {way}", "", f"{float(calls[1]):.0f}", "", ""] for way, calls in ways.items()]


def _large(results: Path) -> str:
    """Errors of supercells."""
    return above_hundred(read(results, "large"))


def _floor(results: Path) -> str:
    """What a relaxation itself leaves of the nine kinds."""
    found = read(results, "floor")
    still, moved = (found[which][MEAN]["end"]["coordinates mean"] for which in ("rows", "moved"))
    lower = percent(found["moved"][SYMMETRIC]["lower"], 0)
    return (
        f"{still:.3f} Å are left of the nine kinds, and {moved:.3f} Å where every coordinate of the start is moved by "
        f"0.01 Å: {lower} of symmetric starts then end more than 25 meV/atom below their label"
    )


def _times(results: Path) -> str:
    """Of relaxations under M3GNet, one by one and in batches."""
    alone, batches = read(results, "force_calls-times", "time_to_minimum-M3GNet-cpu")
    found = next(iter(alone["figures"].values()))
    shares = [f"{of['ratio_of_means']['seconds']:.2f} of that of {NAMES[finish]}" for finish, of in found.items()]
    rows = {(row["method"], row["fmax"]): row for row in batches["rows"]}
    jump, fire = (rows[method, 0.05]["seconds"] for method in ("jump, fire", "fire"))
    return (
        f"relaxations one by one take with the jump {', '.join(shares[:-1])} and {shares[-1]} alone; in batches on one "
        f"CPU thread the jump and FIRE take {jump / fire:.2f} of FIRE's"
    )


def _bounds(results: Path) -> str:
    """How many errors lie within their bounds, by kind."""
    found = read(results, "coverage-PBE")["test"]
    rows = []
    for key, title in _BOUNDS.items():
        shares = [found[key].get(f"{what} coverage") for what in ("coordinates", "volume")]
        texts = ["" if share is None else percent(share) for share in shares]
        rows.append([title, f"{found[key]['crystals']:,}", *texts])
    return table(["", "crystals", "coordinates", "volume"], rows, "l")


#: What makes each part.
PARTS: dict[str, Callable[[Path], str]] = {
    "accuracy": _accuracy,
    "coverage": _coverage,
    "worse": _worse,
    "compared": _compared,
    "compared-under": _compared_under,
    "calls": _calls,
    "energies": _energies,
    "dft": _dft,
    "gpaw": _gpaw,
    "large": _large,
    "floor": _floor,
    "energy-output": _energy_output,
    "mixtures": _mixtures,
    "times": _times,
    "bounds": _bounds,
    "aims": aims_table.aims,
    **docs_parts.PARTS,
}
#: Those within a sentence.
INLINE = (
    "coverage",
    "worse",
    "compared-under",
    "energies",
    "dft",
    "large",
    "floor",
    "times",
    "energy-output",
    "mixtures",
    *docs_parts.INLINE,
)
