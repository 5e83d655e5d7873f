"""Where a model fails, for its card: what was measured, and the limits that its JSON card names."""

from __future__ import annotations

from typing import Any

from deeprelax_ase.models.card import ModelCard

#: Sources of the pairs, as the tables call them.
FILES = {"pairs_universal": "universal", "pairs_xmno": "X-Mn-O"}

#: So many kinds of crystals and elements are named.
WORST_KINDS = 4
WORST_ELEMENTS = 8

#: What the shares out of distribution count.
OOD = "out of distribution by their error features"


def percent(share: float, digits: int = 1) -> str:
    """The share in per cent."""
    return f"{100 * share:.{digits}f} %"


def kind_name(name: str) -> str:
    """A kind of crystals as it is printed."""
    return name.replace("%", " %")


def failures(
    card: ModelCard, measured: dict[str, Any], accuracy: dict[str, Any], large: dict[str, Any] | None = None
) -> str:
    """Where the model fails, a point each; see :func:`model_card_page.markdown`."""
    found = measured["groups"]
    everything = found["all"]["all"]
    coordinates, volume = everything["coordinates"], everything["relative_volume"]
    points = [
        f"{percent(coordinates['further_off'])} of the test crystals are predicted further from the relaxed crystal in "
        f"their coordinates than they started, {percent(volume['further_off'])} in their volume (by over "
        f"{measured['margin']:g} Å, and {percent(measured['margin'])})",
        _worst_groups(found),
        worse_than_nothing(found),
        _distribution(found),
        _worst_elements(measured["elements"]),
        _stay(accuracy),
        _layers(measured),
        _beyond(card, large),
        *card.limits,
    ]
    return "Measured ones first:\n\n" + "\n".join(f"- {point}" for point in points if point)


def above_hundred(found: dict[str, Any]) -> str:
    """How far supercells end from their minimum, of what ``large.py`` found."""
    row, (fewest, most) = found["rows"]["all"], found["atoms"]
    end, start = (row[side]["coordinates mean"] for side in ("end", "start"))
    return (
        f"coordinates of {row['crystals']} supercells of {fewest} to {most} atoms end {end:.3f} Å off with "
        f"`{found['model']}`, unrelaxed {start:.3f} Å, and {percent(row['further off'], 0)} of them end further off "
        "than they began" + (f" (measured with {of})" if (of := found.get("of")) else "")
    )


def _beyond(card: ModelCard, large: dict[str, Any] | None) -> str:
    """Crystals above those that it was trained on."""
    if large is None:
        return ""
    if large["model"] != card.name:
        return "how its errors grow in cells of more than 100 atoms has not been measured"
    return above_hundred(large)


def _told(found: dict[str, Any]) -> dict[str, Any]:
    """The rows by kind of crystal that have errors, by name."""
    return {
        kind_name(name) if kind in ("test set", "chemistry, universal") else f"{kind} {kind_name(name)}": row
        for kind, rows in found.items()
        if kind not in ("all", "distribution")
        for name, row in rows.items()
        if "coordinates" in row
    }


def _worst_groups(found: dict[str, Any]) -> str:
    off = {name: row["coordinates"]["further_off"] for name, row in _told(found).items()}
    worst = sorted(off, key=lambda name: -off[name])[:WORST_KINDS]
    return "that happens most often to these: " + "; ".join(f"{name} ({percent(off[name])})" for name in worst)


def worse_than_nothing(found: dict[str, Any]) -> str:
    """The kinds of crystals that are further off on average than they started."""
    worse = []
    for name, row in _told(found).items():
        coordinates, volume = row["coordinates"], row["relative_volume"]
        if coordinates["predicted"] > coordinates["unrelaxed"]:
            errors = f"{coordinates['predicted']:.4f} Å, unrelaxed {coordinates['unrelaxed']:.4f} Å"
            worse.append(f"{name}, in coordinates ({errors})")
        if volume["predicted"] > volume["unrelaxed"]:
            errors = f"{percent(volume['predicted'])}, unrelaxed {percent(volume['unrelaxed'])}"
            worse.append(f"{name}, in volume ({errors})")
    return "on average these are further off than they started: " + "; ".join(worse) if worse else ""


def _distribution(found: dict[str, Any]) -> str:
    if "distribution" not in found or "coordinates" not in (ood := found["distribution"]["ood"]):
        return ""
    inside = found["distribution"]["inside"]
    (off, mean), (off_inside, mean_inside) = (
        (percent(row["coordinates"]["further_off"]), row["coordinates"]["predicted"]) for row in (ood, inside)
    )
    return (
        f"{percent(found['all']['all']['ood'])} of the test crystals are {OOD}: {off} of them are "
        f"further off than they started, and err by {mean:.3f} Å; of the others {off_inside}, by {mean_inside:.3f} Å"
    )


def _worst_elements(seen: dict[str, Any]) -> str:
    left = {
        name: e["coordinates"]["predicted"] / e["coordinates"]["unrelaxed"]
        for name, e in seen.items()
        if "coordinates" in e and e["coordinates"]["unrelaxed"]
    }
    worst = sorted(left, key=lambda name: -left[name])[:WORST_ELEMENTS]
    return "elements whose crystals keep most of their error in the coordinates: " + ", ".join(
        f"{name} ({percent(left[name], 0)})" for name in worst
    )


def _stay(accuracy: dict[str, Any]) -> str:
    moves = [(name, part["already_relaxed_moves"]["predicted"]) for name, part in accuracy["results"].items()]
    titled = [(f"{FILES[name.split(',')[0]]},{name.split(',')[1]}", move) for name, move in moves]
    listed = "; ".join(f"{name} {move:.4f} Å" for name, move in titled)
    return f"a crystal that is relaxed already is moved all the same, by (mean component) {listed}"


def _layers(measured: dict[str, Any]) -> str:
    if (row := measured.get("layers")) is None:
        return ""
    coordinates, volume = row["coordinates"], row["relative_volume"]
    other = "" if measured["labels"] == "m3gnet" else ", whose labels are M3GNet's minima, not this model's,"
    told = f"; {percent(row['ood'])} are {OOD}" if "ood" in row else ""
    return (
        f"layers: {row['crystals']} monolayers (`examples/monolayers.npz`){other} are {coordinates['predicted']:.3f} Å "
        f"off and {percent(volume['predicted'])} in volume, unrelaxed {coordinates['unrelaxed']:.3f} Å and "
        f"{percent(volume['unrelaxed'])}; {percent(coordinates['further_off'])} are further off than they started{told}"
    )
