"""Hypothetical monolayers: other elements in the structures of real ones, see ``monolayer_prototypes.toml``."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import product
from math import gcd
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii

FILE = Path(__file__).with_name("monolayer_prototypes.toml")

#: Å, empty height of the cell above an unrelaxed monolayer.
VACUUM = 18.0

#: A lattice is scaled wherever the covalent radii differ by a larger factor: it may be kept below that alone.
KEPT_WITHIN = 1.15


@dataclass(frozen=True)
class Prototype:
    """The monolayer of a real compound.

    Attributes:
        name: of the prototype.
        family: prototypes of one family share no formula: they are the same crystal in another cell.
        roles: role of each site, an index into the compound's elements.
        elements: of the real compound, one for each role.
        fractional: (N, 2) fractional coordinates in the plane.
        heights: (N,) Å.
        vectors: (2, 2) Å, lattice vectors in rows.
        repeat: cells along both; where they are not one, atoms are always shaken.
        same: whether two roles may have the same element.
        rules: for each rule, the elements of each role.
    """

    name: str
    family: str
    roles: tuple[int, ...]
    elements: tuple[str, ...]
    fractional: np.ndarray
    heights: np.ndarray
    vectors: np.ndarray
    repeat: tuple[int, int]
    same: bool
    rules: tuple[tuple[tuple[str, ...], ...], ...]

    def compositions(self) -> list[tuple[str, ...]]:
        """Elements of the roles, every choice that the rules allow; one for each reduced formula."""
        found: dict[str, tuple[str, ...]] = {}
        for chosen in (self.elements, *(choice for rule in self.rules for choice in product(*rule))):
            if self.same or len(set(chosen)) == len(chosen):
                found.setdefault(self.formula(chosen), chosen)
        return list(found.values())

    def formula(self, elements: tuple[str, ...]) -> str:
        """Reduced formula with ``elements`` in the roles, in alphabetical order."""
        counts = Counter(elements[role] for role in self.roles)
        divisor = gcd(*counts.values())
        return "".join(f"{element}{counts[element] // divisor}" for element in sorted(counts))


@cache
def read_prototypes(file: Path = FILE) -> tuple[Prototype, ...]:
    """The prototypes of a file, in its order."""
    content = tomllib.loads(file.read_text(encoding="utf-8"))
    classes = {name: tuple(elements.split()) for name, elements in content["classes"].items()}
    return tuple(_prototype(name, entry, classes) for name, entry in content["prototypes"].items())


def _prototype(name: str, entry: dict, classes: dict[str, tuple[str, ...]]) -> Prototype:
    roles = list(entry["compound"])
    sites = [line.split() for line in entry["sites"].strip().splitlines()]
    a, b = entry["a"], entry.get("b", entry["a"])
    rectangular = "b" in entry or entry.get("square", False)
    second = [0.0, b] if rectangular else [-a / 2, a * np.sqrt(3) / 2]
    rules = [rule.split() for rule in entry["rules"]]
    if wrong := [rule for rule in rules if len(rule) != len(roles)]:
        raise ValueError(f"{name} has the roles {roles}, and rules {wrong} of another length")
    return Prototype(
        name=name,
        family=entry.get("family", name),
        roles=tuple(roles.index(role) for role, *_ in sites),
        elements=tuple(entry["compound"].values()),
        fractional=np.array([[float(Fraction(x)), float(Fraction(y))] for _, x, y, _ in sites]),
        heights=np.array([float(height) for *_, height in sites]),
        vectors=np.array([[a, 0.0], second]),
        repeat=tuple(entry.get("repeat", (1, 1))),
        same=entry.get("same", False),
        rules=tuple(tuple(classes[name] for name in rule) for rule in rules),
    )


def choices(prototypes: tuple[Prototype, ...], generator: np.random.Generator) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Index of a prototype and elements for it, the prototypes in turn; no formula of a family twice."""
    left = []
    for prototype in prototypes:
        compositions = prototype.compositions()
        left.append([compositions[k] for k in generator.permutation(len(compositions))])
    taken = set()
    while any(left):
        for k in generator.permutation(len(prototypes)):
            prototype = prototypes[k]
            while left[k]:
                elements = left[k].pop()
                name = prototype.family, prototype.formula(elements)
                if name not in taken:
                    taken.add(name)
                    yield int(k), elements
                    break


def unrelaxed(prototype: Prototype, elements: tuple[str, ...], generator: np.random.Generator) -> Atoms:
    """``elements`` in the roles of ``prototype``: the monolayer in the middle of its cell, c along z.

    Six in ten lattices and heights are scaled by the ratio of the sums of covalent radii, and all those that this
    changes by more than :data:`KEPT_WITHIN`; three in ten crystals are shaken and strained in the plane.
    """
    real, new = (_radii([names[role] for role in prototype.roles]).sum() for names in (prototype.elements, elements))
    scale, kept = new / real, generator.random() < 0.4
    if kept and max(scale, 1 / scale) <= KEPT_WITHIN:
        scale = 1.0
    repeated = prototype.repeat != (1, 1)
    shaken = repeated or generator.random() < 0.3
    atoms = built(prototype, elements, scale)
    if shaken:
        width = generator.uniform(0.05, 0.2) if repeated else generator.uniform(0.02, 0.12)
        atoms.positions += generator.normal(0.0, width, (len(atoms), 3))
        strain = np.zeros((3, 3))
        strain[:2, :2] = generator.normal(0.0, 0.02, (2, 2))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
    return atoms


def built(prototype: Prototype, elements: tuple[str, ...], scale: float = 1.0) -> Atoms:
    """``elements`` in the roles of ``prototype``, its lattice vectors and heights times ``scale``."""
    heights = scale * prototype.heights
    cell = np.zeros((3, 3))
    cell[:2, :2] = scale * prototype.vectors
    cell[2, 2] = np.ptp(heights) + VACUUM
    positions = prototype.fractional @ cell[:2]
    positions[:, 2] = heights - (heights.max() + heights.min()) / 2 + cell[2, 2] / 2
    atoms = Atoms([elements[role] for role in prototype.roles], positions, cell=cell, pbc=True)
    return atoms.repeat((*prototype.repeat, 1))


def _radii(symbols: list[str]) -> np.ndarray:
    """Å, covalent radii (B. Cordero et al., Dalton Trans. 2008, 2832), as ASE has them."""
    return covalent_radii[[atomic_numbers[symbol] for symbol in symbols]]
