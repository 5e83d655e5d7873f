"""The two-dimensional pairs: prototypes, relaxation in the plane, what is kept, the split, and the shipped file."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from itertools import islice
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from ase import Atoms
from ase.build import fcc111, graphene, mx2
from ase.calculators.emt import EMT
from ase.data import covalent_radii
from ase.formula import Formula
from ase.neighborlist import neighbor_list
from hypothesis import given
from hypothesis import strategies as st

from deeprelax_ase.calculators import M3GNET_POTENTIAL, M3GNET_VARIABLE, get_calculator
from deeprelax_ase.data import load_pairs

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PAIRS = BENCHMARKS / "data" / "monolayers.npz"


def benchmark(name: str) -> ModuleType:
    """A module of the benchmarks, which are scripts beside one another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        return import_module(name)


prototypes, relaxing, checks, monolayers = (
    benchmark(name) for name in ("monolayer_prototypes", "monolayer_relaxing", "monolayer_checks", "monolayers")
)
ALL = prototypes.read_prototypes()
SOURCES = {
    name: entry["source"]
    for name, entry in tomllib.loads(prototypes.FILE.read_text(encoding="utf-8"))["prototypes"].items()
}


def real(prototype) -> Atoms:
    return prototypes.built(prototype, prototype.elements)


def layer(atoms: Atoms, height: float = 20.0) -> Atoms:
    """``atoms`` in the middle of a cell of that height."""
    placed = atoms.copy()
    placed.set_cell(np.vstack([atoms.cell.array[:2], [0.0, 0.0, height]]))
    placed.positions[:, 2] += height / 2 - placed.positions[:, 2].mean()
    placed.pbc = True
    return placed


def under_emt(batch: list[Atoms]) -> list[dict]:
    found = []
    for atoms in batch:
        copy = atoms.copy()
        copy.calc = EMT()
        found.append({"energy": copy.get_potential_energy(), "forces": copy.get_forces(), "stress": copy.get_stress()})
    return found


@pytest.fixture(scope="module")
def m3gnet(needs_dgl, shared: Path):
    """M3GNet for many crystals; skips the test where it is absent."""
    folder = Path(os.environ.get(M3GNET_VARIABLE) or shared / "models" / M3GNET_POTENTIAL)
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    return relaxing.BatchedM3GNet(get_calculator(f"m3gnet:{folder}").potential)


class TestPrototypes:
    def test_enough_of_them(self):
        assert len(ALL) >= 20
        assert len({prototype.name for prototype in ALL}) == len(ALL)

    @pytest.mark.parametrize("prototype", ALL, ids=lambda one: one.name)
    def test_real_compound_is_a_sane_monolayer(self, prototype):
        atoms = real(prototype)
        assert checks.is_one_layer(atoms)
        pairs = neighbor_list("ijd", atoms, 6.0)
        bonds = pairs[2] / covalent_radii[atoms.numbers[np.array(pairs[:2])]].sum(axis=0)
        nearest = [bonds[pairs[0] == k].min() for k in range(len(atoms))]
        assert min(nearest) > 0.75  # Mo=O of MoO3
        assert max(nearest) < checks.BONDED

    @pytest.mark.parametrize("prototype", ALL, ids=lambda one: one.name)
    def test_stoichiometry_is_that_of_the_source(self, prototype):
        said = Formula(SOURCES[prototype.name].split(",")[0]).reduce()[0].count()
        assert real(prototype).symbols.formula.reduce()[0].count() == said

    @given(number=st.integers(0, len(ALL) - 1), seed=st.integers(0, 2**32 - 1))
    def test_elements_put_in(self, number, seed):
        prototype, generator = ALL[number], np.random.default_rng(seed)
        compositions = prototype.compositions()
        elements = compositions[generator.integers(len(compositions))]
        atoms = prototypes.unrelaxed(prototype, elements, np.random.default_rng(seed))
        cell = atoms.cell.array
        assert (cell[:2, 2] == 0).all()
        assert (cell[2, :2] == 0).all()
        heights = atoms.positions[:, 2]
        assert cell[2, 2] - np.ptp(heights) > 15.0
        assert heights.min() > 5.0
        counts = Formula(prototype.formula(elements)).count()
        assert atoms.symbols.formula.reduce()[0].count() == counts
        again = prototypes.unrelaxed(prototype, elements, np.random.default_rng(seed))
        assert (again.positions == atoms.positions).all()

    def test_lattice_is_kept_or_scaled_by_radii(self):
        prototype = next(one for one in ALL if one.name == "1T-CdI2")
        sizes = {prototypes.unrelaxed(prototype, ("Mg", "I"), np.random.default_rng(k)).cell[0, 0] for k in range(80)}
        fractional = (
            4.24 * (covalent_radii[12] + 2 * covalent_radii[53]) / (covalent_radii[48] + 2 * covalent_radii[53])
        )
        assert 4.24 in sizes
        assert any(size == pytest.approx(fractional, rel=1e-12) for size in sizes)
        assert len(sizes) > 10  # the strained ones

    def test_each_formula_once_in_a_family(self):
        found = list(prototypes.choices(ALL, np.random.default_rng(1)))
        names = [(ALL[k].family, ALL[k].formula(elements)) for k, elements in found]
        assert len(set(names)) == len(names) > 4000
        assert {k for k, _ in found[: len(ALL)]} == set(range(len(ALL)))
        assert found[:100] == list(islice(prototypes.choices(ALL, np.random.default_rng(1)), 100))
        other = prototypes.choices(ALL, np.random.default_rng(2))
        assert found[:100] != list(islice(other, 100))

    def test_rule_of_another_length(self, tmp_path):
        file = tmp_path / "prototypes.toml"
        text = prototypes.FILE.read_text(encoding="utf-8")
        file.write_text(text.replace('"metal4 chalcogens halogen"]\nsource = "VOCl2', '"metal4"]\nsource = "VOCl2'))
        with pytest.raises(ValueError, match="VOCl2 has the roles"):
            prototypes.read_prototypes(file)


class TestRelaxing:
    def test_one_layer_of_copper_under_emt(self):
        """A hexagonal layer has one degree of freedom: the minimum of its energy over the lattice constant."""
        start = layer(fcc111("Cu", (1, 1, 1), a=3.9))
        [(index, run)] = relaxing.relax_in_plane([start], under_emt, fmax=1e-4)
        constants = np.linspace(2.3, 2.6, 31)
        energies = [
            under_emt([layer(fcc111("Cu", (1, 1, 1), a=constant * np.sqrt(2)))])[0]["energy"] for constant in constants
        ]
        best = np.polynomial.Polynomial.fit(constants, energies, 8).deriv().roots()
        best = best[abs(best.imag) < 1e-9].real
        a, b = run.atoms.cell.lengths()[:2]
        assert index == 0
        assert run.converged
        assert abs(best - a).min() < 1e-3
        assert a == pytest.approx(b, abs=1e-9)
        assert run.energies[1] < run.energies[0]

    def test_c_stays_and_the_cell_does_not_turn(self):
        start = layer(fcc111("Au", (2, 1, 2), a=4.2, orthogonal=False))
        start.rattle(0.1, seed=4)
        before = start.copy()
        [(_, run)] = relaxing.relax_in_plane([start], under_emt)
        assert (start.positions == before.positions).all()
        assert (start.cell.array == before.cell.array).all()
        assert abs(run.atoms.cell.array[2] - start.cell.array[2]).max() < 1e-12
        assert abs(run.atoms.cell.array[:2, 2]).max() < 1e-12
        gradient = np.linalg.solve(start.cell.array, run.atoms.cell.array)
        assert abs(gradient - gradient.T).max() < 1e-4
        assert abs(gradient - np.eye(3)).max() > 0.01

    def test_each_relaxes_as_if_alone(self):
        starts = [layer(fcc111(metal, (1, 1, n))) for metal, n in (("Cu", 1), ("Ag", 2), ("Au", 1), ("Pt", 2))]
        together = dict(relaxing.relax_in_plane(starts, under_emt, together=3))
        for index, start in enumerate(starts):
            [(_, alone)] = relaxing.relax_in_plane([start], under_emt)
            assert abs(alone.atoms.positions - together[index].atoms.positions).max() < 1e-12
            assert alone.steps == together[index].steps

    def test_those_that_end_unconverged(self):
        far = layer(fcc111("Cu", (1, 1, 2), a=3.4))
        options = {"fmax": 1e-9, "max_steps": 4}
        assert [run.steps for _, run in relaxing.relax_in_plane([far], under_emt, **options)] == [4]
        gone = relaxing.relax_in_plane([far], under_emt, hopeless=lambda index, atoms: True)
        assert [(run.steps, run.converged) for _, run in gone] == [(1, False)]
        steep = relaxing.relax_in_plane([far], under_emt, largest=1e-3)
        assert [(run.steps, run.converged) for _, run in steep] == [(1, False)]

    def test_one_that_fails_spoils_no_other(self):
        def fails_for_silver(batch: list[Atoms]) -> list[dict]:
            if any("Ag" in atoms.symbols for atoms in batch):
                raise RuntimeError("overlap")
            return under_emt(batch)

        starts = [layer(fcc111(metal, (1, 1, 1))) for metal in ("Cu", "Ag", "Au")]
        runs = dict(relaxing.relax_in_plane(starts, fails_for_silver))
        assert [runs[k].converged for k in range(3)] == [True, False, True]

    def test_m3gnet_against_matgls_calculator(self, m3gnet, shared):
        """MatGL's own derivatives, in GPa, and ASE's units; the two take them in different ways."""
        folder = os.environ.get(M3GNET_VARIABLE) or shared / "models" / M3GNET_POTENTIAL
        calculator = get_calculator(f"m3gnet:{folder}")
        batch = [real(prototype) for prototype in ALL if prototype.name in ("2H-MoSSe", "SnS", "1T'-WTe2")]
        for k, (atoms, found) in enumerate(zip(batch, m3gnet(batch), strict=True)):
            atoms.rattle(0.05, seed=k)
            [found] = m3gnet([atoms])
            atoms.calc = calculator
            assert found["energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
            assert found["forces"] == pytest.approx(atoms.get_forces(), abs=2e-4)
            assert found["stress"] == pytest.approx(atoms.get_stress(), abs=2e-6)
            assert abs(found["stress"][:2]).max() > 2e-4

    def test_m3gnet_relaxes_a_strained_monolayer(self, m3gnet):
        ends = []
        for size in (3.1, 3.3):
            start = layer(mx2("MoS2", "2H", a=size, thickness=3.2))
            start.rattle(0.03, seed=1)
            [(_, run)] = relaxing.relax_in_plane([start], m3gnet, fmax=0.005)
            assert run.converged
            assert abs(run.atoms.cell.array[2] - start.cell.array[2]).max() < 1e-12
            assert checks.decision(start, run) == ""
            ends.append(run.atoms.cell.lengths()[:2])
        assert np.ptp(ends) < 0.01  # one minimum from both sides, and a = b
        assert np.mean(ends) == pytest.approx(3.18, abs=0.05)  # PBE's, F. A. Rasmussen and K. S. Thygesen (2015)


class TestKept:
    def run(self, atoms: Atoms, converged: bool = True):
        return relaxing.Relaxed(atoms, converged, (0.0, 0.0), 1)

    def changed(self, atoms: Atoms, *, scale: float = 1.0, **moves: tuple[int, np.ndarray]) -> Atoms:
        new = atoms.copy()
        cell = atoms.cell.array.copy()
        cell[:2] *= scale
        new.set_cell(cell, scale_atoms=True)
        for index, vector in moves.values():
            new.positions[index] += vector
        return new

    def test_reasons(self):
        start = layer(mx2("MoS2"))
        up = np.array([0.0, 0.0, 1.0])
        double = start.repeat((2, 1, 1))
        assert checks.decision(start, self.run(start)) == ""
        assert checks.decision(start, self.run(self.changed(start, scale=1.03))) == ""
        assert checks.decision(start, self.run(start, converged=False)) == "not converged"
        assert checks.decision(start, self.run(self.changed(start, scale=0.7))) == "area"
        assert checks.decision(start, self.run(self.changed(start, one=(1, 2.5 * up)))) == "thickness"
        assert checks.decision(start, self.run(self.changed(start, one=(1, 1.7 * up), two=(2, -0.2 * up)))) in (
            "vacuum",
            "fell apart",
        )
        nearer = (start.positions[0] - start.positions[1]) * 0.5
        assert checks.decision(double, self.run(self.changed(double, one=(1, nearer)))) == "overlap"
        around = double.cell.array[0] * 0.9
        assert checks.decision(double, self.run(self.changed(double, one=(1, around)))) == "displacement"

    def test_layers_chains_and_molecules(self):
        assert checks.is_one_layer(layer(graphene("C2", vacuum=5.0)))
        stretched = layer(graphene("C2", vacuum=5.0))
        stretched.set_cell(stretched.cell.array * [[1], [1.6], [1]], scale_atoms=False)
        assert not checks.is_one_layer(stretched)
        two = layer(graphene("C2", vacuum=5.0))
        second = two.copy()
        second.positions[:, 2] += 3.3
        assert not checks.is_one_layer(two + second)

    def test_drift_is_no_displacement(self):
        start = layer(mx2("MoS2"))
        drifted = self.changed(start, one=(slice(None), [0.3, -0.2, 0.4]))
        assert abs(checks.displacements(start, drifted)).max() < 1e-12
        moved = checks.displacements(start, self.changed(start, one=(0, [0.3, 0.0, 0.0])))
        assert abs(moved.sum(axis=0)).max() < 1e-12
        assert np.linalg.norm(moved[0] @ start.cell.array) == pytest.approx(0.2)


class TestUnturned:
    @given(angle=st.floats(-1.0, 1.0), strain=st.lists(st.floats(-0.3, 0.3), min_size=3, max_size=3))
    def test_only_the_stretch_is_left(self, angle, strain):
        old = np.array([[3.0, 0.0, 0.0], [-1.2, 2.8, 0.0], [0.0, 0.0, 20.0]])
        xx, yy, xy = strain
        stretch = np.array([[1 + xx, xy, 0.0], [xy, 1 + yy, 0.0], [0.0, 0.0, 1.0]])
        cosine, sine = np.cos(angle), np.sin(angle)
        turned = old @ stretch @ np.array([[cosine, sine, 0.0], [-sine, cosine, 0.0], [0.0, 0.0, 1.0]])
        [found] = monolayers.unturned(old[None], turned[None])
        assert abs(found - old @ stretch).max() < 1e-12
        assert (found[2] == old[2]).all()


class TestSplit:
    @given(groups=st.lists(st.integers(0, 60), min_size=1, max_size=300), seed=st.integers(0, 2**32 - 1))
    def test_groups_stay_together(self, groups, seed):
        groups = np.unique(groups, return_inverse=True)[1]
        split = monolayers.split_of(groups, np.random.default_rng(seed))
        assert all(len(set(split[groups == group])) == 1 for group in set(groups))
        ends = np.bincount(split, minlength=3).cumsum() / len(groups)
        assert abs(ends - np.cumsum(monolayers.SHARES)).max() <= np.bincount(groups).max() / len(groups) + 1e-9

    def test_same_crystal_from_two_prototypes(self):
        boron_nitride = [5, 7]
        pairs = {
            "numbers": np.array(boron_nitride * 5 + [6, 6], dtype=np.uint8),
            "counts": np.array([2, 2, 4, 2, 2]),
            "cell_relaxed": np.stack([np.diag([2.0, c, 20.0]) for c in (3.0, 3.01, 6.01, 3.3, 3.0)]),
            "energy_relaxed": np.array([-8.0, -8.001, -8.0005, -8.0, -8.0]),
        }
        groups = monolayers.same_crystals(pairs)
        assert groups[0] == groups[1] == groups[2]
        assert len({groups[0], groups[3], groups[4]}) == 3


class TestMaking:
    def test_goes_on_from_the_cache(self, tmp_path, monkeypatch):
        """Elements that EMT knows; the second run computes nothing, and gives the same pairs."""
        names, rules = ("CuTe", "1T-CdI2"), ((("Cu", "Ag"), ("Pd", "Pt")),)
        metals = tuple(replace(one, rules=rules, elements=("Cu", "Ni")) for one in ALL if one.name in names)
        monkeypatch.setattr(monolayers, "read_prototypes", lambda: metals)
        monkeypatch.setattr(monolayers, "CHUNK", 5)
        first, reasons = monolayers.make_pairs(100, 3, under_emt, tmp_path)
        assert len(first["counts"]) > 3
        assert sum(reasons.values()) > len(first["counts"])
        second, _ = monolayers.make_pairs(100, 3, lambda batch: pytest.fail("computed again"), tmp_path)
        assert all((first[name] == second[name]).all() for name in first)
        assert (first["cell_initial"][:, 2] == first["cell_relaxed"][:, 2]).all()

        cut = monolayers.first_pairs(first, 3)
        monolayers.write_pairs(tmp_path / "pairs.npz", cut, np.array([0, 1, 2], dtype=np.uint8), ["a", "b"])
        for labels in ("relaxed", "m3gnet"):
            pairs = load_pairs(tmp_path / "pairs.npz", labels=labels)
            assert len(pairs) == 3
            assert pairs.numbers.tolist() == cut["numbers"].tolist()
            assert pairs.fractional_relaxed.numpy() == pytest.approx(cut["frac_relaxed"], abs=1e-6)


@pytest.fixture(scope="module")
def shipped_pairs() -> dict[str, np.ndarray]:
    with np.load(PAIRS, allow_pickle=False) as arrays:
        return dict(arrays)


class TestShipped:
    def atoms(self, pairs: dict[str, np.ndarray], which: str) -> Iterator[Atoms]:
        for k, (first, last) in enumerate(zip(pairs["offsets"], pairs["offsets"][1:], strict=False)):
            cell = pairs[f"cell_{which}"][k].astype(float)
            fractional = pairs[f"frac_{which}"][first:last].astype(float)
            yield Atoms(pairs["numbers"][first:last], cell=cell, scaled_positions=fractional, pbc=True)

    def test_size_and_split(self, shipped_pairs):
        pairs = load_pairs(PAIRS)
        assert len(pairs) >= 3000
        assert PAIRS.stat().st_size < 3e6
        shares = np.bincount(shipped_pairs["split"]) / len(pairs)
        assert shares == pytest.approx(monolayers.SHARES, abs=0.005)
        assert not pairs.dft.any()
        assert len(load_pairs(PAIRS, labels="m3gnet")) == len(pairs)
        assert len(set(shipped_pairs["prototype"].tolist())) >= 20

    def test_one_pair_of_each_formula_and_prototype(self, shipped_pairs):
        pairs = shipped_pairs
        names = [
            (ALL[kind].family, atoms.symbols.formula.reduce()[0].format("hill"))
            for kind, atoms in zip(pairs["prototype"], self.atoms(pairs, "initial"), strict=True)
        ]
        assert len(set(names)) == len(names)
        assert pairs["prototype_names"].tolist() == [prototype.name for prototype in ALL]

    def test_the_same_crystal_is_on_one_side_of_the_split(self, shipped_pairs):
        arrays = {**shipped_pairs, "counts": np.diff(shipped_pairs["offsets"])}
        # float32: what lies at the very edge of the tolerance may be grouped otherwise
        arrays |= {name: arrays[name].astype(float) for name in ("energy_relaxed", "cell_relaxed")}
        groups = monolayers.same_crystals(arrays)
        torn = sum(len(set(arrays["split"][groups == group])) > 1 for group in np.flatnonzero(np.bincount(groups) > 1))
        assert torn <= 2

    def test_monolayers_with_c_and_vacuum_kept(self, shipped_pairs):
        pairs = shipped_pairs
        cells = np.stack([pairs["cell_initial"], pairs["cell_relaxed"]]).astype(float)
        assert (cells[0, :, 2] == cells[1, :, 2]).all()
        assert (cells[..., :2, 2] == 0).all()
        assert (cells[..., 2, :2] == 0).all()
        for which in ("initial", "relaxed"):
            heights = pairs[f"frac_{which}"][:, 2].astype(float)
            first = pairs["offsets"][:-1]
            thickness = np.maximum.reduceat(heights, first) - np.minimum.reduceat(heights, first)
            assert ((1 - thickness) * cells[0, :, 2, 2]).min() > 15 - 1e-4
        deformation = np.linalg.solve(cells[0], cells[1])
        assert abs(deformation - deformation.transpose(0, 2, 1)).max() < 1e-6  # none turned
        area = np.log(np.linalg.det(cells[1]) / np.linalg.det(cells[0]))
        assert abs(area).max() < 0.6

    def test_displacements(self, shipped_pairs):
        pairs = shipped_pairs
        owner = np.repeat(np.arange(len(pairs["split"])), np.diff(pairs["offsets"]))
        change = (pairs["frac_relaxed"] - pairs["frac_initial"]).astype(float)
        first = pairs["offsets"][:-1]
        counts = np.diff(pairs["offsets"])
        assert abs(np.add.reduceat(change, first) / counts[:, None]).max() < 1e-6
        assert abs(change).max() < 0.5
        lengths = np.linalg.norm(np.einsum("ni,nij->nj", change, pairs["cell_relaxed"][owner]), axis=1)
        means = np.add.reduceat(lengths, first) / counts
        assert means.max() < 1.5
        assert np.median(means) > 0.05  # there is something to learn
        assert (pairs["energy_relaxed"] <= pairs["energy_initial"] + 2e-3).mean() > 0.999

    def test_a_sample_is_at_m3gnets_minimum(self, shipped_pairs, m3gnet):
        sample = list(self.atoms(shipped_pairs, "relaxed"))[:: len(shipped_pairs["split"]) // 20]
        steepest = [relaxing.steepest(atoms, found) for atoms, found in zip(sample, m3gnet(sample), strict=True)]
        assert max(steepest) < 0.055  # stored in float32
