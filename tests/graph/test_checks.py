from __future__ import annotations

import numpy as np
import pytest

from deeprelax_ase import graph as g
from deeprelax_ase.crystal import Crystal
from deeprelax_ase.errors import IsolatedAtomError, OverlappingAtomsError

CUBE = np.eye(3) * 4.0
SOUND = Crystal([3, 9], [[0, 0, 0], [2.0, 2.0, 2.0]], CUBE)


@pytest.fixture(params=["torch", "matgl"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "matgl":
        request.getfixturevalue("needs_matgl")
    return request.param


def build(*crystals: Crystal, backend: str) -> g.CrystalGraph:
    return g.build_graph(crystals, backend=backend)


class TestBadDistances:
    def test_overlapping_atoms_are_named(self, backend: str) -> None:
        bad = Crystal([3, 9, 9], [[0, 0, 0], [2.0, 2.0, 2.0], [2.0, 2.0, 2.3]], CUBE)
        with pytest.raises(OverlappingAtomsError, match=r"^atom 1 and atom 2 are 0\.300 Å apart.*get_duplicate_atoms"):
            build(bad, backend=backend)

    def test_the_crystal_is_named_among_several(self, backend: str) -> None:
        bad = Crystal([9, 9], [[0, 0, 0], [0, 0, 0]], CUBE)
        with pytest.raises(OverlappingAtomsError, match=r"^crystal 1: atom 0 and atom 1 are 0\.000 Å apart"):
            build(SOUND, bad, SOUND, backend=backend)

    def test_overlap_across_the_cell_boundary(self, backend: str) -> None:
        bad = Crystal([3, 9], [[0.1, 0, 0], [3.9, 0, 0]], CUBE)
        message = r"atom 0 and atom 1 in the neighbouring cell \[-1, 0, 0\] are 0\.200 Å"
        with pytest.raises(OverlappingAtomsError, match=message):
            build(bad, backend=backend)

    def test_an_atom_upon_its_own_image(self, backend: str) -> None:
        bad = Crystal([3], [[0, 0, 0]], np.diag([0.4, 8.0, 8.0]))
        with pytest.raises(
            OverlappingAtomsError, match=r"atom 0 and its own image in the neighbouring cell .* 0\.400 Å"
        ):
            build(bad, backend=backend)

    def test_a_cell_in_the_wrong_unit_is_refused_before_its_neighbors_are_listed(self, backend: str) -> None:
        bad = Crystal([3, 9], SOUND.positions * 1e-3, CUBE * 1e-3)  # micrometres, perhaps
        with pytest.raises(OverlappingAtomsError, match=r"^crystal 1: 2 atom\(s\) in a cell of 6\.4e-08 Å³"):
            build(SOUND, bad, backend=backend)

    def test_isolated_atoms_are_named(self, backend: str) -> None:
        bad = Crystal([2, 10, 10], [[0, 0, 0], [10, 10, 10], [10, 10, 12]], np.eye(3) * 20)
        with pytest.raises(IsolatedAtomError, match=r"^atom 0 has no neighbour within 6\.0 Å.*vacuum"):
            build(bad, backend=backend)

    def test_isolated_atoms_of_one_crystal_among_several(self, backend: str) -> None:
        bad = Crystal([2] * 8, SOUND.positions[0] + 10.0 * np.indices((2, 2, 2)).reshape(3, 8).T, np.eye(3) * 20)
        with pytest.raises(IsolatedAtomError, match=r"^crystal 1: atoms \[0, 1, 2, 3, 4\] and more have no neighbour"):
            build(SOUND, bad, backend=backend)

    def test_sound_crystals_pass(self, backend: str, sample_crystals: dict[str, Crystal]) -> None:
        assert build(SOUND, *sample_crystals.values(), backend=backend).num_crystals == len(sample_crystals) + 1


def test_an_image_of_its_own_is_company_enough(backend: str) -> None:
    lonely = Crystal([2], [[0, 0, 0]], np.eye(3) * 5.9)
    assert build(lonely, backend=backend).num_edges == 6
    with pytest.raises(IsolatedAtomError):
        build(Crystal([2], [[0, 0, 0]], np.eye(3) * 6.1), backend=backend)


def test_a_small_dense_cell_passes_where_atoms_need_not_overlap() -> None:
    """Hydrogen squeezed to fcc with a bond of 0.52 Å: just above the limit of both checks."""
    dense = Crystal([1], [[0, 0, 0]], (np.ones((3, 3)) - np.eye(3)) * 0.52 / 2**0.5)
    settings = g.GraphSettings(cutoff=1.0)
    assert g.build_graph([dense], settings=settings).num_edges > 0
