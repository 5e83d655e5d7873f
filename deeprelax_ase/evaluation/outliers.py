"""Crystals unlike those that a model has learnt from, made of crystals that it has: what novelty is fitted against.

Each maker takes a :class:`Crystal` and a random generator. The result is physical in shape alone: nobody relaxes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.geometry.contacts import covalent_radii, metallic

#: Makes an outlier of a crystal; None where that crystal does not allow it.
Maker = Callable[[Crystal, np.random.Generator], Crystal | None]

#: Atoms that an outlier has at most.
MOST_ATOMS = 60

#: Å, between which a vacuum is drawn.
_VACUUM = (8.0, 18.0)

#: Å, between which the thickness of a slab is drawn.
_THICKNESS = (6.0, 15.0)

#: Å, that an interstitial atom has around it at least.
_ROOM = 1.2

#: Points at which room for an interstitial atom is looked for.
_POINTS = 400

#: Between which volumes are scaled, of crystals under pressure and of those pulled apart.
_COMPRESSED, _EXPANDED = (0.45, 0.72), (1.5, 3.0)

#: Å, standard deviation of the coordinates of shaken crystals.
_SHAKEN = 0.35

#: Atoms that small molecules have at least and at most.
_MOLECULE = (2, 12)

#: Lengths of bonds, and the least distance of other atoms, over the sum of the covalent radii.
_BOND, _APART = (0.9, 1.15), 1.25

#: Directions that are tried for a bond: a few leave molecules crooked, many make them regular.
_DIRECTIONS = (4, 40)


def slab(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """Cut a slab anywhere along one of the cell's axes."""
    axis = int(rng.integers(3))
    wanted = int(rng.uniform(*_THICKNESS) / _heights(crystal)[axis]) + 1
    copies = [1, 1, 1]
    copies[axis] = max(1, min(wanted, MOST_ATOMS // len(crystal)))
    shifted = crystal.with_geometry(crystal.positions + rng.random() * crystal.cell[axis], crystal.cell)
    return cut_free(repeated(shifted, copies), [axis], rng.uniform(*_VACUUM))


def layer(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """One period between the two lattice planes that lie furthest apart."""
    widest, axis, start = -1.0, 0, 0.0
    for k, height in enumerate(_heights(crystal)):
        planes = np.sort(crystal.fractional_positions[:, k] % 1.0)
        gaps = np.diff(planes, append=planes[0] + 1.0) * height
        if gaps.max() > widest:
            widest, axis, start = float(gaps.max()), k, float(planes[(gaps.argmax() + 1) % len(planes)])
    shifted = crystal.with_geometry(crystal.positions - (start - 1e-6) * crystal.cell[axis], crystal.cell)
    return cut_free(shifted, [axis], rng.uniform(*_VACUUM))


def wire(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """A column of cells along one of its axes."""
    kept = int(rng.integers(3))
    return cut_free(crystal, [k for k in range(3) if k != kept], rng.uniform(*_VACUUM))


def cluster(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """The atoms of one cell alone."""
    return cut_free(crystal, [0, 1, 2], rng.uniform(*_VACUUM))


def fragment(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """Two to a dozen of its atoms alone, each the nearest to one of the others."""
    images = repeated(crystal, (5, 5, 5))
    from_center = np.linalg.norm(images.positions - 2.5 * crystal.cell.sum(axis=0), axis=1)
    chosen = [int(rng.choice(np.argsort(from_center)[: len(crystal)]))]
    for _ in range(min(int(rng.integers(*_MOLECULE, endpoint=True)), len(images)) - 1):
        from_member = np.linalg.norm(images.positions - images.positions[rng.choice(chosen)], axis=1)
        from_member[chosen] = np.inf
        chosen.append(int(from_member.argmin()))
    return in_box(images.numbers[chosen], images.positions[chosen], rng.uniform(*_VACUUM))


def vacancy(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """A supercell without one of its atoms."""
    whole = supercell(crystal, int(rng.integers(8, 32)))
    kept = np.arange(len(whole)) != rng.integers(len(whole))
    return Crystal(whole.numbers[kept], whole.positions[kept], whole.cell)


def interstitial(crystal: Crystal, rng: np.random.Generator) -> Crystal | None:
    """A supercell with one more atom of its elements, where there is most room."""
    whole = supercell(crystal, int(rng.integers(8, 32)))
    images = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    atoms = ((whole.fractional_positions % 1.0)[None] + images[:, None]).reshape(-1, 3) @ whole.cell
    points = rng.random((_POINTS, 3)) @ whole.cell
    room = np.linalg.norm(points[:, None] - atoms[None], axis=2).min(axis=1)
    if room.max() < _ROOM:
        return None
    positions = np.vstack([whole.positions, points[room.argmax()]])
    return Crystal(np.append(whole.numbers, rng.choice(crystal.numbers)), positions, whole.cell)


def compressed(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """Compress the crystal to half to three quarters of its volume."""
    return scaled(crystal, rng.uniform(*_COMPRESSED))


def expanded(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """Expand the crystal to one and a half times to three times its volume."""
    return scaled(crystal, rng.uniform(*_EXPANDED))


def shaken(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """All atoms moved at random, as no relaxation begins."""
    return crystal.with_geometry(crystal.positions + rng.normal(0.0, _SHAKEN, crystal.positions.shape), crystal.cell)


def substituted(elements: Sequence[int]) -> dict[str, Maker]:
    """Makers with any of the ``elements`` (atomic numbers): for one or two atoms, or for all, and in molecules."""

    def dopant(crystal: Crystal, rng: np.random.Generator) -> Crystal:
        whole = supercell(crystal, int(rng.integers(8, 32)))
        numbers = whole.numbers.copy()
        sites = rng.choice(len(whole), size=min(int(rng.integers(1, 3)), len(whole)), replace=False)
        numbers[sites] = rng.choice(elements, size=len(sites))
        return Crystal(numbers, whole.positions, whole.cell)

    def exchanged(crystal: Crystal, rng: np.random.Generator) -> Crystal:
        own = np.unique(crystal.numbers)
        others = rng.choice(elements, size=len(own), replace=len(own) > len(elements))
        return Crystal(others[np.searchsorted(own, crystal.numbers)], crystal.positions, crystal.cell)

    def molecule(crystal: Crystal, rng: np.random.Generator) -> Crystal:
        return grown(rng.choice(elements, size=int(rng.integers(2, 5))), rng)

    def covalent(crystal: Crystal, rng: np.random.Generator) -> Crystal:
        return grown(rng.choice(no_metals, size=int(rng.integers(2, 5))), rng)

    def hydrogenated(crystal: Crystal, rng: np.random.Generator) -> Crystal:
        return grown([*rng.choice(no_metals, size=int(rng.integers(2, 5))), 1, 1, 1], rng)

    made: dict[str, Maker] = {"dopant": dopant, "exchanged": exchanged, "molecule": molecule}
    no_metals = [z for z in elements if not metallic()[z]]
    made |= {"covalent molecule": covalent} if no_metals else {}
    return made | ({"molecule with hydrogen": hydrogenated} if 1 in no_metals else {})


#: Makers of outliers from any crystal, by name.
SHAPES: Mapping[str, Maker] = {
    "slab": slab,
    "layer": layer,
    "wire": wire,
    "cluster": cluster,
    "fragment": fragment,
    "vacancy": vacancy,
    "interstitial": interstitial,
    "compressed": compressed,
    "expanded": expanded,
    "shaken": shaken,
}

#: Outliers that pairs of a kind teach a model, by the number of the kind in their files.
TAUGHT_BY: Mapping[int, tuple[str, ...]] = {
    6: ("vacancy", "dopant"),
    7: ("layer",),
    8: ("slab", "layer"),
    9: ("vacancy", "dopant"),
}


def grown(elements: Sequence[int] | np.ndarray, rng: np.random.Generator) -> Crystal:
    """A molecule of two to a dozen atoms of these ``elements``, fewer where there is no room.

    Each element has one to four bonds. The first atom that has one left takes the next, in any direction or where there
    is most room.
    """
    numbers = rng.choice(elements, size=int(rng.integers(*_MOLECULE, endpoint=True)))
    radii, tried = covalent_radii().numpy()[numbers], int(rng.choice(_DIRECTIONS))
    bonds = rng.integers(1, 4, size=numbers.max() + 1, endpoint=True)[numbers]
    bonds[0] = max(bonds[0], 2)
    positions = np.zeros((1, 3))
    while (new := len(positions)) < len(numbers) and (free := np.flatnonzero(bonds[:new] > 0)).size:
        parent = free[0]
        directions = rng.normal(size=(tried, 3))
        directions *= rng.uniform(*_BOND) / np.linalg.norm(directions, axis=1, keepdims=True)
        places = positions[parent] + (radii[parent] + radii[new]) * directions
        apart = np.linalg.norm(places[:, None] - positions, axis=2) / (radii[:new] + radii[new])
        apart[:, parent] = np.inf
        room = apart.min(axis=1)
        bonds[parent] -= 1
        if room.max() > _APART:
            positions = np.vstack([positions, places[room.argmax()]])
            bonds[new] -= 1
    return in_box(numbers[: len(positions)], positions, rng.uniform(*_VACUUM))


def in_box(numbers: np.ndarray, positions: np.ndarray, vacuum: float) -> Crystal:
    """Atoms at ``positions`` (n, 3) Å in a box that is larger by ``vacuum`` (Å) on each axis."""
    return Crystal(numbers, positions - positions.min(axis=0), np.diag(np.ptp(positions, axis=0) + vacuum))


def cut_free(crystal: Crystal, axes: Sequence[int], vacuum: float) -> Crystal:
    """The atoms of one cell with ``vacuum`` (Å) around them along ``axes``, at right angles to the others."""
    kept = [k for k in range(3) if k not in axes]
    positions = (crystal.fractional_positions % 1.0) @ crystal.cell
    directions = np.linalg.svd(np.vstack([crystal.cell[kept], np.zeros((1, 3))]))[2][len(kept) :]
    open_ = directions * (np.ptp(positions @ directions.T, axis=0) + vacuum)[:, None]
    cell = np.vstack([crystal.cell[kept], open_])
    if np.linalg.det(cell) < 0:
        cell[-1] *= -1
    return Crystal(crystal.numbers, positions, cell)


def repeated(crystal: Crystal, copies: Sequence[int]) -> Crystal:
    """``copies`` of the cell along each axis."""
    shifts = np.stack(np.meshgrid(*map(range, copies), indexing="ij"), axis=-1).reshape(-1, 3)
    positions = (crystal.positions[None] + (shifts @ crystal.cell)[:, None]).reshape(-1, 3)
    return Crystal(np.tile(crystal.numbers, len(shifts)), positions, crystal.cell * np.array(copies)[:, None])


def supercell(crystal: Crystal, atoms: int) -> Crystal:
    """The cell doubled along its shortest side until it holds so many ``atoms``, or one more would be too many."""
    copies = [1, 1, 1]
    while len(crystal) * np.prod(copies) < atoms:
        axis = int(np.argmin(np.linalg.norm(crystal.cell, axis=1) * copies))
        longer = [n + (k == axis) for k, n in enumerate(copies)]
        if len(crystal) * np.prod(longer) > MOST_ATOMS:
            break
        copies = longer
    return repeated(crystal, copies)


def scaled(crystal: Crystal, ratio: float) -> Crystal:
    """The crystal at ``ratio`` times its volume."""
    stretch = ratio ** (1 / 3)
    return crystal.with_geometry(crystal.positions * stretch, crystal.cell * stretch)


def _heights(crystal: Crystal) -> np.ndarray:
    """(3,) Å, distances between the lattice planes that each pair of the other two vectors spans."""
    return 1 / np.linalg.norm(np.linalg.inv(crystal.cell), axis=0)
