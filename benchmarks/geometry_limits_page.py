"""The page of what geometry_limits.py measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shared import read, table

#: Kinds of pairs by the number in their files, what crystals are taken for, and why they are doubtful.
LAYERS, SLABS = 7, 8
KINDS = {LAYERS: "layers", SLABS: "slabs"}
WORDS = ("crystal", "layer or slab", "wire", "molecule")
OTHERS, RELAXED = "all others", "all others, relaxed"
DOUBTS = {"molecular": "molecules", "stringy": "chains", "parted": "layers far apart", "crowded": "atoms too near"}


def write_page(results: Path, page: Path) -> None:
    """Write the page of ``geometry_limits.json`` in ``results``."""
    found = read(results, "geometry_limits")
    slabs = _slabs(found["slabs"], found["squeezed"])
    parts = [_HEAD, _kinds(found), _doubts(found), slabs, _nearest(found)]
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


_HEAD = """# Limits of geometry

```sh
python benchmarks/geometry_limits.py pairs_*.npz --json benchmarks/results/geometry_limits.json
```"""


def _kinds(found: dict[str, Any]) -> str:
    reach, kinds = found["Å"], found["kinds"].items()
    rows = [[name, f"{row['crystals']:,}", *(f"{row[word]:.2%}" for word in WORDS)] for name, row in kinds]
    return f"""\
What unrelaxed crystals are taken for. Atoms are near each other up to so many Å between their covalent spheres:
{reach["NEAR"]:g} across layers, of a metal and another element {reach["NEAR_MIXED"]:g}, of two metals
{reach["NEAR_METALS"]:g}; {reach["OPEN"]:g}, {reach["OPEN_MIXED"]:g} and {reach["OPEN_METALS"]:g} around molecules and
wires. A layer holds together where they are up to {reach["HELD"]:g} Å apart, metals as in wires. Molecules whose van
der Waals spheres fill less than {found["LOOSE"]:g} of the cell are in a box. Vacuum in "all others" is that of
two-dimensional prototypes among them, and of open crystals with nothing for 6 Å.

{table(["kind", "crystals", *WORDS], rows)}"""


def _doubts(found: dict[str, Any]) -> str:
    reach, others, relaxed = found["Å"], found["kinds"][OTHERS], found["kinds"][RELAXED]
    layers = found["kinds"][KINDS[LAYERS]]
    keys = {word: key for key, word in DOUBTS.items()}
    rows = []
    for word, row in found["doubtful"].items():
        shares = [f"{group[keys[word]]:.2%}" if word in keys else "" for group in (others, relaxed)]
        off = [f"{row[name]:.1%}" if row["crystals"] else "" for name in ("start", "predicted", "expected")]
        rows.append([word, *shares, f"{row['crystals']}", *off])
    return f"""\
Crystals that are predicted and doubtful: of molecules (nothing repeats that is within {reach["TOUCHING"]:g} Å, of a
metal and another element {reach["TOUCHING_MIXED"]:g}, of two metals {reach["PACKED"]:g}, ions of salts apart), of
chains (it repeats in one direction only), of thick layers that are {reach["OPEN"]:g} Å apart and more, of a metal and
another element {reach["TOUCHING_MIXED"]:g}, of two metals {reach["OPEN_METALS"]:g}, or in whose cell one gap between
planes is wider than {found["gap"]["GAP"]:g} Å and {found["gap"]["WIDER"]:g} times all others, with more than
{found["gap"]["THICK"]:g} Å between two of it; with atoms too near:
{others["any doubt"]:.2%} of all others, {relaxed["any doubt"]:.2%} of them relaxed, {layers["any doubt"]:.1%} of
layers, where molecules and chains within the layer count. How far the volume is off in test crystals of bulk kinds that
{" ".join([f"are so, on average, under {found['model']}.", *found.get("notes", [])])}

{table(["doubt", "share of all others", "relaxed", "test crystals", "start", "predicted", "expected"], rows)}"""


def _slabs(slab: dict[str, float], squeezed: dict[str, dict[str, float]]) -> str:
    rows = [
        [width, *(f"{row[key]:.1%}" for key in ("vacuum", "doubted", "crystal"))] for width, row in squeezed.items()
    ]
    thick, thin = slab["layers taken for slabs"], slab["slabs taken for layers"]
    return f"""\
A layer is a slab from {slab["SLAB (Å)"]:g} Å on, from its lowest to its highest atom. As many layers are thicker as
slabs are thinner at {slab["equal errors at (Å)"]:.2f} Å. Taken for slabs: {thick:.1%} of layers; for layers: {thin:.1%}
of slabs.

Slabs of training whose vacuum is made that narrow, from atom to atom:

{table(["vacuum (Å)", "have vacuum", "doubted", "taken for crystals"], rows)}"""


def _nearest(found: dict[str, Any]) -> str:
    near = found["nearest"]
    crowd, refused = near["unrelaxed crystals that are crowded"], near["relaxed crystals that would be refused"]
    shares = sorted(near["least"].items(), key=lambda item: item[1])
    (lowest, low), (highest, high) = shares[0], shares[-1]
    return f"""\
How near atoms come in relaxed training crystals, as a share of the sum of covalent radii: from {low:.3f} ({lowest}) to
{high:.3f} ({highest}), by element. Predictions below {found["TOLERATED"]:g} of that are refused. Of relaxed crystals
that would refuse {refused["training"]} of {refused["of"]:,} of training and {refused["validation and test"]} of
{refused["of them"]:,} others. In unrelaxed training crystals they come as near as
{near["nearest in unrelaxed training crystals, share of that"]:.3f} of that; below {found["CROWDED"]:g} a start is
doubtful: {crowd["training"]} of training, {crowd["validation and test"]} of the others."""
