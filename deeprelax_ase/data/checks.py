"""Summary of a set of relaxation pairs, and a search for pairs that look wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from deeprelax_ase.data.dataset import PairDataset, group_names
from deeprelax_ase.data.fingerprints import Surroundings, fingerprints, surroundings
from deeprelax_ase.data.matching import MATCH_KINDS
from deeprelax_ase.data.pairs import LEVELS, SPLITS, RelaxationPairs, displacement_sizes

#: Å, nearer than which atoms overlap, and further than which from any other one is alone.
OVERLAP, ALONE = 0.7, 5.0

#: Logarithm of the volume ratio, and Å of mean displacement, beyond which a relaxation is a large one.
LARGE_VOLUME, LARGE_MOVE = 0.6, 1.2

#: Radians beyond which a relaxed crystal was turned.
TURNED = 0.05

#: Å and relative volume, below which nothing relaxed at all.
STILL = 1e-4

#: Name of that, among what is suspicious.
AT_REST = "nothing relaxed"

#: Quantiles that distributions are told by.
QUANTILES = {"min": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "max": 1.0}

Mark = TypeVar("Mark", bound=Hashable)

#: Distances between atoms that are computed at once.
_DISTANCES = 1_000_000


@dataclass(frozen=True)
class DatasetReport:
    """Findings of :func:`check`.

    Attributes:
        counts: pairs and atoms, by split and level, refused ones, how pairs were matched.
        elements: pairs that hold each element, by symbol.
        distributions: quantiles of sizes, displacements (Å), volume changes and strains.
        duplicates: groups of names of pairs with the same unrelaxed and the same relaxed crystal.
        leakage: pairs outside training whose crystal, formula or chemical system occurs in training, by part.
        suspicious: names by what is suspicious about them.
        refused: reasons, with the names of the pairs they hold for.
    """

    counts: dict[str, Any]
    elements: dict[str, int]
    distributions: dict[str, dict[str, float]]
    duplicates: list[list[str]]
    leakage: dict[str, dict[str, int]]
    suspicious: dict[str, list[str]]
    refused: dict[str, list[str]] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """Whether there is nothing to look into: formulas and systems in two parts are for the user to judge."""
        same = any(row["same crystal"] for row in self.leakage.values())
        return not (self.duplicates or same or any(self.suspicious.values()) or self.refused)


def check(dataset: PairDataset, advance: Callable[[int], object] = lambda count: None) -> DatasetReport:
    """Look through a data set; a minute for 50,000 pairs.

    Args:
        dataset: G pairs.
        advance: called now and then with how many of the 2 G crystals more are looked at.
    """
    pairs = dataset.pairs.double()
    around, prints = {}, []
    for side in ("initial", "relaxed"):
        around[side] = surroundings(pairs, side, advance)
        prints.append(fingerprints(pairs, side, around[side]))
    return DatasetReport(
        counts=_counts(dataset),
        elements=_elements(pairs),
        distributions=_distributions(pairs),
        duplicates=[names for names in _named(zip(*prints, strict=True), dataset.names).values() if len(names) > 1],
        leakage=_leakage(dataset, *prints),
        suspicious=_suspicious(dataset, pairs, around),
        refused=_named((one.reason for one in dataset.refused), (one.name for one in dataset.refused)),
    )


def _counts(dataset: PairDataset) -> dict[str, Any]:
    pairs = dataset.pairs
    return {
        "pairs": len(pairs),
        "atoms": len(pairs.numbers),
        "refused": len(dataset.refused),
        "splits": {name: int((pairs.split == index).sum()) for name, index in SPLITS.items()},
        "levels": {name: n for i, name in enumerate(LEVELS) if (n := int((pairs.level == i).sum()))},
        "matched": dict(Counter(dataset.how)),
    }


def _elements(pairs: RelaxationPairs) -> dict[str, int]:
    from ase.data import chemical_symbols

    seen = torch.unique(torch.stack([pairs.batch, pairs.numbers]), dim=1)[1].bincount()
    return {chemical_symbols[z]: int(seen[z]) for z in seen.nonzero().squeeze(1).tolist()}


def _distributions(pairs: RelaxationPairs) -> dict[str, dict[str, float]]:
    stretch = torch.linalg.svdvals(torch.linalg.solve(pairs.cell_initial, pairs.cell_relaxed)).log()
    columns = {
        "atoms": pairs.counts.double(),
        "mean displacement (Å)": displacement_sizes(pairs, "mean"),
        "largest displacement (Å)": displacement_sizes(pairs),
        "volume ratio": stretch.sum(dim=1).exp(),
        "largest strain": stretch.abs().amax(dim=1),
    }
    return {
        name: {label: float(np.quantile(values.numpy(), q)) for label, q in QUANTILES.items()}
        | {"mean": float(values.mean())}
        for name, values in columns.items()
    }


def _named(marks: Iterable[Mark], names: Iterable[str]) -> dict[Mark, list[str]]:
    """The names that each mark occurs with."""
    groups: dict[Mark, list[str]] = {}
    for mark, name in zip(marks, names, strict=True):
        groups.setdefault(mark, []).append(name)
    return groups


def _leakage(dataset: PairDataset, initial: list[tuple], relaxed: list[tuple]) -> dict[str, dict[str, int]]:
    """Count the pairs of each part outside training that have something in common with training."""
    marks: dict[str, list[set]] = {
        "same crystal": [{("initial", a), ("relaxed", b)} for a, b in zip(initial, relaxed, strict=True)],
        "same formula": [{name} for name in group_names(dataset, "composition")],
        "same chemical system": [{name} for name in group_names(dataset, "chemical system")],
    }
    split = dataset.pairs.split.tolist()
    result: dict[str, dict[str, int]] = {}
    for part, index in SPLITS.items():
        members = [n for n, s in enumerate(split) if s == index]
        if part == "train" or not members:
            continue
        result[part] = {"pairs": len(members)}
        for kind, sets in marks.items():
            trained = set().union(*(sets[n] for n, s in enumerate(split) if s == SPLITS["train"]))
            result[part][kind] = sum(bool(sets[n] & trained) for n in members)
    return result


def _suspicious(dataset: PairDataset, pairs: RelaxationPairs, around: dict[str, Surroundings]) -> dict[str, list[str]]:
    masks = suspicions(pairs, around) | {
        "relaxed crystal was turned": torch.tensor(dataset.turned or [0.0] * len(pairs)) > TURNED,
        "relaxed crystal is a mirror image": torch.tensor([how == MATCH_KINDS[3] for how in dataset.how]),
    }
    found = {name: [dataset.names[n] for n in mask.nonzero().squeeze(1).tolist()] for name, mask in masks.items()}
    return {name: names for name, names in found.items() if names}


def suspicions(pairs: RelaxationPairs, around: dict[str, Surroundings] | None = None) -> dict[str, Tensor]:
    """(G,) for each thing that is suspicious about the geometry of a pair, whether it is so.

    Args:
        pairs: in double precision.
        around: surroundings of the ``initial`` and the ``relaxed`` crystals, measured unless given.
    """
    around = {side: surroundings(pairs, side) for side in ("initial", "relaxed")} if around is None else around
    volume = (torch.linalg.det(pairs.cell_relaxed).abs() / torch.linalg.det(pairs.cell_initial).abs()).log()
    moved, largest = displacement_sizes(pairs, "mean"), displacement_sizes(pairs)
    stretch = torch.linalg.svdvals(torch.linalg.solve(pairs.cell_initial, pairs.cell_relaxed)).log().abs().amax(dim=1)
    masks = {
        f"|ln V ratio| above {LARGE_VOLUME}": volume.abs() > LARGE_VOLUME,
        f"mean displacement above {LARGE_MOVE} Å": moved > LARGE_MOVE,
        "two atoms swapped places": swapped(pairs),
        AT_REST: (largest < STILL) & (stretch < STILL),
    }
    for side, word in (("initial", "unrelaxed"), ("relaxed", "relaxed")):
        nearest = around[side].nearest
        masks[f"overlapping atoms, {word}"] = pairs.holding(nearest < OVERLAP)
        masks[f"an atom alone, {word}"] = pairs.holding(nearest > ALONE)
    return masks


def swapped(pairs: RelaxationPairs) -> Tensor:
    """(G,) whether two atoms of a crystal are each nearest to where the other one was."""
    found = torch.zeros(len(pairs), dtype=torch.bool)
    for size in pairs.counts.unique().tolist():
        members = (pairs.counts == size).nonzero().squeeze(1)
        itself = torch.arange(size)
        for chunk in members.split(max(1, _DISTANCES // size**2)):
            part = pairs.take(chunk)
            start, end = (x.view(len(chunk), size, 3) for x in (part.fractional_initial, part.fractional_relaxed))
            difference = end[:, :, None] - start[:, None]
            lengths = torch.einsum("gijk,gkx->gijx", difference - difference.round(), part.cell_relaxed).norm(dim=3)
            nearest = lengths.argmin(dim=2)
            found[chunk] = ((nearest.gather(1, nearest) == itself) & (nearest != itself)).any(dim=1)
    return found
