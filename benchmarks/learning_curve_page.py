"""The page of ``learning_curve.py``: error against labels, and how many labels a choice saves; labels on a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from shared import read, table

#: Results and what they are of, in the order of the page.
CURVES = {
    "learning-xmno": "X-Mn-O, by a network that has seen no crystal with Mn and O",
    "learning-layers": "Layers, by a network that has seen crystals that fill space alone",
}

#: What chooses, in words.
CHOICES = {
    "random": "chance",
    "both": "expected error and novelty (`both`, the default)",
    "cover": "least expected error far from any label (`cover`)",
}

#: Ending of the names of results where the last block alone is tuned, and the start kept if nothing is better.
_LAST_BLOCK = "-last-block"

_HEAD = """# Labels that a network needs, chosen against drawn at random

```sh
python benchmarks/learning_curve.py pairs_xmno.npz --weights noxmno.safetensors --json results/learning-xmno.json
python benchmarks/learning_curve.py pairs_generated_?.npz --kind 7 --weights bulk.safetensors \\
    --json results/learning-layers.json
```

Stored minima stand for a potential's. A network that has not seen the crystals in question learns some of 2,500 of them
in rounds as `deeprelax learn` does, {most}, as far as there was time; 60 others validate, 400 test.
Both networks have the shape of a member of `DeepRelax-PBE` and were trained from fresh weights on one H200 at PBE's
level: `noxmno` for 60 s on 771,893 pairs of all kinds, none of which holds Mn and O; `bulk` for 90 s on 604,984 pairs
that are no layers, slabs or defects. They do not ship, and the script that trained them is not kept.
Error is that of coordinates and of lattice vectors together (Å), the mean and the standard error of {seeds} seeds. The
network that all start from, calibrated on the validation crystals, chooses the first labels.

Labels, against chance: those that a choice needs for the errors that chance has with the largest number of labels, a
half and a quarter of it, over these, by straight lines through the errors of all seeds against the logarithm of the
labels; the standard error is that of leaving out a seed. It cannot be told where a line falls by less than twice the
standard error of its slope. Aim: 0.6.

Fine-tuning limits what a choice can show: where all weights are tuned, 32 labels make predictions worse than those of
the network that began, and {seeds} seeds differ by more than the choices do. Fine-tuning has since come to keep the
weights that it began with where nothing learnt is better on the validation crystals; the curves are of before, and
what they begin with since stands below each."""


def write_page(results: Path, page: Path) -> None:
    """Write the page from ``learning-*.json`` and ``labelling.json`` in the folder ``results``."""
    found = {name: read(results, name) for name in CURVES if (results / f"{name}.json").exists()}
    seeds = max(row["seed"] for part in found.values() for row in part["rows"]) + 1
    most = [f"{max(row['labels'] for row in part['rows'])} ({CURVES[n].split(',')[0]})" for n, part in found.items()]
    parts = [_HEAD.format(seeds=seeds, most="up to " + " and ".join(most))]
    for name, part in found.items():
        parts += [f"## {CURVES[name]}", _start(part), _table(part["rows"]), _learnt(part), _chosen(part["rows"])]
        if (results / f"{name}{_LAST_BLOCK}.json").exists():
            parts.append(_last_block(read(results, f"{name}{_LAST_BLOCK}")))
    if (results / "labelling.json").exists():
        parts += ["## Labels on a GPU", _labelling(read(results, "labelling"))]
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _start(part: dict[str, Any]) -> str:
    start = part["start"]
    error = [start[f"{of}coordinates"] + start[f"{of}lattice"] for of in ("unrelaxed ", "")]
    changes = ", ".join(f"`{change}`" for change in part.get("changes", []))
    tuned = f" Fine-tuned with {changes}." if changes else ""
    return f"Unrelaxed {error[0]:.3f} Å, the network before it learns {error[1]:.4f} Å.{tuned}"


def _table(rows: list[dict[str, Any]]) -> str:
    numbers = sorted({row["labels"] for row in rows})
    cells = []
    for choice, words in CHOICES.items():
        own = [[row["error"] for row in rows if (row["choice"], row["labels"]) == (choice, n)] for n in numbers]
        told = [f"{np.mean(e):.4f} ± {np.std(e, ddof=1) / len(e) ** 0.5:.4f}" if len(e) > 1 else "" for e in own]
        saved = "1" if choice == "random" else _ratio(rows, choice)
        if any(told):
            cells.append([words, *told, saved])
    return table(["chosen by", *map(str, numbers), "labels, against chance"], cells)


def _learnt(part: dict[str, Any]) -> str:
    """How little the labels teach: what the most of them leave of the error, and which leave more than there was."""
    start, means = part["start"]["coordinates"] + part["start"]["lattice"], {}
    for choice in CHOICES:
        for number in sorted({row["labels"] for row in part["rows"]}):
            own = [row["error"] for row in part["rows"] if (row["choice"], row["labels"]) == (choice, number)]
            if own:
                means[choice, number] = float(np.mean(own))
    most = max(number for _, number in means)
    last = [mean for (_, number), mean in means.items() if number == most]
    worse = ", ".join(f"{mean:.4f} Å by `{name}` at {n}" for (name, n), mean in means.items() if mean > start)
    return (
        f"Labels teach little here: from {start:.4f} Å before them to {min(last):.4f} to {max(last):.4f} Å after "
        f"{most}, {1 - max(last) / start:.0%} to {1 - min(last) / start:.0%} less. "
        f"Fewer can leave more than there was: {worse}."
    )


def _chosen(rows: list[dict[str, Any]]) -> str:
    """What is chosen first: how far from its minimum, and how wrong the model expects to be about it."""
    least = min(row["labels"] for row in rows)
    first = [row for row in rows if row["labels"] == least]
    starts = {name: np.mean([row["start of chosen"] for row in first if row["choice"] == name]) for name in CHOICES}
    both = next(row for row in first if row["choice"] == "both")
    told = ", ".join(f"{start:.2f} Å by `{name}`" for name, start in starts.items())
    return (
        f"The first {least} crystals are from their minima, in the mean: {told}. Those of `both` are expected to be "
        f"predicted {both['expected']:.2f} Å off, all of the pool {both['expected of all']:.2f} Å: extremes of it."
    )


def _last_block(part: dict[str, Any]) -> str:
    """What the first labels teach where little may change."""
    rows, start = part["rows"], part["start"]
    most = max(row["labels"] for row in rows)
    changes = ", ".join(f"`{change}`" for change in part["changes"])
    told = []
    for choice in CHOICES:
        own = [row["error"] for row in rows if (row["choice"], row["labels"]) == (choice, most)]
        told.append(f"{np.mean(own):.4f} ± {np.std(own, ddof=1) / len(own) ** 0.5:.4f} Å by `{choice}`")
    return (
        f"Again, with the start kept where nothing learnt is better and the last block alone tuned ({changes}): nine "
        f"processes on one GPU came to {most} labels, too few to tell how many a choice saves. They leave "
        f"{', '.join(told)}, of {start['coordinates'] + start['lattice']:.4f} Å."
    )


def _ratio(rows: list[dict[str, Any]], choice: str) -> str:
    """Labels that a choice needs over those that chance needs, and the standard error of that."""
    seeds = sorted({row["seed"] for row in rows})
    ratio = np.exp(_saved(rows, choice))
    logarithms = [_saved([row for row in rows if row["seed"] != seed], choice) for seed in seeds]
    if not np.isfinite([*logarithms, ratio]).all():
        return "cannot be told"
    return f"{ratio:.2f} ± {ratio * ((len(seeds) - 1) * np.var(logarithms)) ** 0.5:.2f}"


def _saved(rows: list[dict[str, Any]], choice: str) -> float:
    """Logarithm of that ratio; NaN where one of the lines falls by less than twice its slope's standard error."""
    lines = {}
    for name in ("random", choice):
        own = [(np.log(row["labels"]), row["error"]) for row in rows if row["choice"] == name]
        lines[name], covariance = np.polyfit(*np.array(own).T, 1, cov=True)
        if lines[name][0] > -2 * covariance[0, 0] ** 0.5:
            return float("nan")
    most = max(row["labels"] for row in rows)
    labels = np.log([most / 4, most / 2, most])
    needed = (np.polyval(lines["random"], labels) - lines[choice][1]) / lines[choice][0]
    return float((needed - labels).mean())


def _ended(found: dict[str, Any]) -> str:
    """Tell of the calls that the script ended (SIGTERM), by what was done then."""
    blocks = -(-found["candidates"] // found["block_size"])
    done = [call["blocks_after"] for call in found["calls"] if call["ended_by"] == -15]
    why = ["where all crystals were done" if n == blocks else "at its limit of time" for n in done]
    return f"It ended {len(done)} more calls itself (SIGTERM): {', '.join(why)}. " if done else ""


def _labelling(found: dict[str, Any]) -> str:
    dropped = "; ".join(f"{count:,} {name}" for name, count in found["statuses"].items() if name != "labelled")
    first, rest = found["seconds"]
    killed = sum(call["ended_by"] == -9 for call in found["calls"])
    return (
        "By commands such as those of [docs/labels.md](../docs/labels.md#a-level-of-your-own-at-scale) "
        f"`deeprelax candidates` made {found['candidates']:,} crystals of 2 to 8 atoms, `deeprelax label` relaxed them "
        f"under M3GNet, in plain torch, on one H200, by {found['workers']} processes. It was killed {killed} times "
        "(SIGKILL) and given again, by a script that is not kept: it counted rows and identifiers afterwards. "
        f"{_ended(found)}"
        f"In {first:.0f} s, starts included, {found['rows_before']:,} were done. {found['note']} Given again later "
        f"it did the others in {rest:.0f} s. {found['rows']:,} of the {found['candidates']:,} are done, "
        f"{found['different_ids']:,} of them different, {found['twice']} twice: {found['statuses']['labelled']:,} "
        f"labelled; {dropped}; {found['force_calls'] / found['rows']:.0f} force calls each. "
        f"`deeprelax data check` tells of the {found['data_check']['pairs']:,} pairs: {found['data_check']['told']}."
    )
