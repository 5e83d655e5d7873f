"""Structures that somebody gives to a relaxer sooner or later, sound and unsound ones, by kind."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ase import Atom, Atoms
from ase.build import bulk, fcc111, graphene, molecule, surface
from ase.constraints import FixAtoms, FixCartesian, Hookean

Variants = dict[str, Atoms]


def rocksalt(a: float = 5.6, *, cubic: bool = True) -> Atoms:
    """NaCl, with its lattice constant in Å."""
    return bulk("NaCl", "rocksalt", a=a, cubic=cubic)


def perovskite(a: float = 3.95) -> Atoms:
    """SrTiO3, with its lattice constant in Å."""
    sites = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    return Atoms("SrTiO3", scaled_positions=sites, cell=[a] * 3, pbc=True)


def changed(change: Callable[[Atoms], object], atoms: Atoms | None = None) -> Atoms:
    """``atoms``, rock salt by default, after a ``change`` in place."""
    atoms = rocksalt(cubic=False) if atoms is None else atoms
    change(atoms)
    return atoms


def _moved(to: float) -> Atoms:
    return changed(lambda atoms: atoms.positions.__setitem__((0, 0), to))


def _celled(*entry: int, to: float) -> Atoms:
    return changed(lambda atoms: atoms.cell.array.__setitem__(entry, to))


def _numbered(z: int) -> Atoms:
    return changed(lambda atoms: atoms.numbers.__setitem__(0, z))


def _scaled(volume: float, atoms: Atoms | None = None) -> Atoms:
    return changed(lambda a: a.set_cell(a.cell * volume ** (1 / 3), scale_atoms=True), atoms)


def _boxed(name: str, length: float) -> Atoms:
    return changed(lambda a: (a.set_cell([length] * 3), a.center(), a.set_pbc(True)), molecule(name))


def _vacuum(atoms: Atoms, width: float, pbc: object = True) -> Atoms:
    return changed(lambda a: (a.center(width / 2, axis=2), a.set_pbc(pbc)), atoms)


def _wire(symbol: str, bond: float, box: float, axis: int = 2) -> Atoms:
    cell = np.full(3, box)
    cell[axis] = bond
    return Atoms(symbol, positions=[[box / 2] * 3], cell=cell, pbc=True)


def _beside(distance: float, atoms: Atoms | None = None) -> Atoms:
    """With one more atom, beside the first."""
    atoms = bulk("Si", cubic=True) if atoms is None else atoms
    away = np.array([0.48, 0.6, 0.64]) * distance
    return changed(lambda a: a.append(Atom(a[0].symbol, a.positions[0] + away)), atoms)


def _without(atoms: Atoms, index: int = 0) -> Atoms:
    return changed(lambda a: a.__delitem__(index), atoms)


def _held(constraint: object) -> Atoms:
    return changed(lambda a: a.set_constraint(constraint), rocksalt())


def _occupied(by: object) -> Atoms:
    return changed(lambda a: a.info.__setitem__("occupancy", by))


def _periodic(*pbc: bool) -> Atoms:
    return changed(lambda a: a.set_pbc(pbc))


def _rattled(atoms: Atoms, width: float) -> Atoms:
    return changed(lambda a: a.rattle(width, seed=7), atoms)


def kinds() -> dict[str, Variants]:
    """Variants of each kind, by name; made anew at each call."""
    return {**_sound(), **_vacuous(), **_crowded(), **_not_finite(), **_without_sense()}


def _sound() -> dict[str, Variants]:
    turned = rocksalt(cubic=False)
    turned.rotate(33, (1, 2, 3), rotate_cell=True)
    return {
        "sound crystals": {
            "NaCl": rocksalt(),
            "SrTiO3": perovskite(),
            "Si": bulk("Si", a=5.4),
            "Mg": bulk("Mg"),
            "ZnS": bulk("ZnS", "wurtzite", a=3.8, c=6.2),
            "one atom": bulk("Cu", a=3.6),
            "rattled": _rattled(rocksalt(), 0.1),
            "strained by 5 %": _scaled(1.15, perovskite()),
        },
        "sound crystals, written oddly": {
            "left-handed cell": changed(lambda a: a.set_cell(a.cell.array[[1, 0, 2]])),
            "turned": turned,
            "atoms 100 cells away": changed(lambda a: a.positions.__iadd__(100 * a.cell.array[0])),
            "long thin cell": changed(lambda a: a.cell.array.__setitem__(2, a.cell.array[2] + 7 * a.cell.array[0])),
            "supercell": rocksalt().repeat((2, 1, 1)),
            "no longer sorted": perovskite()[[2, 0, 4, 1, 3]],
        },
        "defects": {
            "vacancy": _without(rocksalt().repeat((2, 1, 1))),
            "vacancy in an oxide": _without(perovskite().repeat((2, 1, 1)), 3),
            "interstitial 1.6 Å away": _beside(1.6),
            "antisite": changed(lambda a: a.numbers.__setitem__(0, 17), rocksalt().repeat((2, 1, 1))),
        },
        "squeezed or expanded": {
            f"{volume:g} of the volume": _scaled(volume, rocksalt()) for volume in (0.3, 0.5, 0.7, 1.5, 2.0, 3.0)
        },
    }


def _vacuous() -> dict[str, Variants]:
    aluminium = fcc111("Al", (1, 1, 6), a=4.05)
    return {
        "molecules in a box": {
            f"{name} in {length:g} Å": _boxed(name, length)
            for name, length in (
                ("H2O", 10.0),
                ("H2O", 16.0),
                ("CO2", 12.0),
                ("C6H6", 14.0),
                ("CH4", 9.0),
                ("N2", 20.0),
            )
        },
        "atoms in a box": {f"{symbol} in 12 Å": _wire(symbol, 12.0, 12.0) for symbol in ("Ar", "Cu", "O")},
        "wires": {
            "Cu along c": _wire("Cu", 2.4, 14.0),
            "Cu along a": _wire("Cu", 2.4, 14.0, axis=0),
            "C along b": _wire("C", 1.3, 11.0, axis=1),
            "Al2 along c": _wire("Al", 2.6, 13.0).repeat((1, 1, 2)),
        },
        "layers": {
            "graphene": _vacuum(graphene(), 15.0),
            "BN": _vacuum(graphene("BN", a=2.5), 18.0),
            "Al": _vacuum(fcc111("Al", (1, 1, 2), a=4.05), 14.0),
        },
        "slabs": {
            "Al(111)": _vacuum(aluminium.copy(), 16.0),
            "Cu(211)": _vacuum(surface("Cu", (2, 1, 1), 9), 14.0),
            "NaCl(001)": _vacuum(surface(rocksalt(), (0, 0, 1), 3), 15.0),
        },
        "slabs, periodic in two directions": {
            "Al(111)": _vacuum(aluminium.copy(), 16.0, (True, True, False)),
            "Al(111), no third vector": changed(
                lambda a: (a.set_pbc((1, 1, 0)), a.cell.array.__setitem__(2, 0)), aluminium
            ),
        },
    }


def _crowded() -> dict[str, Variants]:
    return {
        "atoms on top of each other": {
            "same place": _beside(0.0),
            "0.001 Å": _beside(0.001),
            "its own image": changed(lambda a: a.set_cell(np.diag([0.05, 5.0, 5.0])), bulk("Cu")),
            "twice the cell": Atoms("Na2", scaled_positions=[[0, 0, 0], [1, 0, 0]], cell=[4] * 3, pbc=True),
        },
        "atoms that collide": {f"{distance:g} Å": _beside(distance) for distance in (0.1, 0.3, 0.52, 0.7)},
        "collapsed cells": {
            "volume of 1e-6": _scaled(1e-6, rocksalt()),
            "volume of 1e-3": _scaled(1e-3, rocksalt()),
            "volume of 0.05": _scaled(0.05, rocksalt()),
        },
        "burst cells": {
            "volume of 30": _scaled(30.0, rocksalt()),
            "volume of 1000": _scaled(1e3, rocksalt()),
            "volume of 1e12": _scaled(1e12, rocksalt()),
        },
    }


def _not_finite() -> dict[str, Variants]:
    wild = (1e7, 1e17, 1e100, 1e300)
    return {
        "NaN or infinite": {
            "a coordinate NaN": _moved(np.nan),
            "a coordinate inf": _moved(np.inf),
            "all coordinates NaN": changed(lambda a: a.positions.fill(np.nan)),
            "cell NaN": _celled(0, 1, to=np.nan),
            "cell inf": _celled(2, 2, to=np.inf),
        },
        "coordinates beyond reason": {f"{value:g} Å": _moved(value) for value in wild},
        "cells beyond reason": {f"{value:g} Å": _celled(1, 1, to=value) for value in wild},
        "flat cells": {
            "a vector is zero": _celled(0, slice(None), to=0.0),
            "three in a plane": changed(lambda a: a.set_cell([[4, 0, 0], [0, 4, 0], [4, 4, 0]])),
            "two are one": changed(lambda a: a.set_cell([[4, 0, 0], [4, 0, 0], [0, 0, 4]])),
            "nearly flat": changed(lambda a: a.set_cell([[4, 0, 0], [0, 4, 0], [3.9, 3.9, 1e-9]])),
        },
        "no cell": {
            "no cell": changed(lambda a: (a.set_cell(np.zeros((3, 3))), a.set_pbc(False))),
            "no cell, but periodic": changed(lambda a: a.set_cell(np.zeros((3, 3)))),
            "a molecule": molecule("C6H6"),
        },
    }


def _without_sense() -> dict[str, Variants]:
    return {
        "no atoms": {"empty": Atoms(cell=[4] * 3, pbc=True), "empty, no cell": Atoms()},
        "no element": {f"Z = {z}": _numbered(z) for z in (0, 119, 264, 268, -1, 2**31)},
        "elements not learnt": {
            symbol: changed(lambda a, s=symbol: a.symbols.__setitem__(0, s))
            for symbol in ("Po", "Rn", "Fr", "Ra", "Am", "Og")
        },
        "disordered": {
            "half a site": _occupied({"0": {"Na": 0.5}}),
            "shared site": _occupied({"0": {"Na": 0.5, "K": 0.5}}),
            "a number": _occupied(0.5),
            "a question mark": _occupied("?"),
            "a list": _occupied([1, 2]),
        },
        "constraints": {
            "FixAtoms": _held(FixAtoms([0])),
            "FixCartesian": _held(FixCartesian([1], mask=[True, False, False])),
            "Hookean": _held(Hookean(0, 1, 3.0, rt=3.0)),
        },
        "not periodic": {
            "a crystal, flags lost": _periodic(False, False, False),
            "a crystal, two flags": _periodic(True, True, False),
            "a crystal, one flag": _periodic(False, False, True),
        },
    }
