"""Structures of every kind that vacuum is told apart in, by name."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import bulk, fcc111, graphene, make_supercell, molecule, mx2, nanotube, surface
from ase.spacegroup import crystal

BOXES = (8.0, 10.0, 12.0, 15.0, 20.0)


def boxed(name: str, box: float) -> Atoms:
    """A molecule in a cube, with atoms on both sides of the cell's faces."""
    atoms = molecule(name)
    atoms.set_cell([box] * 3)
    atoms.pbc = True
    atoms.positions -= atoms.positions[0]
    atoms.wrap()
    return atoms


def leaning(atoms: Atoms) -> Atoms:
    """The same lattice in a cell none of whose faces is a face of the former one."""
    return make_supercell(atoms, [[1, 1, 0], [0, 1, 1], [1, 0, 0]])


def with_vacuum(atoms: Atoms, vacuum: float = 15.0) -> Atoms:
    atoms.center(vacuum=vacuum / 2, axis=2)
    atoms.pbc = True
    return atoms


def tube() -> Atoms:
    atoms = nanotube(6, 0, length=1)
    atoms.center(vacuum=6.0, axis=(0, 1))
    atoms.pbc = True
    return atoms


def chain() -> Atoms:
    return Atoms("C2", positions=[[0, 0, 0], [0, 0, 1.3]], cell=[12, 12, 2.6], pbc=True)


def hollow(radius: float = 8.0) -> Atoms:
    """Copper with a spherical pore in each cell."""
    atoms = bulk("Cu", cubic=True) * 6
    centre = atoms.cell.array.sum(axis=0) / 2
    del atoms[np.linalg.norm(atoms.positions - centre, axis=1) < radius]
    return atoms


def faujasite() -> Atoms:
    """All-silica zeolite with windows of 7 Å and cages of 12 Å; Hriljac et al., J. Solid State Chem. 106, 66 (1993)."""
    sites = [
        (-0.05392, 0.1253, 0.03589),
        (0, -0.10623, 0.10623),
        (-0.00323, -0.00323, 0.14066),
        (0.0757, 0.0757, -0.03577),
        (0.07063, 0.07063, 0.32115),
    ]
    cell = [24.2576] * 3 + [90] * 3
    return crystal(["Si", "O", "O", "O", "O"], sites, spacegroup=227, setting=2, cellpar=cell, primitive_cell=True)


def benzene_crystal() -> Atoms:
    sites = [
        (-0.0569, 0.1387, -0.0054),
        (-0.1335, 0.0460, 0.1264),
        (-0.0774, -0.0925, 0.1295),
        (-0.0976, 0.2447, -0.0177),
        (-0.2409, 0.0794, 0.2218),
        (-0.1371, -0.1631, 0.2312),
    ]
    return crystal("CCCHHH", sites, spacegroup=61, cellpar=[7.39, 9.42, 6.81, 90, 90, 90])


def ice() -> Atoms:
    sites = [
        (0, 0.6648, 0.0631),
        (0.5, 0.8255, -0.0631),
        (0, 0.6636, 0.1963),
        (0, 0.5363, 0.0183),
        (0.6766, -0.2252, -0.0183),
    ]
    return crystal("OOHHH", sites, spacegroup=36, cellpar=[4.465, 7.858, 7.292, 90, 90, 90])


def dry_ice() -> Atoms:
    return crystal("CO", [(0, 0, 0), (0.1185,) * 3], spacegroup=205, cellpar=[5.62] * 3 + [90] * 3)


def graphite() -> Atoms:
    sites = [(0, 0, 0.25), (1 / 3, 2 / 3, 0.25)]
    return crystal("CC", sites, spacegroup=194, cellpar=[2.46, 2.46, 6.71, 90, 90, 120])


def tellurium() -> Atoms:
    """Of helices as near to each other as they are in nature; Adenis et al., Acta Cryst. C 45, 941 (1989)."""
    return crystal(["Te"], [(0.2636, 0, 1 / 3)], spacegroup=152, cellpar=[4.456, 4.456, 5.921, 90, 90, 120])


def molybdenite() -> Atoms:
    sites = [(1 / 3, 2 / 3, 0.25), (1 / 3, 2 / 3, 0.62)]
    return crystal(["Mo", "S"], sites, spacegroup=194, cellpar=[3.16, 3.16, 12.3, 90, 90, 120])


def packed(name: str, gap: float) -> Atoms:
    """A molecule in a box that is so much longer in Å than it is itself, in each direction."""
    atoms = molecule(name)
    atoms.set_cell(np.ptp(atoms.positions, axis=0) + gap)
    atoms.pbc = True
    return atoms


def ionic_slab(vacuum: float, salt: str = "MgO", a: float = 4.21) -> Atoms:
    """A salt like MgO, whose metal lies opposite the other element across the vacuum."""
    return with_vacuum(surface(bulk(salt, "rocksalt", a=a, cubic=True), (1, 0, 0), 4), vacuum)


def rutile_slab(vacuum: float) -> Atoms:
    sites = [(0, 0, 0), (0.3053, 0.3053, 0)]
    rutile = crystal(["Ti", "O"], sites, spacegroup=136, cellpar=[4.594, 4.594, 2.959, 90, 90, 90])
    return with_vacuum(surface(rutile, (1, 1, 0), 3), vacuum)


def wire(symbol: str, box: float, bond: float) -> Atoms:
    return Atoms(symbol, cell=[box, box, bond], pbc=True)


#: With less vacuum than a crystal's layers may have between them, and more than is between its molecules.
SMALL_BOXES = {
    "CO2 in 5 x 5 x 7.3 Å": lambda: Atoms(
        "OCO", positions=[[0, 0, -1.16], [0, 0, 0], [0, 0, 1.16]], cell=[5, 5, 7.3], pbc=True
    ),
    **{f"{name} in 4 Å": lambda name=name: packed(name, 4.0) for name in ("NH3", "C6H6", "CF4", "CH4", "C2H4", "H2O")},
    **{f"{name} in 3 Å": lambda name=name: packed(name, 3.0) for name in ("NH3", "CH4", "C2H6", "CH3OH", "H2O")},
    **{f"{name} in 4 Å": lambda name=name: packed(name, 4.0) for name in ("CO2", "N2")},
    "CF4 in 3.5 Å": lambda: packed("CF4", 3.5),
    **{f"gold in {box:g} Å": lambda box=box: wire("Au", box, 2.6) for box in (4.5, 5.0, 6.0)},
    "carbon in 4.5 Å": lambda: wire("C", 4.5, 1.3),
    **{
        f"{symbol} in 4.8 x 14 Å": lambda symbol=symbol, bond=bond: Atoms(symbol, cell=[4.8, 14, bond], pbc=True)
        for symbol, bond in (("Cu", 2.4), ("Au", 2.6), ("Si", 2.2))
    },
    "MgO in 4.5 x 4.5 x 12 Å": lambda: Atoms("MgO", [[0, 0, 0], [0, 0, 1.75]], cell=[4.5, 4.5, 12], pbc=True),
}

#: What nothing but contacts hold together, some of them as near as packed crystals are.
MOLECULAR = {
    **{f"{name} in 3.4 Å": lambda name=name: packed(name, 3.4) for name in ("Cl2", "S2", "SO2", "BCl3")},
    **{
        f"{name} in 2.8 Å": lambda name=name: packed(name, 2.8) for name in ("C6H6", "C2H4", "CO2", "HCN", "CO", "H2CO")
    },
    "lithium fluoride in 3.4 Å": lambda: packed("LiF", 3.4),
    "sodium chloride in 4 Å": lambda: packed("NaCl", 4.0),
    "benzene": benzene_crystal,
    "dry ice": dry_ice,
    "argon": lambda: bulk("Ar", "fcc", a=5.26),
    **{f"{name} in 3 Å": lambda name=name: packed(name, 3.0) for name in ("CO2", "C6H6", "CF4", "N2")},
}

#: Chains, 1.2 to 2.7 Å apart between their spheres.
CHAINS = {
    f"{symbol} in {box:g} Å": lambda symbol=symbol, box=box, bond=bond: wire(symbol, box, bond)
    for symbol, bond, boxes in (
        ("Te", 2.8, (5.3, 4.3)),
        ("Se", 2.4, (4.8,)),
        ("P", 2.2, (4.4, 3.34)),
        ("C", 1.3, (3.5,)),
    )
    for box in boxes
} | {"sodium chloride in 3.4 Å": lambda: packed("NaCl", 3.4)}

MOLECULES = {
    f"{name} in {box:g} Å": (name, box)
    for name in ("H2O", "CO2", "C6H6", "CH4", "C60")
    for box in BOXES
    if name != "C60" or box > 10  # in smaller ones they are as near as in their crystal
}
WIRES = {"chain": chain, "leaning chain": lambda: leaning(chain()), "nanotube": tube}
LAYERS = {
    "graphene": lambda: with_vacuum(graphene()),
    "MoS2": lambda: with_vacuum(mx2("MoS2")),
    "leaning MoS2": lambda: leaning(with_vacuum(mx2("MoS2"))),
    "MoS2 in 8 Å": lambda: with_vacuum(mx2("MoS2"), 8.0),
}
SLABS = {
    "Al(111)": lambda: with_vacuum(fcc111("Al", (1, 1, 6))),
    "leaning Al(111)": lambda: leaning(with_vacuum(fcc111("Al", (2, 2, 6)))),
}
CRYSTALS = {
    "copper": lambda: bulk("Cu"),
    "hollow copper": hollow,
    "faujasite": faujasite,
    "benzene": benzene_crystal,
    "ice XI": ice,
    "dry ice": dry_ice,
    "argon": lambda: bulk("Ar", "fcc", a=5.26),
    "graphite": graphite,
    "molybdenite": molybdenite,
    "tellurium": tellurium,
    "leaning graphite": lambda: leaning(graphite()),
    "stretched sodium chloride": lambda: bulk("NaCl", "rocksalt", a=1.2 * 5.64),
    "stretched sodium": lambda: bulk("Na", "bcc", a=1.2 * 4.29),
    "stretched caesium": lambda: bulk("Cs", "bcc", a=1.1 * 6.14),
}
