"""Hypothetical crystals: none of a system that may not be made, none without sense, the same from the same seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from deeprelax_ase.crystal import Crystal
from deeprelax_ase.labelling import Candidate, CandidateSettings, atomic_volumes
from deeprelax_ase.labelling.candidates import candidate_tries
from tests.crystals import perovskite

KINDS = CandidateSettings().shares
MOS2 = Crystal.of(
    Atoms(
        cell=[3.16, 3.16, 12.3, 90, 90, 120],
        scaled_positions=[
            *((1 / 3, 2 / 3, z) for z in (0.25, 0.621, 0.879)),
            *((2 / 3, 1 / 3, z) for z in (0.75, 0.379, 0.121)),
        ],
        pbc=True,
        numbers=[42, 16, 16, 42, 16, 16],
    )
)
SALTS = {"NaCl": 5.6, "KCl": 6.3, "NaBr": 6.0, "KBr": 6.6, "LiCl": 5.1, "LiF": 4.0, "MgO": 4.2, "CaO": 4.8, "SrO": 5.2}
SOURCES = [
    *(Crystal.of(bulk(name, "rocksalt", a=a)) for name, a in SALTS.items()),
    *(Crystal.of(perovskite(name, a)) for name, a in {"SrTiO3": 3.95, "CaTiO3": 3.85, "BaTiO3": 4.05}.items()),
]
SYSTEMS = {frozenset(c.numbers.tolist()) for c in SOURCES}
#: With systems of two cations, so that sites can be shared.
WIDER = SYSTEMS | {frozenset((3, 11, 17)), frozenset((11, 19, 17)), frozenset((12, 20, 8)), frozenset((20, 38, 8))}


def only(kind: str, **options: float) -> CandidateSettings:
    return CandidateSettings(shares={kind: 1.0}, **options)


def tried(sources: list[Crystal], count: int, **options: Any) -> Iterator[Candidate]:
    """What comes of so many tries."""
    return (one for one in islice(candidate_tries(sources, **options), count) if one is not None)


def made(kind: str, count: int = 20, **options: float) -> list[Candidate]:
    found = list(tried(SOURCES, count, seed=1, systems=WIDER, settings=only(kind, **options)))
    assert len(found) > count / 2
    return found


def nearest(crystal: Crystal) -> float:
    distances = crystal.to_atoms().get_all_distances(mic=True)
    return distances[~np.eye(len(crystal), dtype=bool)].min()


def formula(crystal: Crystal) -> Counter[int]:
    return Counter(crystal.numbers.tolist())


def test_every_kind_is_made_and_none_of_a_system_that_may_not_be():
    allowed = WIDER | {frozenset((42, 16))}
    found = list(tried([*SOURCES, MOS2], 150, systems=allowed))
    assert {c.kind for c in found} == set(KINDS)
    assert {frozenset(c.crystal.numbers.tolist()) for c in found} <= allowed


def test_systems_are_those_of_the_sources_unless_others_are_given():
    assert {frozenset(c.crystal.numbers.tolist()) for c in tried(SOURCES, 60)} <= SYSTEMS


def test_the_same_seed_makes_the_same_and_another_seed_others():
    first, again, other = (list(tried(SOURCES, 12, seed=s)) for s in (3, 3, 4))
    for a, b in zip(first, again, strict=True):
        assert (a.kind, a.source) == (b.kind, b.source)
        np.testing.assert_array_equal(a.crystal.positions, b.crystal.positions)
        np.testing.assert_array_equal(a.crystal.numbers, b.crystal.numbers)
    assert [c.crystal.numbers.tolist() for c in first] != [c.crystal.numbers.tolist() for c in other]


def test_a_longer_run_begins_like_a_shorter_one():
    short, long = (list(tried(SOURCES, n, seed=5)) for n in (6, 12))
    assert [c.crystal.numbers.tolist() for c in short] == [c.crystal.numbers.tolist() for c in long][: len(short)]


def test_candidates_are_sound_crystals_of_bounded_size():
    for candidate in tried(SOURCES, 80, systems=WIDER, settings=CandidateSettings(most_atoms=30)):
        crystal = Crystal.of(candidate.crystal)  # validates
        assert len(crystal) <= 30
        assert len(crystal) == 1 or nearest(crystal) > 0.8


def test_substitution_keeps_lattice_sites_and_stoichiometry():
    for candidate in made("substituted"):
        source = SOURCES[candidate.source]
        np.testing.assert_array_equal(candidate.crystal.cell, source.cell)
        np.testing.assert_allclose(candidate.crystal.positions, source.positions, atol=1e-12)
        assert sorted(formula(candidate.crystal).values()) == sorted(formula(source).values())


def test_straining_moves_atoms_and_cell_no_further_than_asked():
    still = made("strained", strain=0.0, rattle=0.0)
    for candidate in still:
        shape = candidate.crystal.cell / np.cbrt(candidate.crystal.volume)
        source = SOURCES[candidate.source]
        np.testing.assert_allclose(shape, source.cell / np.cbrt(source.volume), atol=1e-9)
    assert any(not np.isclose(c.crystal.volume, SOURCES[c.source].volume, rtol=1e-3) for c in still)
    for candidate in made("strained"):
        shape = candidate.crystal.cell / np.cbrt(candidate.crystal.volume)
        source = SOURCES[candidate.source]
        assert not np.allclose(shape, source.cell / np.cbrt(source.volume), atol=1e-6)
        assert np.abs(shape - source.cell / np.cbrt(source.volume)).max() < 0.25


def test_two_elements_share_the_sites_of_one():
    for candidate in made("shared", most_atoms=48):
        source = SOURCES[candidate.source]
        assert len(formula(candidate.crystal)) == len(formula(source)) + 1
        cells = len(candidate.crystal) // len(source)
        whole = Counter({c: n * cells for c, n in formula(source).items()})
        counts = sorted(formula(candidate.crystal).values())
        assert any(
            sorted([*(m for e, m in whole.items() if e != shared), a, whole[shared] - a]) == counts
            for shared in whole
            for a in range(1, whole[shared])
        )


def test_ionic_candidates_keep_anions_where_they_were():
    anions = {8, 9, 17, 35}
    for candidate in made("ionic"):
        source = SOURCES[candidate.source]
        share = sum(n for e, n in formula(source).items() if e in anions) / len(source)
        kept = sum(n for e, n in formula(candidate.crystal).items() if e in anions) / len(candidate.crystal)
        assert kept == pytest.approx(share)


def test_a_defect_is_one_atom_less_or_a_few_others():
    gone = changed = 0
    for candidate in made("defect", 40):
        source = SOURCES[candidate.source]
        if len(candidate.crystal) % len(source):
            gone += 1
            assert (len(candidate.crystal) + 1) % len(source) == 0
        else:
            changed += 1
            cells = len(candidate.crystal) // len(source)
            missing = Counter({e: n * cells for e, n in formula(source).items()}) - formula(candidate.crystal)
            assert 1 <= sum(missing.values()) <= 2
    assert gone
    assert changed


def test_a_slab_is_the_bulk_cut_with_vacuum_above():
    for candidate in made("slab"):
        crystal, source = candidate.crystal, SOURCES[candidate.source]
        assert crystal.pbc.tolist() == [True, True, False]
        np.testing.assert_allclose(crystal.cell[2][:2], 0, atol=1e-9)  # along z, as ASE's filters need it
        normal = crystal.cell[2] / np.linalg.norm(crystal.cell[2])
        np.testing.assert_allclose(crystal.cell[:2] @ normal, 0, atol=1e-9)
        heights = crystal.positions @ normal
        assert np.linalg.norm(crystal.cell[2]) - np.ptp(heights) == pytest.approx(15.0)
        cells = len(crystal) // len(source)
        assert formula(crystal) == Counter({e: n * cells for e, n in formula(source).items()})
        assert nearest(crystal) == pytest.approx(nearest(Crystal.of(source.to_atoms() * (2, 2, 2))), abs=1e-6)


def test_a_layer_is_cut_of_a_layered_crystal_alone():
    found = list(tried([*SOURCES, MOS2], 30, seed=2, settings=only("layer", rattle=0.0, strain=0.0)))
    assert len(found) > 15
    for candidate in found:
        crystal = candidate.crystal
        assert candidate.source == len(SOURCES)
        assert crystal.pbc.tolist() == [True, True, False]
        assert sorted(formula(crystal).values()) == [1, 2]
        heights = crystal.positions[:, 2]
        assert crystal.cell[2, 2] - np.ptp(heights) == pytest.approx(15.0)
        assert np.ptp(heights) == pytest.approx((0.379 - 0.121) * 12.3)
    as_cut = [c.crystal for c in found if np.isclose(np.linalg.norm(c.crystal.cell[0]), 3.16)]
    assert as_cut
    assert nearest(as_cut[0]) == pytest.approx(nearest(MOS2))
    assert len(as_cut) < len(found), "others are scaled in their plane"


def test_rattled_ones_are_their_source_disturbed():
    for candidate in made("rattled"):
        crystal, source = candidate.crystal, SOURCES[candidate.source]
        np.testing.assert_array_equal(crystal.numbers, source.numbers)
        moved = np.linalg.norm(crystal.positions - source.positions, axis=1)
        assert 0 < moved.max() < 1.5


def test_elements_may_be_combined_in_any_way():
    elements = {3, 11, 35, 53}
    found = list(tried(SOURCES, 60, seed=3, elements=elements, settings=only("strained")))
    systems = {frozenset(c.crystal.numbers.tolist()) for c in found}
    assert systems - SYSTEMS
    assert set().union(*systems) <= elements
    assert 53 in set().union(*systems), "of no source, so that its volume is that of its radius"


def test_volumes_of_atoms_add_up_to_those_of_crystals():
    volumes = atomic_volumes(SOURCES)
    assert (volumes[[3, 11, 17, 8, 38]] > 0).all()
    assert volumes[26] == 0
    assert volumes[19] > volumes[3]
    for crystal in SOURCES:
        assert volumes[crystal.numbers].sum() == pytest.approx(crystal.volume, rel=0.12)


def test_what_cannot_be_made_is_refused():
    with pytest.raises(ValueError, match="no sources"):
        next(tried([], 1))
    with pytest.raises(ValueError, match="unknown kinds of candidates: melted"):
        next(tried(SOURCES, 1, settings=only("melted")))
    for share in (0.0, -1.0):
        with pytest.raises(ValueError, match="must be positive or zero, and one of them positive"):
            next(tried(SOURCES, 1, settings=CandidateSettings(shares={"slab": share})))
    with pytest.raises(ValueError, match="give one of them"):
        next(tried(SOURCES, 1, systems=SYSTEMS, elements=[3]))
    with pytest.raises(ValueError, match="systems holds no chemical system"):
        next(tried(SOURCES, 1, systems=[]))
    for name, value in (("rattle", np.inf), ("strain", np.nan), ("vacuum", -1.0)):
        with pytest.raises(ValueError, match=f"{name}={value} must be a finite number"):
            CandidateSettings(**{name: value})
    with pytest.raises(ValueError, match="elements from 1 to 94"):
        next(tried([Crystal.of(Atoms("Cm", cell=[3] * 3, pbc=True))], 1))


def test_nothing_is_made_where_no_system_fits():
    assert not list(tried(SOURCES, 3, systems={frozenset((26, 27, 28, 29, 30, 31))}))
