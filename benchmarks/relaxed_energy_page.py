"""The sections of accuracy.md on the energy of the relaxed crystal as an output, and on mixtures for coordinates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from never_worse import KINDS
from shared import read, table

#: Columns of estimates beside the head's: key, and heading.
OTHERS = {"M3GNet": "M3GNet", "Nequix": "Nequix", "unrelaxed": "Nequix, unrelaxed"}

#: Crystals in a row of choices, and rows beside the kinds.
FEWEST, WHOLE = 50, ("all", "all of the nine kinds")

ERRORS = """## The energy of the relaxed crystal as an output

```sh
DEEPRELAX_M3GNET=path/to/M3GNet-MP-2021.2.8-PES DEEPRELAX_NEQUIX=nequix-oam-1.pt PYTHONPATH=benchmarks \\
    python benchmarks/relaxed_energy.py pairs_universal.npz pairs_xmno.npz pairs_generated_?.npz --write \\
    --json benchmarks/results/relaxed_energy.json
```

`DeepRelax-PBE`, in one go with the prediction: energy an atom of the minimum under Nequix-OAM-1, off by so many
meV/atom. Bounds are fitted on all validation crystals, a factor for each kind. Beside it stand medians of what takes a
call of a potential: M3GNet's energy of the predicted crystal, put onto this scale by energies of the elements that were
fitted to training crystals, and Nequix-OAM-1's own, of the predicted and of the unrelaxed crystal. The head first
learnt, for {seconds} s of an H200, what the scalars of the frozen network tell of {pairs:,} training pairs (in {less} s
half of the generated test crystals came within {whole:.0f} meV/atom, on an eighth of the pairs within {eighth:.0f}; the
script is not in the tree), then the network learnt with it, as told below. Aimed at were 30."""

TUNED = """\
The whole network first learnt the energy, head and trunk together, two stages before the last: {seconds:.0f} s of
{hardware}, {steps:,} steps, {seen:.1f} million crystals, with M3GNet's minima of {minima:,} generated training
crystals, which FIRE in batches had found on the same GPUs in {minima_seconds:.0f} s. Rows between are means of both
ends, head and trunk alike (`initial_share`): {share} of the way shipped then. Validation crystals: {kinds:,} of the
nine kinds, {m3gnet:,} of them with M3GNet's minima, {first} of the first two files, {dft} of them DFT-labelled.

{table}

On all test crystals the median went from {energy:.0f} to {after:.0f} meV/atom by it, and coordinates of the nine
kinds from {test_PBE[0]:.4f} to {test_PBE[1]:.4f} Å ({by_PBE[0]:+.4f} ± {by_PBE[1]:.4f}), M3GNet's from
{test_M3GNet[0]:.4f} to {test_M3GNet[1]:.4f} Å ({by_M3GNet[0]:+.4f} ± {by_M3GNet[1]:.4f}). What the last stage made of
it is told below."""

TOLD = """Crystals are those that the package tells an energy of, with the freedom that their labels had: {told:,} of
{all:,} test crystals. It tells none, here and in every door, of crystals whose cell is kept, unless they are slabs by
their thickness, and of those that it refuses; so defects in a cell that is kept have no row, and {slabs} of the slabs
do not count."""

CHOICES = """A choice is whether a crystal lies below a limit: the best other crystal of its composition among the test
crystals, of those that have one; for the others the median of the validation crystals of their kind, of energies less
those of the elements. "Near" are the crystals within {near:.0f} meV/atom of the limit. Right choices by the energy
alone, and what its interval tells right, wrong and not at all; then right choices by the other energies. Rows of fewer
than {fewest} crystals are left out."""

MIXTURES = """## Mixtures for coordinates

In place of one Laplace distribution for each atom, three for each crystal as a whole in the last block, with weights
that are learnt: what is handed out is the likeliest of them. Fine-tuning from the weights before the last three stages,
{seconds:.0f} s of one H200 each and the same batches; nine kinds, {crystals:,} validation crystals, two recycles. The
likelihood is that of the displacements, an atom; "best" knows which of the three is nearest. The script of these runs
is not in the tree."""


def sections(results: Path) -> list[str]:
    """Parts of the page of accuracy."""
    energies, mixtures, tuned = read(results, "relaxed_energy", "mixtures", "energy_training")
    rows, choices = energies["rows"], CHOICES.format(near=1000 * energies["near"], fewest=FEWEST)
    return [
        *(_head(mixtures["energy head"]), _tuned(tuned), _told(energies)),
        *(_errors(rows), choices, _choices(rows)),
        *(MIXTURES.format(**mixtures), _mixtures(mixtures["rows"])),
    ]


def of_card(energies: dict[str, Any]) -> str:
    """What a card tells of the energies of its model."""
    told = [
        f"{name} {1000 * energies['rows'][name]['median']:.0f}" for name in KINDS.values() if name in energies["rows"]
    ]
    return (
        f"Energies of relaxed crystals, `Prediction.energy`, where nothing is held: {in_short(energies)}. "
        f"Medians of the kinds, in meV/atom: {', '.join(told)}."
    )


def _head(found: dict[str, Any]) -> str:
    whole, eighth = found["less, test median"], found["an eighth of the pairs, test median"]
    told = {"whole": 1000 * whole, "eighth": 1000 * eighth}
    return ERRORS.format(seconds=found["seconds"], less=found["less seconds"], pairs=found["pairs"], **told)


def _told(energies: dict[str, Any]) -> str:
    here, left = energies["rows"]["all"]["crystals"], energies["not told"]
    return TOLD.format(told=here, all=here + left["all"], slabs=left["slabs, cell kept"])


def _tuned(found: dict[str, Any]) -> str:
    crystals, seen = found["crystals"], found["seconds"] * found["crystals_per_second"] / 1e6
    told = {"kinds": crystals["nine kinds"], "first": crystals["first files"], "dft": crystals["DFT"]}
    told |= {name: found[name] for name in ("hardware", "seconds", "steps", "share")} | {"seen": seen}
    told |= {"minima": found["minima"]["crystals"], "minima_seconds": found["minima"]["seconds"]}
    for name, tested in found["test"].items():
        told |= {f"test_{name}": (tested["before"], tested["after"]), f"by_{name}": tested["paired difference"]}
    told["energy"], told["after"] = (1000 * found[f"energy median {when}"] for when in ("before", "after"))
    return TUNED.format(m3gnet=crystals["M3GNet"], table=on_the_way(found["rows"]), **told)


def on_the_way(rows: dict[str, Any]) -> str:
    """Table of weights between those that a stage began with and ended with, by the share of the way."""
    heads = ("coordinates, nine kinds (Å)", "further off", "M3GNet's minima (Å)", "further off", "DFT-labelled (Å)")
    ends = {"0": "the weights before", "1": "tuned"}
    cells = [
        [
            ends.get(share, f"{share} of the way"),
            *(f"{row['nine kinds']:.4f}", f"{row['further off']:.1%}"),
            *(f"{row['M3GNet']:.4f}", f"{row['M3GNet, further off']:.1%}", f"{row['DFT']:.4f}"),
            *(f"{1000 * row[name]:.1f}" for name in ("energy, nine kinds", "energy, first files")),
        ]
        for share, row in rows.items()
    ]
    return table(["", *heads, "energy, median (meV/atom)", "energy, first two files"], cells)


def in_short(energies: dict[str, Any]) -> str:
    """Two sentences on all crystals that have an energy."""
    row = energies["rows"]["all"]
    everything = row["crystals"] + energies["not told"]["all"]
    decided = [row[key]["all"]["interval"] for key in ("composition", "formation")]
    right, wrong = ([f"{100 * told[key]:.1f} %" for told in decided] for key in ("right", "wrong"))
    return (
        f"of {row['crystals']:,} test crystals, all but those of the {everything:,} that are refused or whose cell is "
        f"kept though they are no slabs, half are within {1000 * row['median']:.0f} meV/atom of Nequix-OAM-1's "
        f"energy of the minimum (M3GNet's call at the prediction: {1000 * row['medians']['M3GNet']:.0f}), and "
        f"{100 * row['within the bound']:.1f} % within their bounds, half of which are below "
        f"{1000 * row['median bound']:.0f}. Of the crystals with others of their composition the interval tells for "
        f"{right[0]} rightly whether they are the best, and for {wrong[0]} wrongly; of the rest, against a "
        f"median energy, for {right[1]} and {wrong[1]}"
    )


def _errors(rows: dict[str, Any]) -> str:
    cells = []
    for name, row in rows.items():
        own = [f"{1000 * row[key]:.0f}" for key in ("median", "mean", "p90")]
        told = [f"{row['within the bound']:.0%}", f"{1000 * row['median bound']:.0f}", f"{row['rank']:.2f}"]
        cells.append([name, f"{row['crystals']:,}", *own, *told, *(f"{1000 * row['medians'][o]:.0f}" for o in OTHERS)])
    heads = ("crystals", "median", "mean", "90 %", "within the bound", "median bound", "rank correlation")
    return table(["", *heads, *OTHERS.values()], cells)


def _choices(rows: dict[str, Any]) -> str:
    cells = []
    for name, row in rows.items():
        if name not in (*KINDS.values(), *WHOLE):
            continue
        for key, limit in (("composition", "best other"), ("formation", "median")):
            for part, which in (("all", ""), ("near", ", near")):
                if (found := row[key][part])["crystals"] < FEWEST:
                    continue
                right, told = found["right"], found["interval"]
                rest = 1 - told["right"] - told["wrong"]
                shares = (right["head"], told["right"], told["wrong"], rest, *(right[other] for other in OTHERS))
                count = f"{found['crystals']:,}"
                cells.append([name, f"{limit}{which}", count, *(f"{share:.0%}" for share in shares)])
    heads = ("limit", "crystals", "right", "by the interval: right", "wrong", "cannot tell")
    return table(["", *heads, *OTHERS.values()], cells, "llr")


def _mixtures(rows: dict[str, Any]) -> str:
    cells = []
    for name, row in rows.items():
        ways = [f"{row[key]:.4f}" for key in ("coordinates", "mean", "best")]
        ranks = [f"{row[key]:.2f}" for key in ("rank", "rank_volume")]
        cells.append([name, *ways, f"{row['nll']:.2f}", f"{row['volume']:.2f}", *ranks])
    heads = ("coordinates (Å)", "mean of the three (Å)", "best (Å)", "negative log-likelihood", "volume (Å³)")
    return table(["", *heads, "rank correlation, coordinates", "volumes"], cells)
