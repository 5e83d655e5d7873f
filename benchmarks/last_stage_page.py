"""The section of accuracy.md on the last stage of training: what it learnt from, and what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from never_worse import KINDS
from relaxed_energy_page import on_the_way
from shared import read, table

#: Levels of theory of the models that share a network.
LEVELS = ("PBE", "M3GNet")

STAGE = """## The last stage of training

`deeprelax train examples/training/energy.yaml` went on from the weights that shipped before: {seconds:.0f} s of
{hardware}, {steps:,} steps, {seen:.1f} million crystals, with the elastic loss (weight {elastic:g}) and gradients
through the blocks. The pairs were those of the stage before. {pairs:,} of them, with minima of M3GNet, were made then
in {making:.0f} s of the same GPUs: candidates of all kinds but
the published, drawn from the prototypes with elements that make no chemical system of a held-out crystal, relaxed
from where they were made by FIRE in batches, {calls:.0f} calls on average. Of {candidates:,} candidates
{unconverged:.0%} did not converge in {most} steps, {swollen:.0%} changed their volume too much, and in
{displaced:.0%} atoms went too far. `deeprelax candidates` and `deeprelax label --calculator m3gnet` make the like;
the script that shared the GPUs is not in the tree. {minima:,} minima of M3GNet's of the shared files' crystals, and
its forces at {forces:,} points, stood beside them as before.

Validation crystals: {kinds:,} of the nine kinds, {m3gnet:,} of them with M3GNet's minima, {first} of the first two
files. Rows between are means of both ends (`initial_share`): **{share} of the way ships**. Coordinates alone would
have chosen less of the way; fewer end further off there, and M3GNet finds them lower: within 25 meV/atom of the label's
crystal {within[0]:.1%} of the predictions before and {within[1]:.1%} now ({within_first[0]:.1%} and
{within_first[1]:.1%} of the first two files), with a median largest force of {largest[0]:.2f} and {largest[1]:.2f}
eV/Å ({largest_first[0]:.2f} and {largest_first[1]:.2f}).

{on_the_way}

On all test crystals, by kind: what was, what is, and the paired difference with its standard error.

{by_kind}

The median error of energies went from {energy[0]:.0f} to {energy[1]:.0f} meV/atom. Volumes of universal DFT-labelled
crystals were off by {mean[0]:.2f} Å³ in the mean and {median[0]:.2f} in the median, now by {mean[1]:.2f} and
{median[1]:.2f}: one crystal, off by {one:.0f} Å³ more, makes {of_one:.2f} of the mean.
Coordinates of DFT-labelled X-Mn-O crystals were off by {PBE_xmno[0]:.4f} Å (`DeepRelax-M3GNet`
{M3GNet_xmno[0]:.4f}), now by {PBE_xmno[1]:.4f} ({M3GNet_xmno[1]:.4f}). Of all X-Mn-O crystals {PBE_further[0]:.1%}
({M3GNet_further[0]:.1%}) ended further off, now {PBE_further[1]:.1%} ({M3GNet_further[1]:.1%}). Novelty tells
molecules by an AUROC of {PBE_molecules[1]:.3f} ({M3GNet_molecules[1]:.3f}), before {PBE_molecules[0]:.3f}
({M3GNet_molecules[0]:.3f}), and flags {PBE_flagged[1]:.0%} of them ({M3GNet_flagged[1]:.0%}), before
{PBE_flagged[0]:.0%} ({M3GNet_flagged[0]:.0%}).

Share of test crystals whose coordinates lie within their 90 % bound, by the kinds that the model tells,
before and now, calibrated alike:

{bounds}

Crystals that are accepted, and those of them that end further off than they began, on test crystals:

{accepted}"""


def sections(results: Path) -> list[str]:
    """The section, a part of the page of accuracy."""
    found = read(results, "last_stage")
    told = {"on_the_way": on_the_way(found["rows"]), "by_kind": _by_kind(found["test"])}
    told["accepted"] = _accepted(found["before"]["accepted"], results)
    told["bounds"] = _bounds(found["before"]["bounds"], results)
    return [STAGE.format(**told, **_learnt_from(found), **_beside(found, results))]


def _learnt_from(found: dict[str, Any]) -> dict[str, Any]:
    new, crystals = found["new"], found["crystals"]
    tried = new["candidates"]
    told = {name: found[name] for name in ("hardware", "seconds", "steps", "share", "minima", "forces")}
    told |= {"seen": found["seconds"] * found["crystals_per_second"] / 1e6, "candidates": tried, "calls": new["calls"]}
    told |= {"pairs": new["pairs"], "making": new["seconds"], "most": new["steps"]}
    told["elastic"] = found["elastic_weight"]
    for ending, files in (("", "nine kinds"), ("_first", "first files")):
        under = found["under M3GNet"][files]
        told |= {"within" + ending: under["within 25 meV/atom"], "largest" + ending: under["largest force, median"]}
    told |= {"unconverged": new["not converged"] / tried, "swollen": new["volume"] / tried}
    told |= {"displaced": new["displaced"] / tried}
    return told | {"kinds": crystals["nine kinds"], "m3gnet": crystals["M3GNet"], "first": crystals["first files"]}


def _beside(found: dict[str, Any], results: Path) -> dict[str, Any]:
    """Pairs of what was and is, beside coordinates."""
    before = found["before"]
    energy = read(results, "relaxed_energy")["rows"]["all"]["median"]
    told = {"energy": (1000 * before["energy"], 1000 * energy)}
    volume = read(results, "accuracy-PBE")["results"]["pairs_universal, DFT-labelled"]["volume"]
    was = before["universal, DFT-labelled, volume"]
    told |= {"mean": (was["mean"], volume["predicted"]), "median": (was["median"], volume["predicted_median"])}
    largest = found["universal, DFT-labelled, volume, largest change"]
    told |= {"one": largest["change"], "of_one": largest["change"] / largest["crystals"]}
    for name in LEVELS:
        known = read(results, f"novelty-{name}")["kinds"]["molecules"]
        told[f"{name}_molecules"] = before["novelty, molecules"][name], known["auroc"]
        told[f"{name}_flagged"] = before["molecules flagged"][name], known["flagged"]
        off = read(results, f"accuracy-{name}")["results"]["pairs_xmno, DFT-labelled"]["coordinates"]["predicted"]
        told[f"{name}_xmno"] = before["X-Mn-O, DFT-labelled"][name], off
        further = read(results, f"never_worse-{name}")["rows"]["xmno"]["worse"]
        told[f"{name}_further"] = before["further off"][name]["xmno"], further
    return told


def _by_kind(tested: dict[str, Any]) -> str:
    cells = []
    for number, name in KINDS.items():
        if str(number) not in tested["PBE"]["kinds"]:
            continue
        row = [name]
        for level in LEVELS:
            difference, square, was, now = tested[level]["kinds"][str(number)]
            row += [f"{was:.4f}", f"{now:.4f}", f"{difference:+.4f} ± {square**0.5:.4f}"]
        cells.append(row)
    whole = ["the nine kinds in equal parts"]
    for level in LEVELS:
        difference, error = tested[level]["paired difference"]
        was, now = (f"{tested[level][key]:.4f}" for key in ("before", "after"))
        whole += [was, now, f"{difference:+.4f} ± {error:.4f}"]
    heads = [f"{level}: {head}" for level in LEVELS for head in ("before (Å)", "now (Å)", "difference (Å)")]
    return table(["", *heads], [*cells, whole])


def _accepted(before: dict[str, Any], results: Path) -> str:
    now = {name: read(results, f"never_worse-{name}")["rows"] for name in LEVELS}
    cells = []
    for kind in before["PBE"]:
        row = [kind]
        for name in LEVELS:
            own = now[name][kind]
            (accepted, worse), (taken, wrong) = before[name][kind], (own["accepted"], own["accepted_worse"])
            row += [f"{accepted:.0%} → {taken:.0%}", f"{worse:.1%} → {wrong:.1%}"]
        cells.append(row)
    heads = [f"{level}: {head}" for level in LEVELS for head in ("accepted", "of these further off")]
    return table(["", *heads], cells)


def _bounds(before: dict[str, Any], results: Path) -> str:
    now = {name: read(results, f"coverage-{name}")["test"] for name in LEVELS}
    cells = [
        [
            kind,
            *(
                f"{before[name][kind]:.1%} → {now[name][f'kind: {kind}']['coordinates coverage']:.1%}"
                for name in LEVELS
            ),
        ]
        for kind in before["PBE"]
    ]
    return table(["", *LEVELS], cells)
