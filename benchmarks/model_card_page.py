"""The card of a model as a page of Markdown: of its JSON card and of what was measured with its weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from kinds_page import told_here
from model_card_failures import FILES, OOD, failures, kind_name, percent
from relaxed_energy_page import of_card
from shared import RESULTS, read, table

from deeprelax_ase.models.card import ModelCard
from deeprelax_ase.models.registry import WEIGHTS, available_models
from deeprelax_ase.uncertainty.calibration import COVERAGE

#: Elements in fewer training crystals are named.
FEW_CRYSTALS = 50
#: Metrics of the JSON card's test sets and of their unrelaxed crystals, with their titles.
METRICS = {
    "coordinates (Å)": ("coordinates MAE (Å)", "coordinates MAE unrelaxed (Å)"),
    "lattice (Å)": ("lattice MAE (Å)", "lattice MAE unrelaxed (Å)"),
    "volume (Å³)": ("volume MAE (Å³)", "volume MAE unrelaxed (Å³)"),
    "match rate": ("match rate", "match rate unrelaxed"),
}

NUMBERS = ("no", "one", "two", "three", "four", "five")


#: Test sets of the JSON cards, by what results call them.
SETS = {
    "pairs_universal, DFT-labelled": "universal test, DFT-labelled",
    "pairs_universal, all": "universal test, all labels",
    "pairs_xmno, DFT-labelled": "X-Mn-O test, DFT-labelled",
    "pairs_xmno, all": "X-Mn-O test, all labels",
}


def fill_metrics(folder: Path = WEIGHTS) -> None:
    """Write what was measured into the JSON card of each model whose errors are calibrated."""
    for card in available_models():
        short = card.name.removeprefix("DeepRelax-")
        if card.calibration:
            accuracy, coverage = read(RESULTS, f"accuracy-{short}", f"coverage-{short}")
            metrics = metrics_of(accuracy["results"], coverage["test"]["all"])
            replace(card, metrics=metrics).write(folder / f"{card.name}.json")


def metrics_of(accuracy: dict[str, Any], coverage: dict[str, Any]) -> dict[str, Any]:
    """The metrics of a JSON card, of what ``accuracy.py`` and ``deeprelax calibrate`` found."""
    metrics = {title: _metrics_of_set(accuracy[name]) for name, title in SETS.items()}
    told = {
        "coordinates within their 90 % bound": "coordinates coverage",
        "volumes within their 90 % bound": "volume coverage",
        "rank correlation of expected and true coordinate error": "coordinates rank correlation",
        "rank correlation of expected and true volume error": "volume rank correlation",
    }
    return metrics | {"calibration, test": {title: round(coverage[name], 3) for title, name in told.items()}}


def _metrics_of_set(found: dict[str, Any]) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    for name, unit, digits in (("coordinates", "Å", 4), ("lattice", "Å", 4), ("volume", "Å³", 2)):
        metrics[f"{name} MAE ({unit})"] = round(found[name]["predicted"], digits)
        metrics[f"{name} MAE unrelaxed ({unit})"] = round(found[name]["unrelaxed"], digits)
    metrics["relative volume error, median"] = round(found["relative_volume"]["predicted_median"], 4)
    metrics["match rate"] = round(found["match"]["predicted"], 3)
    metrics["match rate unrelaxed"] = round(found["match"]["unrelaxed"], 3)
    return metrics | {"crystals": found["crystals"]["predicted"]}


def write_cards(folder: Path = WEIGHTS) -> None:
    """Write the card of each shipped model into ``folder``."""
    for card in available_models():
        write_card(card.name, folder)


def write_card(name: str, folder: Path) -> None:
    """Write the card of the model ``name`` into ``folder``."""
    short = name.removeprefix("DeepRelax-")
    measured, accuracy, latency, large = read(RESULTS, f"card-{short}", f"accuracy-{short}", "latency", "large")
    kinds = read(RESULTS, f"kinds-{short}") if (RESULTS / f"kinds-{short}.json").exists() else None
    card = ModelCard.read(WEIGHTS / f"{name}.json")
    energies = read(RESULTS, "relaxed_energy") if card.energy else None
    page = markdown(card, measured, accuracy, latency, kinds=kinds, large=large, energies=energies)
    (folder / f"{name}.md").write_text(page, encoding="utf-8")


def markdown(
    card: ModelCard,
    measured: dict[str, Any],
    accuracy: dict[str, Any],
    latency: dict[str, Any],
    *,
    kinds: dict[str, Any] | None = None,
    large: dict[str, Any] | None = None,
    energies: dict[str, Any] | None = None,
) -> str:
    """The whole card.

    Args:
        card: the model's JSON card.
        measured: what ``model_cards.py`` found with it.
        accuracy: what ``accuracy.py`` found with it.
        latency: what ``latency.py`` found.
        kinds: what ``kinds.py`` found with it, where it was asked.
        large: what ``large.py`` found, with it or with another model.
        energies: what ``relaxed_energy.py`` found, where it predicts energies.

    Raises:
        ValueError: the figures were measured with other weights.
    """
    if measured["sha256"] != card.sha256 or measured["recycles"] != card.recycles:
        raise ValueError(f"{card.name}: measured with other weights or recycles; run benchmarks/model_cards.py again")
    parts = [
        f"# {card.name}",
        card.description,
        _purpose(card),
        "## Data",
        _data(card, measured),
        "## Elements",
        _elements(measured),
        "## Errors and coverage",
        _overall(card),
        _groups(card, measured),
        *([] if kinds is None else [_kinds(kinds)]),
        *([] if energies is None else [of_card(energies)]),
        "## Known failures",
        failures(card, measured, accuracy, large),
        "## Licence",
        _licence(card),
        "## How to reproduce it",
        _reproduce(card, measured),
        "## Time and carbon",
        _cost(card, latency),
    ]
    return "\n\n".join(parts) + "\n"


def counted(number: int, noun: str) -> str:
    """Such as ``two members``."""
    return f"{NUMBERS[number]} {noun}{'s' if number > 1 else ''}"


def _purpose(card: ModelCard) -> str:
    theory = card.level_of_theory
    learnt = card.config.get("reads_cell_freedom", False)  # then layers, slabs and kept cells were among the pairs
    kinds = "crystals, layers and slabs" if learnt else "crystals that fill space"
    use = (
        f"**For** inorganic {kinds}, of the elements below, that start as a guess, such as a "
        f"prototype with other elements in it: to jump to near their minimum under {theory} and let a calculator "
        "finish, or to sort many candidates."
    )
    without = (
        f"**Not for** what must be converged, or for energies: finish with the calculator that you trust. Not for "
        f"{'' if learnt else 'slabs, layers, '}molecules, charged cells or given magnetic order, nor for minima of "
        f"another theory than {theory}."
    )
    if card.energy:
        without = without.replace("or for energies", "or for energies nearer than the bound that is told with them")
    if card.reads_forces:
        without += " It knows M3GNet's minima, not DFT's. It jumps again once it is told of M3GNet's forces."
    if card.architecture == "DeepRelax":
        without += " `DeepRelax-PBE` errs less; this one is the paper's network, kept to compare with."
    network = (
        f"`{card.architecture}`, {counted(card.members, 'member')} of {card.parameters / 1e6:.1f} million parameters, "
        f"{counted(card.recycles, 'recycle')}."
    )
    return "\n\n".join([use, without, f"**Level of theory** that it relaxes to: {theory}.", f"**Network**: {network}"])


def _data(card: ModelCard, measured: dict[str, Any]) -> str:
    rows = [
        [FILES.get(name, name), *(f"{part['pairs']:,} ({part['dft']:,})" for part in splits.values())]
        for name, splits in measured["data"].items()
    ]
    labels = " whose minimum under M3GNet is known" if measured["labels"] == "m3gnet" else ""
    return "\n\n".join(
        [
            f"{card.training_data}.",
            f"Split, {card.split}.",
            f"Pairs{labels}, in brackets those that DFT relaxed:",
            table(["pairs", "training", "validation", "test"], rows),
        ]
    )


def _elements(measured: dict[str, Any]) -> str:
    seen = measured["elements"]
    listed = ", ".join(f"{name} {e['trained']:,} ({e['trained_dft']:,})" for name, e in seen.items())
    pairs = sum(splits["train"]["pairs"] for splits in measured["data"].values())
    few = [f"{name} {e['trained']}" for name, e in seen.items() if e["trained"] < FEW_CRYSTALS]
    few_dft = [f"{name} {e['trained_dft']}" for name, e in seen.items() if e["trained_dft"] < FEW_CRYSTALS]
    fewest = sorted(seen, key=lambda name: seen[name]["trained"])[:5]
    rarest = ", ".join(f"{name} {seen[name]['trained']:,}" for name in fewest)
    return "\n\n".join(
        [
            f"{len(seen)} elements, with how many hold each of the {pairs:,} training crystals of the table above, in "
            f"brackets those that DFT relaxed: {listed}.",
            f"In fewer than {FEW_CRYSTALS} training crystals: {', '.join(few) or 'none'}; the rarest are {rarest}. In "
            f"fewer than {FEW_CRYSTALS} that DFT relaxed: {', '.join(few_dft) or 'none'}. Crystals with other elements "
            "are refused.",
        ]
    )


def _overall(card: ModelCard) -> str:
    sets = {name.rstrip(":"): row for name, row in card.metrics.items() if "lattice MAE (Å)" in row}
    rows = [["crystals", *(f"{row['crystals']:,}" for row in sets.values())]]
    for title, (predicted, unrelaxed) in METRICS.items():
        rows.append([title, *(f"{row[predicted]:g} / {row[unrelaxed]:g}" for row in sets.values())])
    names = [name.replace(" test", "") for name in sets]
    return "Means over the test crystals, predicted / unrelaxed:\n\n" + table(["", *names], rows)


def _groups(card: ModelCard, measured: dict[str, Any]) -> str:
    calibrated = bool(card.calibration)
    told = "All test crystals were predicted."
    if measured["every"] > 1:
        everything = measured["groups"]["all"]["all"]
        told = (
            f"{everything['predicted']:,} of the {everything['crystals']:,} test crystals were predicted: those with "
            f"DFT labels, those of rare chemistries, and one in {NUMBERS[measured['every']]} of the others, which "
            "stands for the rest of them, so that numbers are estimates. Standard errors of predicted coordinates: "
            f"{everything['coordinates']['standard_error']:.3f} Å of all, {_standard_errors(measured)} of the kinds."
        )
    bounds = " This model's errors are not calibrated, so it has no bounds."
    if calibrated:
        bounds = (
            f" Bounds, of the coordinates / of the volume, are meant to hold for {percent(COVERAGE, 0)}; `ood` are "
            f"{OOD}; what only novelty or geometry tells (docs/trust.md) is not counted."
        )
    parts = [
        "Means by kind of crystal, predicted / unrelaxed, of the coordinates' error (Å) and of the volume's. "
        f"`worse` are the crystals whose coordinates err by {measured['margin']:g} Å more than those of the "
        "unrelaxed crystal. " + told + bounds
    ]
    heading = ["crystals", "coordinates", "volume", "worse"]
    heading += ["within bounds", "ood"] if calibrated else []
    for kind, rows in measured["groups"].items():
        if kind == "distribution":
            continue
        title = "" if kind == "all" else kind
        parts.append(
            table([title, *heading], [[kind_name(name), *_cells(row, len(heading))] for name, row in rows.items()])
        )
    return "\n\n".join(parts)


def _kinds(found: dict[str, Any]) -> str:
    """The generated kinds of crystals, of which the tables before hold none."""
    rows = []
    for name, row in told_here(found["rows"]).items():
        end, start = row["end"], row["start"]
        moves = start["lengths mean"] > 0
        volume = f"{100 * end['relative_volume median']:.2f} / {percent(start['relative_volume median'], 2)}"
        matched = f"{100 * end['match']:.0f} / {percent(start['match'], 0)}" if "match" in end else "not measured"
        coordinates = f"{end['coordinates mean']:.3f} / {start['coordinates mean']:.3f}"
        cells = [coordinates, volume if moves else "kept", matched, percent(row["further off"])]
        rows.append([name, f"{row['crystals']:,}", *cells])
    heading = ["kind", "crystals", "coordinates", "volume, median", "match rate", "further off"]
    return (
        "Layers, slabs, defects and whatever else was made of published crystals, predicted / unrelaxed: means of the "
        "coordinates' error (Å), medians of the volume's, shares that pymatgen matches with the relaxed crystal, and "
        f"how many end further off than they began, by more than 0.0001 Å.\n\n{table(heading, rows)}"
    )


def _standard_errors(measured: dict[str, Any]) -> str:
    """The smallest and the largest of the kinds."""
    rows = [
        row for kind, rows in measured["groups"].items() if kind not in ("all", "distribution") for row in rows.values()
    ]
    found = [row["coordinates"]["standard_error"] for row in rows if "coordinates" in row]
    return f"{min(found):.3f} to {max(found):.3f} Å"


def _cells(row: dict[str, Any], size: int) -> list[str]:
    cells = [f"{row['crystals']:,}"]
    if "coordinates" not in row:
        return cells + ["too few"] * (size - 1)
    coordinates, volume = row["coordinates"], row["relative_volume"]
    cells.append(f"{coordinates['predicted']:.3f} / {coordinates['unrelaxed']:.3f}")
    cells.append(f"{100 * volume['predicted']:.1f} / {percent(volume['unrelaxed'])}")
    cells.append(percent(coordinates["further_off"]))
    if "ood" in row:
        within = f"{100 * coordinates['within_bound']:.0f} / {percent(volume['within_bound'], 0)}"
        cells += [within, percent(row["ood"])]
    return cells


def _licence(card: ModelCard) -> str:
    return (
        f"Weights: {card.licence}, as the package. Data: {card.training['data_licences']}. The Materials Project's and "
        "Alexandria's own data are under CC BY 4.0, which asks for credit; the licence of the Mg-Mn-O oxides is not "
        "known to us. The pairs are not part of the package."
    )


def _reproduce(card: ModelCard, measured: dict[str, Any]) -> str:
    training = card.training
    commands = training.get("commands") or [training["command"]]
    parts = [
        f"Commit `{card.commit}`, in whose words commands and settings are; "
        f"the weights `{card.weights or card.name + '.safetensors'}` have the SHA-256 "
        f"`{card.sha256}`.",
        "```text\n" + "\n".join(commands) + "\n```",
    ]
    if members := training.get("members"):
        lines = [f"- network {n}: seed {m['seed']}; " + "; ".join(m["stages"]) for n, m in enumerate(members, 1)]
        used = f"The first {card.members} of them are this model's.\n\n" if card.members < len(members) else ""
        parts.append(used + "\n".join(lines))
    elif steps := training.get("steps"):
        parts.append("Steps: " + "; ".join(f"{name} {value}" for name, value in steps.items()) + ".")
    short = card.name.removeprefix("DeepRelax-")
    parts += [
        training["note"],
        "The tables by kind:",
        "```text\npython benchmarks/model_cards.py pairs_universal.npz pairs_xmno.npz --model "
        f"{card.name} --every {measured['every']} --layers examples/monolayers.npz --write\n```",
        f"They are in `benchmarks/results/card-{short}.json`, the others in `accuracy-{short}.json`; those on "
        f"torch {measured['environment']['torch']}.",
    ]
    return "\n\n".join(parts)


def _cost(card: ModelCard, latency: dict[str, Any]) -> str:
    rows = latency["results"]
    milliseconds = rows.get(card.name, rows["DeepRelax-PBE"])["median_ms"]  # M3GNet's is the same network
    return (
        f"Training, on {card.training['hardware']}: {card.training['cost']}.\n\n"
        f"A prediction of a ten-atom crystal takes {milliseconds:.0f} ms of one CPU thread, where M3GNet's energy, "
        f"forces and stress take {rows['m3gnet energy+forces+stress']['median_ms']:.0f} ms."
    )
