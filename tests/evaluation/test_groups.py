from __future__ import annotations

import pytest
import torch
from ase.data import chemical_symbols

from deeprelax_ase.data import RelaxationPairs
from deeprelax_ase.data.pairs import displacement_sizes
from deeprelax_ase.evaluation.groups import (
    LARGE,
    NON_METALS,
    RARE,
    chemical_systems,
    chemistry,
    crystal_groups,
    element_shares,
)


def make_pairs(*crystals: list[str]) -> RelaxationPairs:
    """Crystals of these elements at rest in a cube of 4 Å."""
    counts = torch.tensor([len(crystal) for crystal in crystals])
    atoms, size = int(counts.sum()), len(crystals)
    cells = 4 * torch.eye(3, dtype=torch.float64).repeat(size, 1, 1)
    fractional = torch.rand(atoms, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    none = torch.zeros(size, dtype=torch.int64)
    return RelaxationPairs.without_forces(
        numbers=torch.tensor([chemical_symbols.index(symbol) for crystal in crystals for symbol in crystal]),
        counts=counts,
        fractional_initial=fractional,
        fractional_relaxed=fractional.clone(),
        cell_initial=cells,
        cell_relaxed=cells.clone(),
        dft=none > 0,
        level=none,
        split=none,
        energy_relaxed=torch.zeros_like(cells[:, 0, 0]),
        kind=none - 1,
        fixed_cell=none > 0,
    )


def groups(pairs: RelaxationPairs, *, rare: tuple[str, ...] = ()) -> dict[str, list[bool]]:
    shares = torch.full((120,), 0.5)
    shares[[chemical_symbols.index(symbol) for symbol in rare]] = RARE / 2
    return {name: mask.tolist() for name, mask in crystal_groups(pairs, shares).items()}


def test_groups_by_what_is_in_them():
    pairs = make_pairs(["Mg", "O"], ["Cu", "Au"], ["Al", "N"], ["La", "Mn", "O"], ["Ga", "As"])
    found = groups(pairs, rare=("Au", "La"))
    assert found["oxides"] == [True, False, False, True, False]
    assert found["intermetallics"] == [False, True, False, False, False]
    assert found["rare elements"] == [False, True, False, True, False]
    assert found[f"over {LARGE} atoms"] == [False] * 5


def test_chemical_systems_are_sets_of_elements():
    first, other, same = chemical_systems(make_pairs(["Mg", "O"], ["Mg"], ["O", "Mg", "O"])).tolist()
    assert first == same != other
    assert {first, other} == {0, 1}


def test_large_cells():
    pairs = make_pairs(["Cu"] * LARGE, ["Cu"] * (LARGE + 1), ["Cu"])
    assert groups(pairs)[f"over {LARGE} atoms"] == [False, True, False]


@pytest.mark.parametrize("number", NON_METALS)
def test_one_non_metal_is_enough(number: int):
    pairs = make_pairs(["Cu", chemical_symbols[number], "Zn"], ["Cu", "Zn"])
    assert groups(pairs)["intermetallics"] == [False, True]


@pytest.mark.parametrize("symbol", ["Li", "Al", "Ge", "Sb", "Bi", "U"])
def test_metals(symbol: str):
    assert groups(make_pairs([symbol, "Cu"]))["intermetallics"] == [True]


def test_share_of_crystals_not_of_atoms():
    shares = element_shares(make_pairs(["Mg", "O"], ["O", "O", "Ti"], ["Cu"], ["Cu", "Cu", "Cu", "Cu"]))
    expected = {"Mg": 0.25, "O": 0.5, "Ti": 0.25, "Cu": 0.5}
    assert shares.shape == (120,)
    assert {chemical_symbols[z]: float(shares[z]) for z in shares.nonzero().flatten()} == expected


def test_displacements_beyond_what_the_cell_carries():
    pairs = make_pairs(["Mg", "O"], ["Cu"], ["Al", "N", "N"])
    pairs.cell_relaxed.mul_(1.5)
    assert displacement_sizes(pairs).tolist() == [0, 0, 0]
    pairs.fractional_relaxed[1, 0] += 0.1
    pairs.fractional_relaxed[3] += torch.tensor([0.0, 0.03, -0.04])
    pairs.fractional_relaxed[5, 2] += 0.01  # the largest of a crystal counts
    assert displacement_sizes(pairs).tolist() == pytest.approx([0.6, 0, 0.3])


def test_each_crystal_has_one_chemistry():
    pairs = make_pairs(["Na", "Cl"], ["Ca", "O", "F"], ["Zn", "S"], ["Ga", "As"], ["Ti", "C"], ["Cu", "Au"])
    found = chemistry(pairs)
    assert torch.stack(list(found.values())).sum(dim=0).tolist() == [1] * 6
    assert {name: mask.nonzero().flatten().tolist() for name, mask in found.items()} == {
        "oxides": [1],
        "halides": [0],
        "sulphides, selenides, tellurides": [2],
        "nitrides, phosphides, arsenides": [3],
        "hydrides, borides, carbides, silicides": [4],
        "metals alone": [5],
    }
