"""Structures of all sane and insane kinds, for hypothesis."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ase import Atom, Atoms
from ase.build import bulk, fcc111, graphene, molecule
from ase.constraints import FixAtoms, FixCartesian
from bad_inputs import perovskite, rocksalt
from hypothesis import strategies as st

#: What a structure is made of.
STARTS: dict[str, Callable[[], Atoms]] = {
    "rock salt": lambda: rocksalt(cubic=False),
    "perovskite": perovskite,
    "diamond": lambda: bulk("Si", a=5.4),
    "hcp": lambda: bulk("Mg"),
    "wurtzite": lambda: bulk("ZnO", "wurtzite", a=3.3, c=5.3),
    "fcc": lambda: bulk("Cu", cubic=True),
    "one atom": lambda: bulk("Po"),
    "molecule": lambda: molecule("CH4", vacuum=5.0, pbc=True),
    "molecules, packed": lambda: molecule("CO2", cell=[3.5, 3.5, 4.8], pbc=True),
    "layer": lambda: graphene(vacuum=8.0),
    "slab": lambda: fcc111("Al", (1, 1, 5), a=4.05, vacuum=7.0),
    "wire": lambda: Atoms("C", cell=[11, 12, 1.3], pbc=True),
    "nothing": Atoms,
}

#: Numbers that are no coordinates, or too large for one.
WILD = (np.nan, np.inf, -np.inf, 1e7, -1e17, 1e100, 1e300, 5e-324)

Change = Callable[[Atoms, st.DrawFn], None]


def _scale(atoms: Atoms, draw: st.DrawFn) -> None:
    factor = 10 ** draw(st.floats(-1, 2))
    _deform(atoms, factor ** (1 / 3) * np.eye(3))


def _strain(atoms: Atoms, draw: st.DrawFn) -> None:
    strain = np.reshape(draw(st.lists(st.floats(-0.3, 0.3), min_size=9, max_size=9)), (3, 3))
    _deform(atoms, np.eye(3) + strain)


def _deform(atoms: Atoms, deformation: np.ndarray) -> None:
    """Carries the atoms along, whatever the cell is."""
    atoms.set_cell(atoms.cell.array @ deformation)
    atoms.positions = atoms.positions @ deformation


def _rattle(atoms: Atoms, draw: st.DrawFn) -> None:
    width, seed = draw(st.floats(0, 1.5)), draw(st.integers(0, 99))
    atoms.positions += np.random.default_rng(seed).normal(scale=width, size=atoms.positions.shape)


def _repeat(atoms: Atoms, draw: st.DrawFn) -> None:
    if atoms.cell.rank == 3:
        atoms *= draw(st.sampled_from([(2, 1, 1), (1, 2, 1), (1, 1, 2)]))


def _remove(atoms: Atoms, draw: st.DrawFn) -> None:
    if len(atoms) and not atoms.constraints:  # ASE cannot
        del atoms[draw(st.integers(0, len(atoms) - 1))]


def _add(atoms: Atoms, draw: st.DrawFn) -> None:
    if len(atoms):
        away = np.array([0.6, 0.64, 0.48]) * draw(st.sampled_from([0.0, 1e-9, 0.05, 0.3, 0.6, 1.0, 1.5, 2.5]))
        atoms.append(Atom(draw(st.sampled_from(["H", "O", "Si", "Cs"])), atoms.positions[0] + away))


def _exchange(atoms: Atoms, draw: st.DrawFn) -> None:
    if len(atoms):
        atoms.numbers[0] = draw(st.one_of(st.integers(1, 94), st.sampled_from([-1, 0, 95, 118, 119, 268, 2**31])))


def _displace(atoms: Atoms, draw: st.DrawFn) -> None:
    if len(atoms):
        atoms.positions[draw(st.integers(0, len(atoms) - 1)), draw(st.integers(0, 2))] = draw(st.sampled_from(WILD))


def _spoil_cell(atoms: Atoms, draw: st.DrawFn) -> None:
    atoms.cell.array[draw(st.integers(0, 2)), draw(st.integers(0, 2))] = draw(st.sampled_from(WILD))


def _flatten(atoms: Atoms, draw: st.DrawFn) -> None:
    atoms.cell.array[2] = draw(st.sampled_from([0.0, 1.0])) * atoms.cell.array[0]


def _mirror(atoms: Atoms, draw: st.DrawFn) -> None:
    atoms.set_cell(atoms.cell.array[[1, 0, 2]])


def _skew(atoms: Atoms, draw: st.DrawFn) -> None:
    atoms.cell.array[2] += draw(st.integers(-9, 9)) * atoms.cell.array[0]


def _unwrap(atoms: Atoms, draw: st.DrawFn) -> None:
    if len(atoms):
        atoms.positions[0] += draw(st.integers(-300, 300)) * atoms.cell.array[1]


def _unflag(atoms: Atoms, draw: st.DrawFn) -> None:
    atoms.set_pbc([draw(st.booleans()) for _ in range(3)])


def _hold(atoms: Atoms, draw: st.DrawFn) -> None:
    if len(atoms):
        atoms.set_constraint(draw(st.sampled_from([FixAtoms([0]), FixCartesian([0], mask=[True, False, True])])))


def _disorder(atoms: Atoms, draw: st.DrawFn) -> None:
    atoms.info["occupancy"] = draw(st.sampled_from([{"0": {"Na": 0.5}}, {"0": {"Na": 1.0}}, 0.3, "?", [], None]))


def _describe(atoms: Atoms, draw: st.DrawFn) -> None:
    atoms.info.update(
        draw(
            st.sampled_from([{"name": "\udce9"}, {"id": "a\nb"}, {"energy": np.nan}, {"deeprelax_status": "accepted"}])
        )
    )


CHANGES: tuple[Change, ...] = (
    *(_scale, _strain, _rattle, _repeat, _remove, _add, _exchange, _displace, _spoil_cell, _flatten),
    *(_mirror, _skew, _unwrap, _unflag, _hold, _disorder, _describe),
)


@st.composite
def structures(draw: st.DrawFn) -> Atoms:
    """One structure: what somebody wanted, and what became of it."""
    atoms = STARTS[draw(st.sampled_from(sorted(STARTS)))]()
    for change in draw(st.lists(st.sampled_from(CHANGES), max_size=3)):
        change(atoms, draw)
    return atoms if len(atoms) <= 40 else atoms[:40]


class Batch(list[Atoms]):
    """Structures that hypothesis can show: ASE's own words fail for numbers that are no element's."""

    def __repr__(self) -> str:
        shown = [
            f"Atoms(numbers={atoms.numbers.tolist()}, positions={atoms.positions.tolist()}, "
            f"cell={atoms.cell.array.tolist()}, pbc={atoms.pbc.tolist()}, info={atoms.info}, "
            f"constraint={atoms.constraints})"
            for atoms in self
        ]
        return f"[{', '.join(shown)}]"


def batches(fewest: int, most: int) -> st.SearchStrategy[Batch]:
    """Several structures."""
    return st.lists(structures(), min_size=fewest, max_size=most).map(Batch)
